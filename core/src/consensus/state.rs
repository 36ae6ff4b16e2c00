//! What an acceptor keeps of one timeline.

use thiserror::Error;

use crate::consensus::change::{Change, Create};
use crate::consensus::membership::Membership;
use crate::consensus::postgres_history::PostgresHistory;
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::types::{Generation, Lsn, PostgresVersion, SystemId, Term};

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

/// A change that cannot follow what a timeline's state is: a broken program made it, not a broken disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Create and delete are no changes of a state.
    #[error("create and delete change the map of timelines")]
    Map,
    /// A vote for the past.
    #[error("vote for term {term} after term {known}")]
    Vote {
        /// Of the change.
        term: Term,
        /// Of the state.
        known: Term,
    },
    /// A term of the past.
    #[error("learned term {term} after term {known}")]
    Term {
        /// Of the change.
        term: Term,
        /// Of the state.
        known: Term,
    },
    /// An election in the past.
    #[error("elected in term {term} after term {known}")]
    Elected {
        /// Of the change.
        term: Term,
        /// Of the state.
        known: Term,
    },
    /// An election that cuts what is committed.
    #[error("cut at {truncate_to} below commit {commit_lsn}")]
    CutBelowCommit {
        /// Where it cuts.
        truncate_to: Lsn,
        /// What is committed.
        commit_lsn: Lsn,
    },
    /// An election that leaves a gap.
    #[error("cut at {truncate_to} past the end of the log {write_lsn}")]
    CutPastEnd {
        /// Where it cuts.
        truncate_to: Lsn,
        /// End of the log.
        write_lsn: Lsn,
    },
    /// An election without a history.
    #[error("elected in term {term} without a history")]
    NoHistory {
        /// The term.
        term: Term,
    },
    /// WAL of another term, or that leaves a gap, or whose positions do not fit.
    #[error(
        "append in term {term} of {wal_bytes} bytes from {begin} to {end}, record end {record_end}, commit {commit_lsn}, \
         does not follow (term, end, record end, commit) {known:?}"
    )]
    Append {
        /// Of the change.
        term: Term,
        /// Where its WAL begins.
        begin: Lsn,
        /// Where it ends.
        end: Lsn,
        /// Where its last record ends.
        record_end: Lsn,
        /// What is committed then.
        commit_lsn: Lsn,
        /// Length of its WAL.
        wal_bytes: usize,
        /// Term, end, record end and commit LSN of the state.
        known: Box<(Term, Lsn, Lsn, Lsn)>,
    },
    /// Positions that go back, or past the log.
    #[error("commit {commit_lsn} or peer horizon {peer_horizon_lsn} is out of place")]
    Position {
        /// What is committed.
        commit_lsn: Lsn,
        /// What all members have.
        peer_horizon_lsn: Lsn,
    },
    /// A membership that is not newer.
    #[error("membership of generation {found} after {known}")]
    Membership {
        /// Of the change.
        found: Generation,
        /// Of the state.
        known: Generation,
    },
}

fn check(holds: bool, error: impl FnOnce() -> ChangeError) -> Result<(), ChangeError> {
    if holds { Ok(()) } else { Err(error()) }
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
    /// change. `Create` and `Delete` are the map's business, not the state's.
    pub fn apply(&mut self, change: &Change<'_>) {
        self.try_apply(change).unwrap_or_else(|error| panic!("{error}"));
    }

    /// As [`Self::apply`], for changes that were read from somewhere: one that breaks an invariant is refused, and nothing
    /// is changed.
    pub fn try_apply(&mut self, change: &Change<'_>) -> Result<(), ChangeError> {
        self.check(change)?;
        match change {
            Change::Create(_) | Change::Delete => unreachable!("they were refused"),
            Change::Vote { term } | Change::Term { term } => self.term = *term,
            Change::Elected { term, history, truncate_to } => {
                self.apply_elected(*term, history, *truncate_to)
            }
            Change::Append { end, commit_lsn, record_end, .. } => {
                self.write_lsn = *end;
                self.record_end_lsn = *record_end;
                self.commit_lsn = *commit_lsn;
            }
            Change::Position { commit_lsn, peer_horizon_lsn } => {
                self.commit_lsn = *commit_lsn;
                self.peer_horizon_lsn = *peer_horizon_lsn;
            }
            Change::Membership(membership) => self.membership = membership.clone(),
            Change::Cluster { postgres_version, system_id } => {
                self.postgres_version = *postgres_version;
                self.system_id = *system_id;
            }
            Change::PostgresHistory(history) => self.postgres_history = history.clone(),
        }
        Ok(())
    }

    fn check(&self, change: &Change<'_>) -> Result<(), ChangeError> {
        match change {
            Change::Create(_) | Change::Delete => Err(ChangeError::Map),
            Change::Vote { term } => {
                check(*term > self.term, || ChangeError::Vote { term: *term, known: self.term })
            }
            Change::Term { term } => {
                check(*term > self.term, || ChangeError::Term { term: *term, known: self.term })
            }
            Change::Elected { term, history, truncate_to } => {
                let (term, truncate_to) = (*term, *truncate_to);
                check(term >= self.term, || ChangeError::Elected { term, known: self.term })?;
                check(truncate_to >= self.commit_lsn, || ChangeError::CutBelowCommit {
                    truncate_to,
                    commit_lsn: self.commit_lsn,
                })?;
                let within = truncate_to <= self.write_lsn || !self.write_lsn.is_valid();
                check(within, || ChangeError::CutPastEnd {
                    truncate_to,
                    write_lsn: self.write_lsn,
                })?;
                check(!history.0.is_empty(), || ChangeError::NoHistory { term })
            }
            Change::Append { term, begin, end, commit_lsn, record_end, wal } => {
                let continues = begin == &self.write_lsn || !self.write_lsn.is_valid();
                let length = end.0.checked_sub(begin.0);
                let whole = length == Some(wal.len() as u64);
                let records = *record_end >= self.record_end_lsn && record_end <= end;
                let committed = commit_lsn <= record_end && *commit_lsn >= self.commit_lsn;
                check(*term == self.term && continues && whole && records && committed, || {
                    ChangeError::Append {
                        term: *term,
                        begin: *begin,
                        end: *end,
                        record_end: *record_end,
                        commit_lsn: *commit_lsn,
                        wal_bytes: wal.len(),
                        known: Box::new((
                            self.term,
                            self.write_lsn,
                            self.record_end_lsn,
                            self.commit_lsn,
                        )),
                    }
                })
            }
            Change::Position { commit_lsn, peer_horizon_lsn } => {
                let committed = self.commit_lsn..=self.record_end_lsn;
                let forward = *peer_horizon_lsn >= self.peer_horizon_lsn;
                check(committed.contains(commit_lsn) && forward, || ChangeError::Position {
                    commit_lsn: *commit_lsn,
                    peer_horizon_lsn: *peer_horizon_lsn,
                })
            }
            Change::Membership(membership) => {
                let (found, known) = (membership.generation, self.membership.generation);
                check(found > known, || ChangeError::Membership { found, known })
            }
            Change::Cluster { .. } | Change::PostgresHistory(_) => Ok(()),
        }
    }

    fn apply_elected(&mut self, term: Term, history: &TermHistory, truncate_to: Lsn) {
        let start = history.0.first().expect("it was checked").lsn;
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
