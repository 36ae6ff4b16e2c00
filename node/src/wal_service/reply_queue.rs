//! Answers of one proposer's connection that wait for the journal, in the order of its messages.
//!
//! The receiving half pushes, the answering half takes; both run on the connection's shard. Answers to appends that
//! are durable together are merged into one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use firn_core::consensus::acceptor::{Mark, Reply, When};
use firn_core::wire::walproposer::PageserverFeedback;

use crate::journal::Ticket;
use crate::runtime::sync::Notify;

/// Messages of one proposer that may wait for the journal: far more than fit into its frames in flight.
const WAITING_MAX: usize = 1024;

/// An answer that waits.
#[derive(Debug)]
pub struct Waiting {
    /// The answer, and when it may be sent.
    pub reply: Reply,
    /// What the acceptor learns when the changes are durable.
    pub mark: Option<Mark>,
    /// The last change that it waits for.
    pub ticket: Option<Ticket>,
}

/// What has to be durable before an answer is sent.
#[derive(Debug, Clone)]
pub struct RestsOn {
    /// The last change that it waits for.
    pub ticket: Option<Ticket>,
    /// What the acceptor learns then.
    pub mark: Option<Mark>,
    /// How durable.
    pub when: When,
}

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The proposer left; there is nobody to tell.
    Gone,
    /// The proposer said CopyDone.
    Done,
    /// The proposer said CopyFail.
    CopyFail,
    /// It broke the protocol, or the node cannot go on.
    Failed(String),
}

/// Answers that wait, and how the connection ends after them.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    waiting: RefCell<VecDeque<Waiting>>,
    feedback: Cell<Option<PageserverFeedback>>,
    end: RefCell<Option<End>>,
    /// When something was pushed or the end was set.
    pushed: Notify,
    /// When something was taken.
    taken: Notify,
}

impl ReplyQueue {
    /// Appends an answer, after waiting for room.
    pub async fn push(&self, waiting: Waiting) {
        loop {
            let taken = self.taken.notified();
            if self.waiting.borrow().len() < WAITING_MAX {
                break;
            }
            taken.await;
        }
        self.waiting.borrow_mut().push_back(waiting);
        self.pushed.notify_all();
    }

    /// Sets the end; answers before it are still given.
    pub fn finish(&self, end: End) {
        *self.end.borrow_mut() = Some(end);
        self.pushed.notify_all();
    }

    /// Replaces the feedback to pass on; only the latest counts.
    pub fn set_feedback(&self, feedback: PageserverFeedback) {
        self.feedback.set(Some(feedback));
        self.pushed.notify_all();
    }

    /// The feedback to pass on, once.
    pub fn take_feedback(&self) -> Option<PageserverFeedback> {
        self.feedback.take()
    }

    /// What the next answer rests on, if one waits.
    pub fn front(&self) -> Option<RestsOn> {
        let waiting = self.waiting.borrow();
        let next = waiting.front()?;
        let when = match &next.reply {
            Reply::Message { when, .. } | Reply::AppendResponse { when } => *when,
            // Nobody waits, but the acceptor has to learn what is durable.
            Reply::None => When::Durable,
        };
        Some(RestsOn { ticket: next.ticket.clone(), mark: next.mark, when })
    }

    /// The next answer, if one waits.
    pub fn pop(&self) -> Option<Waiting> {
        let next = self.waiting.borrow_mut().pop_front();
        if next.is_some() {
            self.taken.notify_all();
        }
        next
    }

    /// Waits until there is an answer, feedback or the end. `Some`: nothing more comes.
    pub async fn wait(&self) -> Option<End> {
        loop {
            let pushed = self.pushed.notified();
            let has_feedback = {
                let feedback = self.feedback.take();
                self.feedback.set(feedback);
                feedback.is_some()
            };
            if has_feedback || !self.waiting.borrow().is_empty() {
                return None;
            }
            if let Some(end) = self.end.borrow().clone() {
                return Some(end);
            }
            pushed.await;
        }
    }
}
