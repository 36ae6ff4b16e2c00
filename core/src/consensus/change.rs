//! What an acceptor makes durable: the changes that the journal carries and recovery replays.

use crate::consensus::membership::Membership;
use crate::consensus::postgres_history::PostgresHistory;
use crate::consensus::term_history::TermHistory;
use crate::types::{Lsn, PostgresVersion, SystemId, Term};

/// One durable change of one timeline. `TimelineState::apply` is the only definition of its effect, live and in
/// recovery alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// The timeline begins to exist on this node.
    Create(Create),
    /// The timeline stops to exist on this node; its generation stays behind so that an older create is refused.
    Delete,
    /// The acceptor voted for `term`: it will never vote for a lower or equal one again.
    Vote {
        /// The term voted for.
        term: Term,
    },
    /// The acceptor learned of a higher term without voting (elected message, term bump).
    Term {
        /// The term.
        term: Term,
    },
    /// A proposer was elected: the log is cut at `truncate_to` and goes on under `history`.
    Elected {
        /// The proposer's term.
        term: Term,
        /// The proposer's whole history; may reach past the local log.
        history: TermHistory,
        /// Where streaming starts; everything at and past it is cut off. Never past the end of the log.
        truncate_to: Lsn,
    },
    /// WAL bytes `[begin, end)`, written right behind the last ones.
    Append {
        /// The proposer's term.
        term: Term,
        /// Position of the first byte.
        begin: Lsn,
        /// Position after the last byte.
        end: Lsn,
        /// The acceptor's commit LSN after this append.
        commit_lsn: Lsn,
        /// End of the last complete record, at or below `end`.
        record_end: Lsn,
        /// The bytes; exactly `end - begin` of them.
        wal: &'a [u8],
    },
    /// Committed and horizon positions moved without WAL.
    Position {
        /// Committed by a quorum and locally flushed.
        commit_lsn: Lsn,
        /// Every member has WAL up to here.
        peer_horizon_lsn: Lsn,
    },
    /// A membership of a higher generation.
    Membership(Membership),
    /// What the first greeting told about the cluster that writes this timeline.
    Cluster {
        /// Postgres' version.
        postgres_version: PostgresVersion,
        /// The cluster's number.
        system_id: SystemId,
    },
    /// Which Postgres timeline wrote which part of the log, after a switch that the relay followed.
    PostgresHistory(PostgresHistory),
}

/// How a timeline begins on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Generation 0: created on push by a Neon compute.
    pub membership: Membership,
    /// 0 until a greeting tells.
    pub postgres_version: PostgresVersion,
    /// 0 until a greeting tells.
    pub system_id: SystemId,
    /// Bytes in a WAL segment: a power of two from 1 MiB to 1 GiB.
    pub segment_size_bytes: u32,
    /// Where the timeline begins globally; invalid until the first proposer says so.
    pub start_lsn: Lsn,
    /// Committed when it was created.
    pub commit_lsn: Lsn,
}
