//! Sleeping tasks of one shard, in the order of their deadlines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Waker;

use super::time::MonotonicTime;

/// A place among the timers: the deadline, and a number that tells equal deadlines apart in the order they came.
pub(super) type TimerKey = (MonotonicTime, u64);

#[derive(Default)]
pub(super) struct Timers {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<TimerKey, Waker>,
    next_number: u64,
}

impl Timers {
    /// Registers a waker for a deadline, or renews the one of `key`.
    pub(super) fn set(
        &self,
        key: Option<TimerKey>,
        deadline: MonotonicTime,
        waker: &Waker,
    ) -> TimerKey {
        let mut state = self.state.borrow_mut();
        let key = key.unwrap_or_else(|| {
            state.next_number += 1;
            (deadline, state.next_number)
        });
        state.waiting.insert(key, waker.clone());
        key
    }

    /// Forgets a timer that is no longer awaited.
    pub(super) fn remove(&self, key: TimerKey) {
        let waker = self.state.borrow_mut().waiting.remove(&key);
        drop(waker);
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<MonotonicTime> {
        self.state.borrow().waiting.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Wakes everything due by `now`.
    pub(super) fn fire(&self, now: MonotonicTime) {
        loop {
            let mut state = self.state.borrow_mut();
            match state.waiting.first_entry() {
                Some(entry) if entry.key().0 <= now => {
                    let waker = entry.remove();
                    drop(state);
                    waker.wake();
                }
                _ => return,
            }
        }
    }
}
