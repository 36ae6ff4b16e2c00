//! What proposer and acceptor tell each other, independent of the protocol's version.

use crate::consensus::membership::Membership;
use crate::consensus::term_history::TermHistory;
use crate::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use crate::wire::walproposer::feedback::{HotStandbyFeedback, PageserverFeedback};

/// A message from a proposer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerMessage<'a> {
    /// The first message of a connection.
    Greeting(ProposerGreeting),
    /// Asks for a vote.
    VoteRequest(VoteRequest),
    /// Tells that the proposer won its term, and where streaming starts. Not answered.
    Elected(ProposerElected),
    /// WAL, or nothing but positions.
    Append(AppendRequest<'a>),
}

/// A message from an acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorMessage {
    /// Answers a greeting.
    Greeting(AcceptorGreeting),
    /// Answers a vote request.
    VoteResponse(VoteResponse),
    /// Answers one or more appends.
    AppendResponse(AppendResponse),
}

/// Who the proposer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerGreeting {
    /// Whose WAL it proposes.
    pub key: TimelineKey,
    /// The membership it knows; generation 0 when it knows none.
    pub membership: Membership,
    /// The cluster's Postgres version.
    pub postgres_version: PostgresVersion,
    /// The cluster's number; 0 from a proposer without a cluster (recovery, fence).
    pub system_id: SystemId,
    /// Bytes in a WAL segment of the cluster.
    pub segment_size_bytes: u32,
}

/// Who the acceptor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorGreeting {
    /// Its node id, never 0.
    pub node_id: NodeId,
    /// The membership it knows.
    pub membership: Membership,
    /// Highest term it voted for or learned.
    pub term: Term,
}

/// Asks for a vote in `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRequest {
    /// The proposer's membership generation.
    pub generation: Generation,
    /// The term it stands for.
    pub term: Term,
}

/// Grants or refuses a vote. A refusal is filled in as completely as a grant: a proposer that reconnects within its term
/// computes the elected message from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteResponse {
    /// The acceptor's membership generation.
    pub generation: Generation,
    /// The acceptor's term after the request.
    pub term: Term,
    /// Whether the vote was given.
    pub vote_given: bool,
    /// End of the last complete record that is durable here.
    pub flush_lsn: Lsn,
    /// Every member has WAL up to here.
    pub truncate_lsn: Lsn,
    /// The terms of the log up to `flush_lsn`.
    pub term_history: TermHistory,
}

/// The proposer of `term` was elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerElected {
    /// The proposer's membership generation.
    pub generation: Generation,
    /// Its term.
    pub term: Term,
    /// Position of the first byte it will append here.
    pub start_streaming_at: Lsn,
    /// Its whole history; the last entry is its own term.
    pub term_history: TermHistory,
}

/// WAL bytes, or none (heartbeat, announcement of a commit LSN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendRequest<'a> {
    /// The proposer's membership generation.
    pub generation: Generation,
    /// Its term.
    pub term: Term,
    /// Position of the first byte.
    pub begin_lsn: Lsn,
    /// What a quorum is known to have; 0 = unknown yet.
    pub commit_lsn: Lsn,
    /// Every member has WAL up to here.
    pub truncate_lsn: Lsn,
    /// The bytes; at most [`super::APPEND_BYTES_MAX`]. `begin_lsn` plus their number stays below 2^64.
    pub wal: &'a [u8],
}

impl AppendRequest<'_> {
    /// Position after the last byte.
    pub fn end_lsn(&self) -> Lsn {
        self.begin_lsn + self.wal.len() as u64
    }
}

/// What the acceptor has. All positions are 0 when it only tells a stale proposer of a higher term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendResponse {
    /// The acceptor's membership generation.
    pub generation: Generation,
    /// The acceptor's term.
    pub term: Term,
    /// End of the last complete record that is durable here.
    pub flush_lsn: Lsn,
    /// The durable commit LSN.
    pub commit_lsn: Lsn,
    /// Combined over this node's hot standbys.
    pub hot_standby: HotStandbyFeedback,
    /// Of a page store, when there is something new.
    pub pageserver: Option<PageserverFeedback>,
}
