//! The Paxos role that stores a timeline's WAL.
//!
//! [`Acceptor`] checks each message of a proposer against its state and says what to make durable and what to answer.
//! It applies changes to its own state at once, so it runs ahead of the disk; what it says to anyone about flushed WAL
//! comes only from what [`Acceptor::durable`] was told.
//!
//! Invariants: a term is voted for once; nothing below the commit LSN is ever cut off; no flush LSN is reported for bytes
//! of an election before the current one, nor while the current one is not durable.
//!
//! An append costs one pass over its bytes (the CRC of records), no copy and no allocation.
//!
//! Read first: [`step`] (what a step gives), then [`append`], [`election`], [`greeting`], [`management`], [`catch_up`]
//! (without a proposer), [`standing`] (after a loss).

pub mod append;
pub mod catch_up;
pub mod election;
pub mod error;
pub mod greeting;
pub mod management;
pub mod standing;
pub mod step;

pub use catch_up::{CatchUp, CommittedLog};
pub use error::AcceptorError;
pub use greeting::create_on_push;
pub use standing::Standing;
pub use step::{Changes, Mark, Reply, Step, When};

use crate::consensus::change::Change;
use crate::consensus::state::TimelineState;
use crate::mutant::{self, Mutant};
use crate::postgres::wal::RecordScanner;
use crate::types::{Generation, Lsn, NodeId, Term, TimelineKey};
use crate::wire::walproposer::{AppendResponse, HotStandbyFeedback, ProposerMessage};

/// One timeline's acceptor. Its owner hands the changes of every step to the journal, in the order of the steps, before
/// the next step; when the journal refuses one, the acceptor believes what the disk will never have, and only
/// [`Acceptor::restart`] makes it of use again.
#[derive(Debug, Clone)]
pub struct Acceptor {
    key: TimelineKey,
    node_id: NodeId,
    /// As of the last change made, durable or not.
    state: TimelineState,
    /// Follows the log from `state.write_lsn` on. There from an elected message until the next term: only then appends
    /// are taken, so the log is always cut once between a restart and the first write.
    scanner: Option<RecordScanner>,
    /// The same while the log is brought up to this position, which another member has committed. Never beside `scanner`; boxed,
    /// as it is rare.
    catch_up: Option<Box<(RecordScanner, Lsn)>>,
    /// At or above `state.commit_lsn`, at or below `state.record_end_lsn`: moves without WAL are kept lazily.
    commit_lsn: Lsn,
    /// At or above `state.peer_horizon_lsn`, kept as lazily.
    peer_horizon_lsn: Lsn,
    /// How often this acceptor was told of an elected proposer, in this process' life.
    elections: u64,
    durable: Mark,
    /// Whether it may have forgotten what it promised.
    standing: Standing,
}

impl Acceptor {
    /// The acceptor of a timeline whose `state` is all durable.
    pub fn new(key: TimelineKey, node_id: NodeId, state: TimelineState) -> Acceptor {
        assert!(node_id != NodeId(0), "a node id is never 0");
        let durable = Mark::of(&state, 0);
        Acceptor {
            key,
            node_id,
            scanner: None,
            catch_up: None,
            commit_lsn: state.commit_lsn,
            peer_horizon_lsn: state.peer_horizon_lsn,
            elections: 0,
            durable,
            standing: Standing::Whole,
            state,
        }
    }

    /// Begins again with a `state` that is all durable, after the journal refused a change. Marks of steps before mean
    /// nothing any more.
    pub fn restart(&mut self, state: TimelineState) {
        let elections = self.elections + 1;
        let standing = self.standing;
        *self = Acceptor { standing, ..Acceptor::new(self.key, self.node_id, state) };
        self.elections = elections;
        self.durable.elections = elections;
    }

    /// Handles one message.
    pub fn handle<'a>(&mut self, message: &ProposerMessage<'a>) -> Result<Step<'a>, AcceptorError> {
        self.check_not_suspect()?;
        match message {
            ProposerMessage::Greeting(greeting) => self.greeting(greeting),
            ProposerMessage::VoteRequest(request) => self.vote(request),
            ProposerMessage::Elected(elected) => self.elected(elected),
            ProposerMessage::Append(request) => self.append(request),
        }
    }

    /// Tells that the changes of the step that gave `mark`, and of all before it, are durable.
    pub fn durable(&mut self, mark: Mark) {
        // Marks of earlier elections say nothing about today's log: it was cut after them.
        if mark.elections == self.elections {
            self.durable.record_end_lsn = match self.durable.elections == mark.elections {
                true => self.durable.record_end_lsn.max(mark.record_end_lsn),
                false => mark.record_end_lsn,
            };
            self.durable.elections = mark.elections;
        }
        self.durable.commit_lsn = self.durable.commit_lsn.max(mark.commit_lsn);
    }

    /// What to answer to appends now; one answer may stand for several. `None` while nothing may be said: the election
    /// that the log now belongs to is not durable yet, or a newer term was voted for. Feedback fields are empty.
    pub fn append_response(&self) -> Option<AppendResponse> {
        let elected = self.scanner.is_some() && self.durable.elections == self.elections;
        elected.then(|| AppendResponse {
            generation: self.generation(),
            term: self.state.term,
            flush_lsn: self.flush_lsn(),
            commit_lsn: self.durable.commit_lsn,
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        })
    }

    /// The timeline.
    pub fn key(&self) -> TimelineKey {
        self.key
    }

    /// The state as of the last change made, durable or not.
    pub fn state(&self) -> &TimelineState {
        &self.state
    }

    /// Highest term voted for or learned.
    pub fn term(&self) -> Term {
        self.state.term
    }

    /// End of the last complete record that is durable.
    pub fn flush_lsn(&self) -> Lsn {
        if mutant::active(Mutant::SkipFlush) {
            return self.state.record_end_lsn;
        }
        self.durable.record_end_lsn.max(self.state.timeline_start_lsn)
    }

    /// What a quorum and this acceptor have.
    pub fn commit_lsn(&self) -> Lsn {
        self.commit_lsn.min(self.flush_lsn())
    }

    /// Every member has WAL up to here.
    pub fn peer_horizon_lsn(&self) -> Lsn {
        self.peer_horizon_lsn
    }

    /// Term of the last history entry that the durable log reaches.
    pub fn last_log_term(&self) -> Term {
        self.state.term_history.cut_at(self.flush_lsn()).last_term()
    }

    /// Everything that decides what this acceptor does next, for comparing two of them. Of the scanner only positions:
    /// the rest follows from the log.
    #[cfg(test)]
    pub(in crate::consensus) fn essence(&self) -> impl std::hash::Hash + Eq + '_ {
        let scanner = self.scanner.as_ref().map(|s| (s.position(), s.record_end()));
        let catch_up = self.catch_up.as_deref();
        let catch_up = catch_up.map(|(s, end)| (s.position(), s.record_end(), *end));
        let scanner = (scanner, catch_up);
        let pending = self.elections - self.durable.elections;
        let durable = (self.durable.record_end_lsn, self.durable.commit_lsn, pending);
        (&self.state, scanner, self.commit_lsn, self.peer_horizon_lsn, durable, self.standing)
    }

    fn generation(&self) -> Generation {
        self.state.membership.generation
    }

    fn check_generation(
        &self,
        message: &'static str,
        found: Generation,
    ) -> Result<(), AcceptorError> {
        let expected = self.generation();
        match found == expected {
            true => Ok(()),
            false => Err(AcceptorError::Generation { message, expected, found }),
        }
    }

    /// Takes nothing more before another elected message or catch-up.
    fn end_writing(&mut self) {
        self.scanner = None;
        self.catch_up = None;
    }

    /// Applies the changes and makes a step of them.
    fn step<'a>(&mut self, changes: Changes<'a>, reply: Reply) -> Step<'a> {
        for change in changes.iter() {
            self.state.apply(change);
            if let Change::Elected { truncate_to, .. } = change {
                self.elections += 1;
                self.durable.record_end_lsn = self.durable.record_end_lsn.min(*truncate_to);
            }
        }
        self.commit_lsn = self.commit_lsn.max(self.state.commit_lsn);
        self.peer_horizon_lsn = self.peer_horizon_lsn.max(self.state.peer_horizon_lsn);
        let mark = (!changes.is_empty()).then(|| Mark::of(&self.state, self.elections));
        Step { changes, mark, reply }
    }
}

#[cfg(test)]
mod tests;
