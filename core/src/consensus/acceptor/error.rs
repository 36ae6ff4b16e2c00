//! Why an acceptor refuses a message. Every refusal ends the connection and leaves the acceptor's state as it was.

use thiserror::Error;

use crate::consensus::membership::MembershipError;
use crate::consensus::postgres_history::PostgresHistoryError;
use crate::consensus::term_history::TermHistoryError;
use crate::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};

/// A refused message or management request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AcceptorError {
    /// Acknowledged changes may be lost here.
    #[error(
        "timeline {key} may have lost acknowledged data on this node: it is being re-seeded from its other members"
    )]
    Suspect {
        /// The timeline.
        key: TimelineKey,
    },
    /// A majority of the others promised less than this acceptor has promised itself.
    #[error("cannot re-seed from term {floor}: this node is in term {current}")]
    SeedTerm {
        /// The term that the others promised.
        floor: Term,
        /// The own term.
        current: Term,
    },
    /// A greeting for another timeline than the connection's.
    #[error("greeting names timeline {found}, expected {expected}")]
    Key {
        /// The connection's.
        expected: TimelineKey,
        /// The greeting's.
        found: TimelineKey,
    },
    /// Another major version wrote this timeline's WAL.
    #[error("incompatible Postgres version {}, expected major version {}", found.0, expected.major())]
    PostgresVersion {
        /// The timeline's.
        expected: PostgresVersion,
        /// The greeting's.
        found: PostgresVersion,
    },
    /// The WAL of this timeline has segments of another size.
    #[error("WAL segment size is {found} bytes, expected {expected}")]
    SegmentSize {
        /// The timeline's.
        expected: u32,
        /// The greeting's.
        found: u32,
    },
    /// A segment size that no cluster has.
    #[error("WAL segment size is {found} bytes, expected a power of two from 1 MiB to 1 GiB")]
    ImpossibleSegmentSize {
        /// The greeting's.
        found: u32,
    },
    /// WAL of another cluster is here.
    #[error("system id is {found}, but this timeline holds WAL of cluster {expected}")]
    SystemId {
        /// The timeline's.
        expected: SystemId,
        /// The greeting's.
        found: SystemId,
    },
    /// The timeline is not known and may not be created by a proposer.
    #[error("timeline {key} is not known here and creation by a proposer is not allowed")]
    Unknown {
        /// The timeline.
        key: TimelineKey,
    },
    /// A membership without this node.
    #[error("node {node_id} is not a member in generation {generation}")]
    NotMember {
        /// This node.
        node_id: NodeId,
        /// The membership's generation.
        generation: Generation,
    },
    /// A membership that is older than the one here.
    #[error("membership generation {found} is below {current}")]
    OldMembership {
        /// The one here.
        current: Generation,
        /// The one given.
        found: Generation,
    },
    /// Other members of the same generation: two changes began at once.
    #[error(
        "generation {generation} has other members here: another membership change is under way"
    )]
    OtherMembers {
        /// The generation.
        generation: Generation,
    },
    /// A membership that breaks its own rules.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A message of a proposer that knows another membership.
    #[error("refusing {message} of membership generation {found}, expected {expected}")]
    Generation {
        /// Which message.
        message: &'static str,
        /// The generation here.
        expected: Generation,
        /// The message's.
        found: Generation,
    },
    /// A history that cannot be one, or that contradicts the log here.
    #[error(transparent)]
    History(#[from] TermHistoryError),
    /// An elected proposer's history ends with another term.
    #[error("elected in term {term}, but the term history ends with term {last}")]
    HistoryEnd {
        /// The proposer's term.
        term: Term,
        /// The history's last.
        last: Term,
    },
    /// The proposer would start elsewhere than where the logs part: it knows an older state of this log.
    #[error("streaming would start at {found}, but the logs part at {expected}")]
    StartPosition {
        /// Where they part.
        expected: Lsn,
        /// Where the proposer would start.
        found: Lsn,
    },
    /// The proposer would cut off committed WAL.
    #[error("streaming would start at {start}, below the commit LSN {commit_lsn}")]
    CutsCommitted {
        /// Where the proposer would start.
        start: Lsn,
        /// What is committed here.
        commit_lsn: Lsn,
    },
    /// The proposer would start behind the end of the log, or before its beginning.
    #[error("streaming would start at {start}, outside of the log from {begin} to {end}")]
    OutsideOfLog {
        /// Where the proposer would start.
        start: Lsn,
        /// Where the timeline begins.
        begin: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// An append of a term whose elected message did not come (since this node started).
    #[error("append of term {term} before its elected message; the term here is {current}")]
    NotElected {
        /// The append's.
        term: Term,
        /// The one here.
        current: Term,
    },
    /// An append behind the end of the log.
    #[error("append at {begin} leaves a gap behind the end of the log at {write_lsn}")]
    Gap {
        /// Where the append begins.
        begin: Lsn,
        /// Where the log ends.
        write_lsn: Lsn,
    },
    /// An append before the end of the log.
    #[error("append at {begin} rewrites the log, which ends at {write_lsn}")]
    Rewrite {
        /// Where the append begins.
        begin: Lsn,
        /// Where the log ends.
        write_lsn: Lsn,
    },
    /// A Postgres timeline history that breaks its own rules.
    #[error(transparent)]
    PostgresHistory(#[from] PostgresHistoryError),
    /// A Postgres timeline switch below committed WAL.
    #[error(
        "postgres timeline history differs from the one here below the commit LSN {commit_lsn}"
    )]
    PostgresHistoryCommitted {
        /// What is committed here.
        commit_lsn: Lsn,
    },
    /// A request of a proposer that is not the one elected.
    #[error("request of term {found}, but the term here is {current}")]
    StaleTerm {
        /// The request's.
        found: Term,
        /// The one here.
        current: Term,
    },
}
