//! The table of operations in flight, shared by the implementations.
//!
//! Invariant: an entry lives from submission to completion, whoever still awaits it.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::operation::Completion;

/// Operations in flight, each as the `P` that its implementation keeps of it.
#[derive(Debug)]
pub(super) struct InFlightTable<P>(RefCell<Slab<InFlight<P>>>);

#[derive(Debug)]
enum InFlight<P> {
    /// Under way; the waker of who awaits it.
    Waiting(P, Option<Waker>),
    /// Under way, awaited by nobody.
    Abandoned(P),
    /// Completed, not yet fetched.
    Done(Completion),
    /// Being changed.
    Vacant,
}

impl<P> Default for InFlightTable<P> {
    fn default() -> Self {
        InFlightTable(RefCell::default())
    }
}

impl<P> InFlightTable<P> {
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Adds an operation that is under way.
    pub(super) fn insert(&self, operation: P) -> usize {
        self.0.borrow_mut().insert(InFlight::Waiting(operation, None))
    }

    /// Adds an operation that ended before it began.
    pub(super) fn insert_done(&self, completion: Completion) -> usize {
        self.0.borrow_mut().insert(InFlight::Done(completion))
    }

    /// Looks at an operation that is under way; `None` if it is not.
    pub(super) fn with<R>(&self, index: usize, look: impl FnOnce(&mut P) -> R) -> Option<R> {
        match self.0.borrow_mut().get_mut(index) {
            Some(InFlight::Waiting(operation, _) | InFlight::Abandoned(operation)) => {
                Some(look(operation))
            }
            _ => None,
        }
    }

    pub(super) fn poll(&self, index: usize, context: &mut Context<'_>) -> Poll<Completion> {
        let mut table = self.0.borrow_mut();
        match &mut table[index] {
            InFlight::Waiting(_, waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            InFlight::Done(_) => match table.remove(index) {
                InFlight::Done(completion) => Poll::Ready(completion),
                _ => unreachable!("matched as done above"),
            },
            InFlight::Abandoned(_) | InFlight::Vacant => {
                unreachable!("an abandoned operation has no future left that could poll it")
            }
        }
    }

    /// Nobody awaits the operation any more; it stays until it completes.
    pub(super) fn abandon(&self, index: usize) {
        let mut table = self.0.borrow_mut();
        let entry = &mut table[index];
        let old = match std::mem::replace(entry, InFlight::Vacant) {
            InFlight::Waiting(operation, waker) => {
                *entry = InFlight::Abandoned(operation);
                InFlight::Waiting((), waker)
            }
            InFlight::Done(completion) => {
                table.remove(index);
                InFlight::Done(completion)
            }
            InFlight::Abandoned(_) | InFlight::Vacant => {
                unreachable!("an operation is abandoned once")
            }
        };
        // Dropped outside the borrow: it may close handles, whose drops may look here.
        drop(table);
        drop(old);
    }

    /// Ends an operation that is under way, and wakes who awaits it.
    pub(super) fn complete(&self, index: usize, end: impl FnOnce(P) -> Completion) {
        let mut table = self.0.borrow_mut();
        let entry = &mut table[index];
        match std::mem::replace(entry, InFlight::Vacant) {
            InFlight::Waiting(operation, waker) => {
                *entry = InFlight::Done(end(operation));
                drop(table);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            InFlight::Abandoned(operation) => {
                table.remove(index);
                drop(table);
                drop(end(operation));
            }
            InFlight::Done(_) | InFlight::Vacant => {
                unreachable!("an operation completes once")
            }
        }
    }

    /// Forgets completed operations that nobody fetches any more.
    pub(super) fn drop_done(&self) {
        let mut done = Vec::new();
        let mut table = self.0.borrow_mut();
        let indexes: Vec<usize> = table
            .iter()
            .filter(|(_, entry)| matches!(entry, InFlight::Done(_)))
            .map(|(index, _)| index)
            .collect();
        done.extend(indexes.into_iter().map(|index| table.remove(index)));
        drop(table);
        drop(done);
    }

    /// Takes out everything that is under way, in the order of the indexes.
    pub(super) fn take_all(&self) -> Vec<P> {
        let table = self.0.take();
        let entries = table.into_iter().filter_map(|(_, entry)| match entry {
            InFlight::Waiting(operation, _) | InFlight::Abandoned(operation) => Some(operation),
            InFlight::Done(_) | InFlight::Vacant => None,
        });
        entries.collect()
    }
}
