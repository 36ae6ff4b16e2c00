//! What operators and the node itself do to an acceptor, beside its proposer.

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Step};
use crate::consensus::change::Change;
use crate::consensus::membership::Membership;
use crate::consensus::postgres_history::PostgresHistory;
use crate::types::{Lsn, Term};

impl Acceptor {
    /// Raises the term to `term`, or by one without it; never lowers it. Every proposer of a lower term is stopped by it.
    /// The caller answers when the step's changes are witnessed.
    pub fn bump_term(&mut self, term: Option<Term>) -> Step<'static> {
        let term = term.unwrap_or(Term(self.state.term.0.saturating_add(1)));
        if term <= self.state.term {
            return self.step(Changes::none(), Reply::None);
        }
        self.end_writing();
        let changes = Changes::two(self.lazy_positions(), Some(Change::Term { term }));
        self.step(changes, Reply::None)
    }

    /// Adopts a membership of a higher generation; the same one again changes nothing. The caller answers when the
    /// step's changes are witnessed.
    pub fn switch_membership(
        &mut self,
        membership: &Membership,
    ) -> Result<Step<'static>, AcceptorError> {
        // Whoever changes a membership counts on the log of a node that takes it.
        self.check_whole()?;
        let (current, found) = (self.generation(), membership.generation);
        if found < current {
            return Err(AcceptorError::OldMembership { current, found });
        }
        let change = self.higher_membership(membership)?;
        Ok(self.step(Changes::two(change, None), Reply::None))
    }

    /// Takes over the history of Postgres timelines from the elected proposer of `term`. Switches below the commit LSN
    /// never change. One may be learned late: a fence, or a proposer before it told, brings bytes without their names.
    /// But who knows a switch at or past the commit LSN knows all names before it: nothing is left to learn there.
    pub fn set_postgres_history(
        &mut self,
        term: Term,
        history: &PostgresHistory,
    ) -> Result<Step<'static>, AcceptorError> {
        history.validate()?;
        if term != self.state.term {
            return Err(AcceptorError::StaleTerm { found: term, current: self.state.term });
        }
        let current = &self.state.postgres_history;
        if *history == *current {
            return Ok(self.step(Changes::none(), Reply::None));
        }
        let commit_lsn = self.commit_lsn;
        let committed = |history: &PostgresHistory| -> Vec<_> {
            let below = history.0.iter().filter(|switch| switch.lsn < commit_lsn);
            below.map(|switch| (switch.timeline, switch.lsn)).collect()
        };
        let (told, known) = (committed(history), committed(current));
        let all_known = known.len() < current.0.len();
        if !told.starts_with(&known) || (all_known && told.len() > known.len()) {
            return Err(AcceptorError::PostgresHistoryCommitted { commit_lsn });
        }
        let change = Change::PostgresHistory(history.clone());
        Ok(self.step(Changes::one(change), Reply::None))
    }

    /// Takes over what a peer knows of the Postgres timelines below its commit LSN, when that is more than is known here: a
    /// node that catches up gets the names together with the bytes. A peer that does not fit is left with its opinion.
    pub fn learn_postgres_history(
        &mut self,
        history: &PostgresHistory,
        committed: Lsn,
    ) -> Step<'static> {
        let told = history.settled(committed);
        if told.0.len() <= self.state.postgres_history.0.len() {
            return self.step(Changes::none(), Reply::None);
        }
        match self.set_postgres_history(self.state.term, &told) {
            Ok(step) => step,
            Err(_) => self.step(Changes::none(), Reply::None),
        }
    }

    /// Makes durable what is kept lazily, `None` when nothing is: for the end of a connection, and now and then.
    pub fn checkpoint(&mut self) -> Option<Step<'static>> {
        let change = self.lazy_positions()?;
        Some(self.step(Changes::one(change), Reply::None))
    }
}
