//! One shard's tasks: who is ready, who runs next, and how a wake from any thread gets here.
//!
//! Invariants: a future is polled and dropped only on the shard's own thread; a waker may be used anywhere. A foreign
//! wake reaches a parked shard through its [`Unpark`]: the parked flag is set under the same lock that guards the
//! ready queues, so no wake falls between the last look and the sleep.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_task::Runnable;
use slab::Slab;

/// Which share of the shard's time a task draws on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskClass {
    /// Appends, votes, page reads: somebody waits for it.
    Latency,
    /// Flush, compaction, upload, recycling: at least [`BACKGROUND_SHARES`] of [`LATENCY_SHARES`] +
    /// [`BACKGROUND_SHARES`] of the time while latency tasks are busy, all of it while they are not.
    Background,
}

/// Weight of latency tasks against [`BACKGROUND_SHARES`]: nine tenths of a busy shard's time.
pub const LATENCY_SHARES: u32 = 9;
/// Weight of background tasks: one tenth keeps flush and recycling ahead of a saturated append path.
pub const BACKGROUND_SHARES: u32 = 1;

/// A task's handle. Awaiting it gives the result; dropping it cancels the task (its future is dropped at the task's
/// next turn); [`Task::detach`] lets it run on its own.
#[must_use = "dropping a task cancels it"]
pub struct Task<T>(async_task::Task<T>);

impl<T> Task<T> {
    /// Lets the task run to its end without a handle.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Cancels the task and waits until its future is dropped; the result if it had ended before.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// How to get a parked shard out of its sleep from another thread.
pub(super) trait Unpark: Send + Sync + 'static {
    /// Makes the reactor's wait return. Called at most once per sleep.
    fn unpark(&self);
}

/// The part of the executor that wakers on other threads touch.
pub(super) struct Shared {
    ready: Mutex<Ready>,
    unpark: Box<dyn Unpark>,
}

#[derive(Default)]
struct Ready {
    latency: VecDeque<Runnable>,
    background: VecDeque<Runnable>,
    parked: bool,
    /// Set when the shard is over: what is woken from then on is leaked by its waker, never dropped on a foreign thread.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ready> {
        // Nothing panics while it holds this lock, and a queue of wakes has no state to be broken.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(&self, runnable: Runnable, class: TaskClass) {
        let mut ready = self.lock();
        if ready.closed {
            // The shard dropped every future before it closed; what is left of the task is its header.
            std::mem::forget(runnable);
            return;
        }
        match class {
            TaskClass::Latency => ready.latency.push_back(runnable),
            TaskClass::Background => ready.background.push_back(runnable),
        }
        if std::mem::take(&mut ready.parked) {
            drop(ready);
            self.unpark.unpark();
        }
    }
}

/// The shard's own side of the executor.
pub(super) struct Executor {
    shared: Arc<Shared>,
    /// Wakers of all living tasks: how to reach them when the shard ends.
    tasks: Rc<RefCell<Slab<Waker>>>,
}

impl Executor {
    pub(super) fn new(unpark: Box<dyn Unpark>) -> Executor {
        let shared = Shared { ready: Mutex::default(), unpark };
        Executor { shared: Arc::new(shared), tasks: Rc::default() }
    }

    pub(super) fn spawn<F>(&self, class: TaskClass, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let registered = Registered { tasks: self.tasks.clone(), index: entry.key() };
        let future = async move {
            let _registered = registered;
            future.await
        };
        let shared = self.shared.clone();
        let schedule = move |runnable| shared.schedule(runnable, class);
        let (runnable, task) = async_task::spawn_local(future, schedule);
        entry.insert(runnable.waker());
        drop(tasks);
        runnable.schedule();
        Task(task)
    }

    /// How many tasks are ready now, per class (latency, background).
    pub(super) fn ready(&self) -> (usize, usize) {
        let ready = self.shared.lock();
        (ready.latency.len(), ready.background.len())
    }

    /// The ready task of a class at a place in its queue, if there are so many.
    pub(super) fn take(&self, class: TaskClass, place: usize) -> Option<Runnable> {
        let mut ready = self.shared.lock();
        match class {
            TaskClass::Latency => ready.latency.remove(place),
            TaskClass::Background => ready.background.remove(place),
        }
    }

    /// Announces that the shard is about to sleep; false if a task became ready meanwhile.
    pub(super) fn park(&self) -> bool {
        let mut ready = self.shared.lock();
        ready.parked = ready.latency.is_empty() && ready.background.is_empty();
        ready.parked
    }

    /// Takes the announcement back: the shard is awake.
    pub(super) fn unparked(&self) {
        self.shared.lock().parked = false;
    }

    /// Drops the futures of all tasks, also of those that other drops wake or spawn, and takes no more.
    pub(super) fn close(&self) {
        loop {
            let wakers: Vec<Waker> = self.tasks.borrow().iter().map(|(_, w)| w.clone()).collect();
            wakers.iter().for_each(Waker::wake_by_ref);
            drop(wakers);
            let (latency, background) = {
                let mut ready = self.shared.lock();
                (std::mem::take(&mut ready.latency), std::mem::take(&mut ready.background))
            };
            // Dropping a runnable drops its future here, on its own thread.
            drop((latency, background));
            let mut ready = self.shared.lock();
            let empty = ready.latency.is_empty() && ready.background.is_empty();
            if empty && self.tasks.borrow().is_empty() {
                ready.closed = true;
                return;
            }
        }
    }
}

struct Registered {
    tasks: Rc<RefCell<Slab<Waker>>>,
    index: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let waker = self.tasks.borrow_mut().remove(self.index);
        drop(waker);
    }
}
