//! What one step of an acceptor gives: changes to make durable, an answer, and when it may be sent.

use crate::consensus::change::Change;
use crate::consensus::state::TimelineState;
use crate::types::Lsn;
use crate::wire::walproposer::AcceptorMessage;

/// The outcome of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<'a> {
    /// What to hand to the journal, in this order, before the next step.
    pub changes: Changes<'a>,
    /// What to give to [`super::Acceptor::durable`] once the changes are durable; `None` without changes.
    pub mark: Option<Mark>,
    /// The answer.
    pub reply: Reply,
}

impl Step<'_> {
    /// Changes nothing and answers nothing.
    pub fn nothing() -> Step<'static> {
        Step { changes: Changes::none(), mark: None, reply: Reply::None }
    }
}

/// At most two changes: no step makes more, and an append must not allocate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes<'a>([Option<Change<'a>>; 2]);

impl<'a> Changes<'a> {
    /// Nothing to make durable.
    pub fn none() -> Changes<'a> {
        Changes::default()
    }

    /// One change.
    pub fn one(change: Change<'a>) -> Changes<'a> {
        Changes([Some(change), None])
    }

    /// Up to two changes.
    pub fn two(first: Option<Change<'a>>, second: Option<Change<'a>>) -> Changes<'a> {
        Changes([first, second])
    }

    /// The changes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Change<'a>> {
        self.0.iter().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// How much of the log is durable when the changes of a step are. Opaque: it goes back to the acceptor that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    pub(super) elections: u64,
    pub(super) record_end_lsn: Lsn,
    pub(super) commit_lsn: Lsn,
}

impl Mark {
    pub(super) fn of(state: &TimelineState, elections: u64) -> Mark {
        let (record_end_lsn, commit_lsn) = (state.record_end_lsn, state.commit_lsn);
        Mark { elections, record_end_lsn, commit_lsn }
    }
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    None,
    /// This message.
    Message {
        /// The message.
        message: AcceptorMessage,
        /// When it may be sent.
        when: When,
    },
    /// Whatever [`super::Acceptor::append_response`] says at the time of sending. Answers to several appends may be
    /// merged into one.
    AppendResponse {
        /// When it may be sent.
        when: When,
    },
}

/// When an answer may be sent. Waiting is for the last change of this timeline that the journal was given, which may be
/// that of an earlier step; when all are durable (or witnessed) there is nothing to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// When every change so far is durable.
    Durable,
    /// When every change so far is durable and a later frame witnesses it: a vote that rot could undo is no vote.
    Witnessed,
}
