//! A shard's loop but for its wait: the main future, tasks by class, timers. The implementations on real kernels share it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::clock::monotonic;
use super::executor::{BACKGROUND_SHARES, LATENCY_SHARES, Task, TaskClass};
use super::reactor::Wait;
use super::shared::Runtime;
use super::time::MonotonicTime;

/// Waves of latency tasks before the ring gets its turn. What one event leads to then goes to the kernel in one enter (a
/// receive wakes the journal's lane, a durable frame the answer); a task that only yields delays completions by no more
/// than so many of its polls.
const WAVES_PER_TURN: usize = 3;
/// Latency tasks polled in a wave: bounds how long a completion waits for tasks that always yield.
const LATENCY_POLLS_PER_TURN: usize = 256;
/// What background tasks may take per turn while no latency task is ready.
const BACKGROUND_TURN: Duration = Duration::from_micros(500);

/// The turns of one shard, until its main future ends.
pub(super) struct Turns<T> {
    runtime: Runtime,
    spin: Duration,
    /// When a task last ran.
    busy: MonotonicTime,
    /// What background tasks took beyond their share while latency tasks were ready: they pay it back first.
    owed: Duration,
    main: Task<()>,
    result: Rc<RefCell<Option<T>>>,
}

impl<T: 'static> Turns<T> {
    /// Spawns the main future.
    pub(super) fn begin<F>(
        runtime: &Runtime,
        spin: Duration,
        main: impl FnOnce(Runtime) -> F,
    ) -> Turns<T>
    where
        F: Future<Output = T> + 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let (future, slot) = (main(runtime.clone()), result.clone());
        let main = runtime.spawn(TaskClass::Latency, async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        let (busy, owed) = (monotonic(), Duration::ZERO);
        Turns { runtime: runtime.clone(), spin, busy, owed, main, result }
    }

    /// Runs ready tasks; the main future's value once it ended, else how long the reactor may wait now. A wait other than
    /// [`Wait::No`] is followed by [`Self::woken`].
    pub(super) fn run(&mut self) -> Result<T, Wait> {
        let ran = self.run_tasks();
        if self.main.is_finished() {
            let value = self.result.borrow_mut().take();
            return Ok(value.expect("the main future leaves its value when it ends"));
        }
        Err(self.wait(ran))
    }

    /// Fires timers; no wait if anything else is to do.
    fn wait(&mut self, ran: bool) -> Wait {
        let shard = &*self.runtime.0;
        let now = monotonic();
        if ran {
            self.busy = now;
        }
        if shard.timers.next_deadline().is_some_and(|deadline| deadline <= now) {
            shard.timers.fire(now);
        }
        let spinning = now - self.busy < self.spin;
        let polling = spinning || shard.held_completions.get() > 0;
        if polling || !shard.executor.park() {
            return Wait::No;
        }
        match shard.timers.next_deadline() {
            None => Wait::Forever,
            Some(deadline) => Wait::AtMost(deadline - now),
        }
    }

    /// The reactor waited. To be called before completions wake tasks: only wakes from other threads are to signal the wake
    /// event.
    pub(super) fn woken(&self) {
        self.runtime.0.executor.unparked();
    }

    /// Wakes the tasks whose time came during the wait.
    pub(super) fn fire_timers(&self) {
        self.runtime.0.timers.fire(monotonic());
    }

    /// Runs ready tasks: latency tasks and those that they wake, then background tasks for their share of the time.
    fn run_tasks(&mut self) -> bool {
        let executor = &self.runtime.0.executor;
        let (latency, background) = executor.ready();
        if latency + background == 0 {
            return false;
        }
        let started = monotonic();
        let mut wave = latency;
        for _ in 0..WAVES_PER_TURN {
            for _ in 0..wave.min(LATENCY_POLLS_PER_TURN) {
                let Some(task) = executor.take(TaskClass::Latency, 0) else { break };
                task.run();
            }
            wave = executor.ready().0;
        }
        if background == 0 {
            return true;
        }
        let background_started = monotonic();
        let mut share = BACKGROUND_TURN;
        if latency > 0 {
            share = (background_started - started) * BACKGROUND_SHARES / LATENCY_SHARES;
            let paid = self.owed.min(share);
            (self.owed, share) = (self.owed - paid, share - paid);
            if self.owed > Duration::ZERO {
                return true;
            }
        }
        for _ in 0..background {
            let Some(task) = executor.take(TaskClass::Background, 0) else { break };
            task.run();
            if monotonic() - background_started >= share {
                break;
            }
        }
        let over = (monotonic() - background_started).saturating_sub(share);
        self.owed = if latency > 0 { over } else { Duration::ZERO };
        true
    }
}
