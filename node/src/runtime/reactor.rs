//! The implementations behind the façade as one enum: what every one of them does.

use std::task::{Context, Poll};
use std::time::Duration;

use super::operation::{Completion, Operation};
use super::{glommio, sim, uring};

/// How long the reactor may wait for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all: tasks are ready.
    No,
    /// Until a completion or a wake, at most so long.
    AtMost(Duration),
    /// Until a completion or a wake.
    Forever,
}

/// Carries out operations. One per shard, so the variants need not be of a size.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Reactor {
    Uring(uring::Reactor),
    Glommio(glommio::Reactor),
    Sim(sim::Reactor),
}

impl Reactor {
    /// Takes an operation; the index names it until it completes or is abandoned.
    pub(super) fn submit(&self, operation: Operation) -> usize {
        match self {
            Reactor::Uring(reactor) => reactor.submit(operation),
            Reactor::Glommio(reactor) => reactor.submit(operation),
            Reactor::Sim(reactor) => reactor.submit(operation),
        }
    }

    /// Takes two operations of which the second waits for the first.
    ///
    /// # Panics
    /// But under `uring`: only baselines use links.
    pub(super) fn submit_linked(&self, first: Operation, second: Operation) -> (usize, usize) {
        match self {
            Reactor::Uring(reactor) => reactor.submit_linked(first, second),
            _ => panic!("baselines run on the ring itself"),
        }
    }

    pub(super) fn poll(&self, index: usize, context: &mut Context<'_>) -> Poll<Completion> {
        match self {
            Reactor::Uring(reactor) => reactor.poll(index, context),
            Reactor::Glommio(reactor) => reactor.poll(index, context),
            Reactor::Sim(reactor) => reactor.poll(index, context),
        }
    }

    /// Nobody awaits the operation any more; it keeps its resources until it completes.
    pub(super) fn abandon(&self, index: usize) {
        match self {
            Reactor::Uring(reactor) => reactor.abandon(index),
            Reactor::Glommio(reactor) => reactor.abandon(index),
            Reactor::Sim(reactor) => reactor.abandon(index),
        }
    }
}
