//! Committed WAL from another member, while no proposer brings it.
//!
//! What a quorum committed is the same in every later log, so an acceptor may take it in whatever term it is: the term stays, the
//! history becomes the donor's below its commit LSN, and what of the own log leaves that history is cut, as an elected
//! proposer would have it. Nothing past the donor's commit LSN is taken, and no answer follows from it: an elected proposer
//! begins with an elected message of its own, which ends the catch-up.

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Step};
use crate::consensus::change::Change;
use crate::consensus::term_history::{TermHistory, TermHistoryError, TermStart};
use crate::postgres::wal::RecordScanner;
use crate::types::{Generation, Lsn};

/// What another member has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedLog {
    /// The donor's membership.
    pub generation: Generation,
    /// The donor's history.
    pub history: TermHistory,
    /// End of what it knows to be committed, and has.
    pub commit_lsn: Lsn,
}

/// What to do with another member's committed log.
#[derive(Debug, PartialEq, Eq)]
pub enum CatchUp<'a> {
    /// There is nothing in it that is not here.
    Nothing,
    /// Everything is here, but it was not known to be committed.
    Known(Step<'a>),
    /// Hand the step to the disk, then give WAL from here on to [`Acceptor::append_committed`].
    Append {
        /// The cut.
        step: Step<'a>,
        /// Where the missing WAL begins.
        begin: Lsn,
    },
}

impl Acceptor {
    /// Begins to catch up with another member.
    pub fn catch_up<'a>(&mut self, donor: &CommittedLog) -> Result<CatchUp<'a>, AcceptorError> {
        self.check_not_suspect()?;
        self.check_generation("committed log", donor.generation)?;
        if donor.commit_lsn <= self.commit_lsn {
            return Ok(CatchUp::Nothing);
        }
        donor.history.validate()?;
        let history = committed_part(&donor.history, donor.commit_lsn);
        let first = history.0.first().ok_or(TermHistoryError::Empty)?.lsn;
        self.check_own_terms(&history, donor.commit_lsn)?;
        let start = self.parting_point(&history, first)?;
        if start < self.commit_lsn {
            return Err(AcceptorError::CutsCommitted { start, commit_lsn: self.commit_lsn });
        }
        if start >= donor.commit_lsn {
            if self.state.record_end_lsn < donor.commit_lsn {
                // Neither has any WAL: the log's very start is committed there, and not known here.
                return Ok(CatchUp::Nothing);
            }
            self.commit_lsn = donor.commit_lsn;
            let step = self.step(Changes::two(self.lazy_positions(), None), Reply::None);
            return Ok(CatchUp::Known(step));
        }
        let (begin, end) = (self.state.timeline_start_lsn.max(first), self.state.write_lsn);
        if start < begin || (end.is_valid() && start > end) {
            return Err(AcceptorError::OutsideOfLog { start, begin, end });
        }
        let change = Change::Elected { term: self.state.term, history, truncate_to: start };
        let step = self.step(Changes::two(self.lazy_positions(), Some(change)), Reply::None);
        self.scanner = None;
        let scanner = RecordScanner::new(start, self.state.segment_size_bytes);
        self.catch_up = Some(Box::new((scanner, donor.commit_lsn)));
        Ok(CatchUp::Append { step, begin: start })
    }

    /// Takes the donor's next WAL; none of it past its commit LSN.
    pub fn append_committed<'a>(&mut self, wal: &'a [u8]) -> Result<Step<'a>, AcceptorError> {
        let (term, begin) = (self.state.term, self.state.write_lsn);
        let Some((scanner, commit_lsn)) = self.catch_up.as_deref_mut() else {
            return Err(AcceptorError::NotElected { term, current: term });
        };
        let end = begin + wal.len() as u64;
        if wal.is_empty() || end > *commit_lsn {
            let (begin, end) = (begin, *commit_lsn);
            return Err(AcceptorError::OutsideOfLog { start: begin, begin, end });
        }
        scanner.push(wal);
        let record_end = scanner.record_end();
        self.commit_lsn = record_end.max(self.commit_lsn);
        if end == *commit_lsn {
            self.catch_up = None;
        }
        let commit_lsn = self.commit_lsn;
        let change = Change::Append { term, begin, end, commit_lsn, record_end, wal };
        Ok(self.step(Changes::one(change), Reply::None))
    }

    /// A term of the own log that the donor does not know cannot begin below what is committed: its proposer would have had
    /// that.
    fn check_own_terms(&self, donor: &TermHistory, commit_lsn: Lsn) -> Result<(), AcceptorError> {
        let newer = |start: &&TermStart| start.term > donor.last_term() && start.lsn < commit_lsn;
        let own = self.state.term_history.cut_at(self.log_end());
        match own.0.iter().find(newer) {
            None => Ok(()),
            Some(start) => {
                let (term, ours) = (start.term, start.lsn);
                Err(TermHistoryError::Contradiction { term, ours, theirs: commit_lsn }.into())
            }
        }
    }
}

/// The terms that wrote something below `commit_lsn`.
fn committed_part(history: &TermHistory, commit_lsn: Lsn) -> TermHistory {
    let begun = history.0.iter().enumerate();
    let part = begun.filter(|(index, start)| *index == 0 || start.lsn < commit_lsn);
    TermHistory(part.map(|(_, start)| *start).collect())
}
