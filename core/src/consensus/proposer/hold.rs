//! Between an election and the first byte of its term: time to look at the elected log, and to cut what nobody can have
//! committed off its end.

use crate::consensus::proposer::{Phase, Proposer};
use crate::consensus::term_history::TermStart;
use crate::types::{Lsn, NodeId};

impl Proposer {
    /// From now on nothing follows an election before [`Self::release`]: votes are asked for, but no acceptor hears who
    /// was elected, and no log changes.
    pub fn hold(&mut self) {
        assert!(self.elected_state().is_none(), "a proposer is held before it is elected");
        self.held = true;
    }

    /// Goes on after [`Self::hold`].
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Once elected: nothing past this position can have been committed by anyone. It falls as more acceptors answer, and
    /// with all of them it is what a quorum holds of the elected log.
    pub fn maybe_committed_lsn(&self) -> Option<Lsn> {
        let elected = self.elected_state()?;
        let end = elected.term_start_lsn;
        let holds = |id: NodeId| {
            // Who did not answer may hold all of it, and who answers without voting may have forgotten that it did.
            let peer = &self.peers[&id];
            let Some(log) = peer.log.as_ref().filter(|_| peer.granted) else { return end };
            match log.history.common_prefix_end(log.flush_lsn, &elected.history) {
                Ok(common) => common.unwrap_or(Lsn::INVALID).min(end),
                // A log that cannot be: assume the worst.
                Err(_) => end,
            }
        };
        Some(self.config.membership.quorum_lsn(holds))
    }

    /// Begins the term at `lsn` instead of the end of the donor's log. Only while held, and not below
    /// [`Self::maybe_committed_lsn`].
    pub fn shorten(&mut self, lsn: Lsn) {
        assert!(self.held, "a term that others heard of keeps its start");
        let floor = self.maybe_committed_lsn().expect("only an elected proposer shortens");
        let Phase::Elected(elected) = &mut self.phase else { unreachable!("checked above") };
        let end = elected.term_start_lsn;
        assert!(floor <= lsn && lsn <= end, "a term begins from {floor} to {end}, not at {lsn}");
        elected.history.0.pop();
        elected.history = elected.history.cut_at(lsn);
        elected.history.0.push(TermStart { term: self.term, lsn });
        elected.term_start_lsn = lsn;
        self.available_lsn = lsn;
        self.truncate_lsn = self.truncate_lsn.min(lsn);
    }
}
