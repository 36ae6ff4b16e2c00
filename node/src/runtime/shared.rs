//! [`Runtime`]: what a shard's tasks hold to reach everything outside.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::clock;
use super::device::{Device, VolatileFiles};
use super::executor::{Executor, Task, TaskClass};
use super::operation::{Operation, Pending};
use super::reactor::Reactor;
use super::resolver::Resolver;
use super::sim;
use super::time::MonotonicTime;
use super::timers::{TimerKey, Timers};

/// One shard's way to disks, sockets, time and chance. Clones are the same shard. Never leaves its thread.
#[derive(Clone)]
pub struct Runtime(pub(super) Rc<Shard>);

/// What one shard consists of. Made by the implementation that runs it, on its thread.
pub(super) struct Shard {
    pub(super) executor: Executor,
    pub(super) timers: Timers,
    pub(super) reactor: Rc<Reactor>,
    pub(super) index: usize,
    pub(super) count: usize,
    /// What stands between this shard's files and the reactor.
    pub(super) device: Device,
    pub(super) volatile_files: VolatileFiles,
    /// Completions that a modelled device holds back: while there are any, the shard polls.
    pub(super) held_completions: Cell<usize>,
    pub(super) resolver: Resolver,
}

impl Shard {
    pub(super) fn new(
        executor: Executor,
        reactor: Reactor,
        (index, count): (usize, usize),
        device: Device,
    ) -> Shard {
        Shard {
            executor,
            timers: Timers::default(),
            reactor: Rc::new(reactor),
            index,
            count,
            device,
            volatile_files: VolatileFiles::default(),
            held_completions: Cell::new(0),
            resolver: Resolver::default(),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runtime(shard {} of {})", self.0.index, self.0.count)
    }
}

impl Runtime {
    /// This shard's index, from 0.
    pub fn shard_index(&self) -> usize {
        self.0.index
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.0.count
    }

    /// Starts a task on this shard. All tasks are dropped when the shard's main future ends.
    pub fn spawn<F>(&self, class: TaskClass, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.0.executor.spawn(class, future)
    }

    /// Lets other ready tasks and completions have a turn. Loops over data call it at least every millisecond.
    pub async fn yield_now(&self) {
        let yielded = Cell::new(false);
        poll_fn(|context| {
            if yielded.replace(true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Waits for at least so long.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Gives `work` so much time; `None` when it takes longer, and it is dropped.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        match select(pin!(work), pin!(self.sleep(limit))).await {
            Either::Left((result, _)) => Some(result),
            Either::Right(_) => None,
        }
    }

    /// Waits until a moment; not at all if it is past.
    pub async fn sleep_until(&self, deadline: MonotonicTime) {
        let mut sleep = Sleep { runtime: self, key: None };
        poll_fn(|context| {
            if self.now() >= deadline {
                return Poll::Ready(());
            }
            sleep.key = Some(self.0.timers.set(sleep.key, deadline, context.waker()));
            Poll::Pending
        })
        .await;
    }

    /// Now on the monotonic clock; the same clock on all shards of a process.
    pub fn now(&self) -> MonotonicTime {
        match &*self.0.reactor {
            Reactor::Uring(_) | Reactor::Glommio(_) => clock::monotonic(),
            Reactor::Sim(reactor) => reactor.now(),
        }
    }

    /// Microseconds since 1970 on the wall clock, which may jump. For people and protocols, never for decisions.
    pub fn unix_time_us(&self) -> i64 {
        match &*self.0.reactor {
            Reactor::Uring(_) | Reactor::Glommio(_) => clock::unix_time_us(),
            Reactor::Sim(reactor) => reactor.unix_time_us(),
        }
    }

    /// Fills a slice with unpredictable bytes (from the seed under `sim`).
    pub fn fill_random(&self, bytes: &mut [u8]) {
        match &*self.0.reactor {
            Reactor::Uring(_) | Reactor::Glommio(_) => clock::fill_random(bytes),
            Reactor::Sim(reactor) => reactor.fill_random(bytes),
        }
    }

    /// An unpredictable number.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// How often this shard entered the kernel for its ring: a counter for metrics and for tests of the budget.
    pub fn ring_enters(&self) -> u64 {
        match &*self.0.reactor {
            Reactor::Uring(reactor) => reactor.enters(),
            // It does not tell.
            Reactor::Glommio(_) | Reactor::Sim(_) => 0,
        }
    }

    /// Time that this shard's thread has spent on a core; zero under `sim`. For metrics and benches.
    pub fn cpu_time(&self) -> Duration {
        match &*self.0.reactor {
            Reactor::Uring(_) | Reactor::Glommio(_) => clock::thread_cpu_time(),
            Reactor::Sim(_) => Duration::ZERO,
        }
    }

    /// The simulated machine that this runs on, if it is one.
    pub(super) fn simulated(&self) -> Option<&sim::Reactor> {
        match &*self.0.reactor {
            Reactor::Sim(reactor) => Some(reactor),
            _ => None,
        }
    }

    pub(super) fn perform(&self, operation: Operation) -> Pending {
        Pending::submit(&self.0.reactor, operation)
    }

    /// Two operations of which the second begins when the first has succeeded whole, and is cancelled otherwise.
    pub(super) fn perform_linked(&self, first: Operation, second: Operation) -> (Pending, Pending) {
        Pending::submit_linked(&self.0.reactor, first, second)
    }
}

struct Sleep<'a> {
    runtime: &'a Runtime,
    key: Option<TimerKey>,
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.runtime.0.timers.remove(key);
        }
    }
}
