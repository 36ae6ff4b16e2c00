//! Waiting for frames to be durable and witnessed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

/// Names a queued entry: when its frame is durable, so is it.
#[derive(Debug, Clone)]
pub struct Ticket(Place);

#[derive(Debug, Clone)]
enum Place {
    /// In the frame with this sequence.
    Frame(u64),
    /// In none yet: the cell holds the sequence as soon as there is one.
    Queued(Rc<Cell<Option<u64>>>),
}

impl Ticket {
    pub(super) fn in_frame(sequence: u64) -> Ticket {
        Ticket(Place::Frame(sequence))
    }

    pub(super) fn queued() -> (Ticket, Rc<Cell<Option<u64>>>) {
        let place = Rc::new(Cell::new(None));
        (Ticket(Place::Queued(place.clone())), place)
    }

    pub(super) fn sequence(&self) -> Option<u64> {
        match &self.0 {
            Place::Frame(sequence) => Some(*sequence),
            Place::Queued(place) => place.get(),
        }
    }
}

/// Tasks that wait for a sequence. Bounded by the tasks of the shard; keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Waiters(RefCell<Vec<(u64, Waker)>>);

impl Waiters {
    /// Registers for `sequence`; without one, for whatever comes next.
    pub(super) fn register(&self, sequence: Option<u64>, waker: &Waker) {
        let sequence = sequence.unwrap_or(0);
        let mut waiting = self.0.borrow_mut();
        let known = |(other, known): &(u64, Waker)| *other == sequence && known.will_wake(waker);
        if !waiting.iter().rev().take(4).any(known) {
            waiting.push((sequence, waker.clone()));
        }
    }

    /// Wakes all that wait for `sequence` or less.
    pub(super) fn wake_through(&self, sequence: u64) {
        let mut waiting = self.0.take();
        waiting.retain(|(wanted, waker)| {
            if *wanted <= sequence {
                waker.wake_by_ref();
            }
            *wanted > sequence
        });
        let mut new = self.0.borrow_mut();
        waiting.append(&mut new);
        *new = waiting;
    }
}
