//! Which term wrote which part of a log.

use crate::types::{Lsn, Term};

/// From `lsn` on, the log was written by the proposer of `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// Where it begins.
    pub lsn: Lsn,
}

/// The starts of all terms that wrote a log, oldest first.
///
/// Terms increase strictly, positions never decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TermHistory(pub Vec<TermStart>);

impl TermHistory {
    /// The history of a log that ends at `end`: only the terms that begin at or below it.
    pub fn cut_at(&self, end: Lsn) -> TermHistory {
        TermHistory(self.0.iter().take_while(|start| start.lsn <= end).copied().collect())
    }

    /// The term of the last entry, 0 when there is none.
    pub fn last_term(&self) -> Term {
        self.0.last().map_or(Term(0), |start| start.term)
    }
}
