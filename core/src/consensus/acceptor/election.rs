//! Votes, and what an elected proposer does to the log.

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Standing, Step, When};
use crate::consensus::change::Change;
use crate::consensus::term_history::{TermHistory, TermHistoryError};
use crate::mutant::{self, Mutant};
use crate::postgres::wal::RecordScanner;
use crate::types::Lsn;
use crate::wire::walproposer::{AcceptorMessage, ProposerElected, VoteRequest, VoteResponse};

impl Acceptor {
    /// Votes for a term above its own, but while it is being re-seeded takes the term over without voting. A refusal is answered in full: a proposer that reconnects within its term computes
    /// where to start from it. The answer waits for everything before it, so its flush LSN is durable when it is sent.
    pub(super) fn vote<'a>(&mut self, request: &VoteRequest) -> Result<Step<'a>, AcceptorError> {
        self.check_generation("VoteRequest", request.generation)?;
        let newer = request.term > self.state.term;
        let again = mutant::active(Mutant::IgnoreTerm) && request.term == self.state.term;
        let vote_given = (newer || again) && self.standing == Standing::Whole;
        let term = request.term;
        let change = if vote_given { Change::Vote { term } } else { Change::Term { term } };
        let changes = match newer {
            true => Changes::two(self.lazy_positions(), Some(change)),
            false => Changes::none(),
        };
        if newer {
            self.end_writing();
        }
        let mut step = self.step(changes, Reply::None);
        let flush_lsn = self.log_end();
        let message = AcceptorMessage::VoteResponse(VoteResponse {
            generation: self.generation(),
            term: self.state.term,
            vote_given,
            flush_lsn,
            truncate_lsn: self.peer_horizon_lsn,
            term_history: self.state.term_history.cut_at(flush_lsn),
        });
        step.reply = Reply::Message { message, when: When::Witnessed };
        Ok(step)
    }

    /// Cuts the log where it leaves the proposer's, and goes on under the proposer's history. A stale proposer is not
    /// answered: it learns of the higher term from its first append.
    pub(super) fn elected<'a>(
        &mut self,
        elected: &ProposerElected,
    ) -> Result<Step<'a>, AcceptorError> {
        self.check_generation("ProposerElected", elected.generation)?;
        if elected.term < self.state.term {
            return Ok(self.step(Changes::none(), Reply::None));
        }
        self.check_elected(elected)?;
        let truncate_to = elected.start_streaming_at;
        let change = Change::Elected {
            term: elected.term,
            history: elected.term_history.clone(),
            truncate_to,
        };
        let changes = Changes::two(self.lazy_positions(), Some(change));
        let step = self.step(changes, Reply::None);
        self.catch_up = None;
        self.scanner = Some(RecordScanner::new(truncate_to, self.state.segment_size_bytes));
        Ok(step)
    }

    fn check_elected(&self, elected: &ProposerElected) -> Result<(), AcceptorError> {
        let history = &elected.term_history;
        history.validate()?;
        let first = history.0.first().ok_or(TermHistoryError::Empty)?.lsn;
        if history.last_term() != elected.term {
            let (term, last) = (elected.term, history.last_term());
            return Err(AcceptorError::HistoryEnd { term, last });
        }
        let (start, expected) = (elected.start_streaming_at, self.parting_point(history, first)?);
        if start != expected {
            return Err(AcceptorError::StartPosition { expected, found: start });
        }
        let commit_lsn = self.commit_lsn;
        if start < commit_lsn {
            return Err(AcceptorError::CutsCommitted { start, commit_lsn });
        }
        let begin = self.state.timeline_start_lsn.max(first);
        let end = self.state.write_lsn;
        if start < begin || (end.is_valid() && start > end) || !start.is_valid() {
            return Err(AcceptorError::OutsideOfLog { start, begin, end });
        }
        Ok(())
    }

    /// Where this log stops being a prefix of the proposer's.
    pub(super) fn parting_point(
        &self,
        proposer: &TermHistory,
        first: Lsn,
    ) -> Result<Lsn, AcceptorError> {
        let end = self.log_end();
        let own = self.state.term_history.cut_at(end);
        Ok(own.common_prefix_end(end, proposer)?.unwrap_or(first))
    }

    /// End of the last complete record of the log, durable or not.
    pub(super) fn log_end(&self) -> Lsn {
        self.state.record_end_lsn.max(self.state.timeline_start_lsn)
    }
}
