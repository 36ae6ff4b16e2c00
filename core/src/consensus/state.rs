//! What an acceptor keeps of one timeline.

use crate::consensus::change::{Change, Create};
use crate::consensus::membership::Membership;
use crate::consensus::postgres_history::PostgresHistory;
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::types::{Lsn, PostgresVersion, SystemId, Term};

/// One timeline's state, as the effect of its changes in order. Two copies live on a node: the acceptor's, which runs
/// ahead of the disk, and the journal's, which holds only what is durable and goes into snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TimelineState {
    /// The acceptors of this timeline, as far as this one knows.
    pub membership: Membership,
    /// 0 = unknown.
    pub postgres_version: PostgresVersion,
    /// 0 = unknown.
    pub system_id: SystemId,
    /// Bytes in a WAL segment.
    pub segment_size_bytes: u32,
    /// Highest term voted for or learned; never decreases.
    pub term: Term,
    /// Terms of the log; may reach past the local log.
    pub term_history: TermHistory,
    /// Where the timeline begins globally.
    pub timeline_start_lsn: Lsn,
    /// Since where this node had WAL.
    pub local_start_lsn: Lsn,
    /// End of the WAL bytes: the next append begins here. Invalid = any begin.
    pub write_lsn: Lsn,
    /// End of the last complete record in the log, `<= write_lsn`. Behind an XLOG_SWITCH that is the next segment's start,
    /// once the bytes up to it have come.
    pub record_end_lsn: Lsn,
    /// Committed by a quorum and locally there; a record boundary, `<= record_end_lsn`, never decreases.
    pub commit_lsn: Lsn,
    /// Every member has WAL up to here; never decreases.
    pub peer_horizon_lsn: Lsn,
    /// Which Postgres timeline wrote which part of the log: names of WAL segments follow from it.
    pub postgres_history: PostgresHistory,
}

impl TimelineState {
    /// The state right after the timeline's creation.
    pub fn create(create: &Create) -> TimelineState {
        let start = create.start_lsn;
        let history = if create.commit_lsn.is_valid() {
            vec![TermStart { term: Term(0), lsn: start }]
        } else {
            Vec::new()
        };
        TimelineState {
            membership: create.membership.clone(),
            postgres_version: create.postgres_version,
            system_id: create.system_id,
            segment_size_bytes: create.segment_size_bytes,
            term: Term(0),
            term_history: TermHistory(history),
            timeline_start_lsn: start,
            local_start_lsn: start,
            write_lsn: start,
            record_end_lsn: start,
            commit_lsn: create.commit_lsn,
            peer_horizon_lsn: start,
            postgres_history: PostgresHistory::default(),
        }
    }

    /// Applies one change. Panics when the change breaks an invariant: the acceptor checks input before it makes a
    /// change, and a journal that passed its CRCs holds only such changes. `Create` and `Delete` are the map's
    /// business, not the state's.
    pub fn apply(&mut self, change: &Change<'_>) {
        match change {
            Change::Create(_) | Change::Delete => {
                panic!("create and delete change the map of timelines")
            }
            Change::Vote { term } => {
                assert!(*term > self.term, "vote for term {term} after term {}", self.term);
                self.term = *term;
            }
            Change::Term { term } => {
                assert!(*term > self.term, "learned term {term} after term {}", self.term);
                self.term = *term;
            }
            Change::Elected { term, history, truncate_to } => {
                self.apply_elected(*term, history, *truncate_to)
            }
            Change::Append { term, begin, end, commit_lsn, record_end, wal } => {
                assert_eq!(*term, self.term, "append of another term");
                assert!(
                    begin == &self.write_lsn || !self.write_lsn.is_valid(),
                    "append leaves a gap"
                );
                assert_eq!(*end - *begin, wal.len() as u64, "append of another length");
                assert!(*record_end >= self.record_end_lsn && *record_end <= *end);
                assert!(*commit_lsn <= *record_end, "commit LSN past the last record's end");
                assert!(*commit_lsn >= self.commit_lsn);
                self.write_lsn = *end;
                self.record_end_lsn = *record_end;
                self.commit_lsn = *commit_lsn;
            }
            Change::Position { commit_lsn, peer_horizon_lsn } => {
                assert!(*commit_lsn >= self.commit_lsn && *commit_lsn <= self.record_end_lsn);
                assert!(*peer_horizon_lsn >= self.peer_horizon_lsn);
                self.commit_lsn = *commit_lsn;
                self.peer_horizon_lsn = *peer_horizon_lsn;
            }
            Change::Membership(membership) => {
                assert!(membership.generation > self.membership.generation, "membership goes back");
                self.membership = membership.clone();
            }
            Change::Cluster { postgres_version, system_id } => {
                self.postgres_version = *postgres_version;
                self.system_id = *system_id;
            }
            Change::PostgresHistory(history) => self.postgres_history = history.clone(),
        }
    }

    fn apply_elected(&mut self, term: Term, history: &TermHistory, truncate_to: Lsn) {
        assert!(term >= self.term, "elected in term {term} after term {}", self.term);
        assert!(
            truncate_to >= self.commit_lsn,
            "cut at {truncate_to} below commit {}",
            self.commit_lsn
        );
        assert!(
            truncate_to <= self.write_lsn || !self.write_lsn.is_valid(),
            "cut at {truncate_to} past the end of the log {}",
            self.write_lsn
        );
        let start = history.0.first().expect("an elected proposer has a history").lsn;
        self.term = term;
        self.term_history = history.clone();
        if !self.timeline_start_lsn.is_valid() {
            self.timeline_start_lsn = start;
        }
        if !self.peer_horizon_lsn.is_valid() {
            self.peer_horizon_lsn = self.timeline_start_lsn;
        }
        if !self.local_start_lsn.is_valid() {
            self.local_start_lsn = truncate_to;
        }
        self.commit_lsn = self.commit_lsn.max(self.timeline_start_lsn);
        self.write_lsn = truncate_to;
        self.record_end_lsn = truncate_to;
    }
}
