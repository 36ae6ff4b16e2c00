//! Which term wrote which part of a log, and where two logs part.

use thiserror::Error;

use crate::types::{Lsn, Term};

/// Most entries of a history: 256 KiB, so that one fits into a journal entry. An entry is an election, so this is 11 years
/// of an election every six hours.
pub const TERMS_MAX: usize = 16 * 1024;

/// From `lsn` on, the log was written by the proposer of `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// Where it begins.
    pub lsn: Lsn,
}

/// The starts of all terms that wrote a log, oldest first.
///
/// Terms increase strictly, positions never decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermHistory(pub Vec<TermStart>);

/// A history that no election can have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TermHistoryError {
    /// A proposer that was elected has at least its own term.
    #[error("term history is empty")]
    Empty,
    /// More entries than the bound.
    #[error("term history has {found} entries, expected at most {TERMS_MAX}")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Terms do not increase or positions decrease.
    #[error("term history is out of order at term {term}")]
    OutOfOrder {
        /// The first wrong entry's term.
        term: Term,
    },
    /// Two histories give one term different starts: one of them is forged or corrupt.
    #[error("term {term} begins at {ours} here and at {theirs} in the other history")]
    Contradiction {
        /// The term.
        term: Term,
        /// Its start in the own history.
        ours: Lsn,
        /// Its start in the other history.
        theirs: Lsn,
    },
}

impl TermHistory {
    /// The history of a log that ends at `end`: only the terms that begin at or below it.
    pub fn cut_at(&self, end: Lsn) -> TermHistory {
        TermHistory(self.0.iter().take_while(|start| start.lsn <= end).copied().collect())
    }

    /// The term of the last entry, 0 when there is none.
    pub fn last_term(&self) -> Term {
        self.0.last().map_or(Term(0), |start| start.term)
    }

    /// Checks order and bound. An empty history passes: it is that of a log without WAL.
    pub fn validate(&self) -> Result<(), TermHistoryError> {
        if self.0.len() > TERMS_MAX {
            return Err(TermHistoryError::TooLong { found: self.0.len() });
        }
        let ordered =
            |pair: &&[TermStart]| pair[0].term < pair[1].term && pair[0].lsn <= pair[1].lsn;
        match self.0.windows(2).find(|pair| !ordered(pair)) {
            Some(pair) => Err(TermHistoryError::OutOfOrder { term: pair[1].term }),
            None => Ok(()),
        }
    }

    /// Where the log of this history, ending at `end`, stops being a prefix of the log of `proposer`'s history (a
    /// proposer's log has no end yet). `None` when they have no term in common.
    pub fn common_prefix_end(
        &self,
        end: Lsn,
        proposer: &TermHistory,
    ) -> Result<Option<Lsn>, TermHistoryError> {
        let mut common = 0;
        for (ours, theirs) in self.0.iter().zip(&proposer.0) {
            if ours.term != theirs.term {
                break;
            }
            if ours.lsn != theirs.lsn {
                return Err(TermHistoryError::Contradiction {
                    term: ours.term,
                    ours: ours.lsn,
                    theirs: theirs.lsn,
                });
            }
            common += 1;
        }
        if common == 0 {
            return Ok(None);
        }
        let Some(proposer_next) = proposer.0.get(common) else {
            return Ok(Some(end));
        };
        let own_end = self.0.get(common).map_or(end, |next| next.lsn);
        Ok(Some(proposer_next.lsn.min(own_end)))
    }
}

#[cfg(test)]
mod tests;
