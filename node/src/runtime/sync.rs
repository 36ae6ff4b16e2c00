//! Signals between tasks of one shard. Not for other threads: see [`super::mailbox()`].

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes tasks that wait for something to happen. Clones are the same signal.
///
/// A waiter takes [`Notify::notified`] *before* it looks at the condition; then no notification is missed.
#[derive(Debug, Clone, Default)]
pub struct Notify(Rc<NotifyState>);

#[derive(Debug, Default)]
struct NotifyState {
    /// Counts notifications: a waiter is done when the count passed the one that it began at.
    count: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    /// A signal that nobody waits for yet.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes all that wait now.
    pub fn notify_all(&self) {
        self.0.count.set(self.0.count.get() + 1);
        let mut waiting = self.0.waiting.take();
        waiting.drain(..).for_each(Waker::wake);
        // The memory serves the next waiters, unless some came just now.
        let mut now = self.0.waiting.borrow_mut();
        if now.is_empty() {
            *now = waiting;
        }
    }

    /// Ready after the next [`Self::notify_all`], counted from this call, not from the first poll.
    pub fn notified(&self) -> impl Future<Output = ()> + 'static {
        let state = self.0.clone();
        let seen = state.count.get();
        poll_fn(move |context| {
            if state.count.get() != seen {
                return Poll::Ready(());
            }
            let mut waiting = state.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// A value that tasks watch for changes. Clones are the same value.
#[derive(Debug)]
pub struct Watch<T>(Rc<WatchState<T>>);

impl<T> Clone for Watch<T> {
    fn clone(&self) -> Self {
        Watch(self.0.clone())
    }
}

#[derive(Debug)]
struct WatchState<T> {
    value: RefCell<T>,
    changed: Notify,
}

impl<T> Watch<T> {
    /// A value to watch.
    pub fn new(value: T) -> Watch<T> {
        Watch(Rc::new(WatchState { value: RefCell::new(value), changed: Notify::new() }))
    }

    /// The value now. Not to be held across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    /// A copy of the value now.
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.0.value.borrow().clone()
    }

    /// Replaces the value and wakes those who wait for a change.
    pub fn set(&self, value: T) {
        let old = self.0.value.replace(value);
        drop(old);
        self.0.changed.notify_all();
    }

    /// Changes the value in place and wakes those who wait for a change.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.borrow_mut());
        self.0.changed.notify_all();
    }

    /// Ready after the next change, counted from this call.
    pub fn changed(&self) -> impl Future<Output = ()> + 'static {
        self.0.changed.notified()
    }

    /// Waits until the value is as wanted; at once if it is.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&T) -> bool) {
        loop {
            let changed = self.changed();
            if wanted(&self.borrow()) {
                return;
            }
            changed.await;
        }
    }
}
