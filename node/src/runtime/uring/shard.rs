//! A shard's thread: tasks, timers and the ring, in turn, until the shard's main future ends.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use super::super::clock::monotonic;
use super::super::executor::{BACKGROUND_SHARES, Executor, LATENCY_SHARES, TaskClass};
use super::super::options::RuntimeOptions;
use super::super::reactor::{self, Wait};
use super::super::shared::{Runtime, Shard};
use super::super::threads;
use super::super::time::MonotonicTime;
use super::cores;
use super::reactor::Reactor;

/// Waves of latency tasks before the ring gets its turn. What one event leads to then goes to the kernel in one enter (a
/// receive wakes the journal's lane, a durable frame the answer); a task that only yields delays completions by no more
/// than so many of its polls.
const WAVES_PER_TURN: usize = 3;
/// Latency tasks polled in a wave: bounds how long a completion waits for tasks that always yield.
const LATENCY_POLLS_PER_TURN: usize = 256;
/// What background tasks may take per turn while no latency task is ready.
const BACKGROUND_TURN: Duration = Duration::from_micros(500);

/// Shards that run.
#[derive(Debug)]
#[must_use = "shards run until they are joined"]
pub struct Shards<T>(Vec<JoinHandle<io::Result<T>>>);

/// How a shard failed.
#[derive(Debug, Error)]
pub enum ShardPanicked {
    /// Its code panicked: the message is on standard error.
    #[error("shard {0} panicked")]
    Panicked(usize),
    /// Its ring failed.
    #[error("shard {0}: {1}")]
    Ring(usize, io::Error),
}

impl<T> Shards<T> {
    /// Waits for the main futures of all shards; their results in the order of the shards.
    ///
    /// # Errors
    /// The first shard that panicked or whose ring failed.
    pub fn join(self) -> Result<Vec<T>, ShardPanicked> {
        let ended: Vec<_> = self.0.into_iter().map(JoinHandle::join).collect();
        let results = ended.into_iter().enumerate().map(|(index, result)| match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ShardPanicked::Ring(index, error)),
            Err(_) => Err(ShardPanicked::Panicked(index)),
        });
        results.collect()
    }
}

/// Starts `options.shards` threads; each runs `main` with its own [`Runtime`] until that future ends.
///
/// # Errors
/// If a thread cannot be started or pinned.
///
/// # Panics
/// If `options.shards` is 0.
pub fn start_shards<M, F, T>(options: &RuntimeOptions, main: M) -> io::Result<Shards<T>>
where
    M: Fn(Runtime) -> F + Send + Sync + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    assert!(options.shards > 0, "there is at least one shard");
    let main = Arc::new(main);
    let mut shards = Vec::with_capacity(options.shards);
    for index in 0..options.shards {
        let (main, options) = (main.clone(), options.clone());
        let body = move || run(index, &options, |runtime| main(runtime));
        shards.push(threads::spawn(&format!("shard-{index}"), body)?);
    }
    Ok(Shards(shards))
}

/// Runs a single shard with the default options on the calling thread until `main` ends: for tools and tests.
///
/// # Errors
/// As [`block_on_with`].
pub fn block_on<F>(main: impl FnOnce(Runtime) -> F) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    block_on_with(&RuntimeOptions::default(), main)
}

/// Runs a single shard on the calling thread until `main` ends, whatever `options.shards` says.
///
/// # Errors
/// If the ring cannot be set up.
pub fn block_on_with<F>(
    options: &RuntimeOptions,
    main: impl FnOnce(Runtime) -> F,
) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    run(0, &RuntimeOptions { shards: 1, ..options.clone() }, main)
}

fn run<F>(
    index: usize,
    options: &RuntimeOptions,
    main: impl FnOnce(Runtime) -> F,
) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    if !options.cores.is_empty() {
        cores::pin(options.cores[index % options.cores.len()])?;
    }
    let reactor = Reactor::new(options.ring)?;
    let executor = Executor::new(Box::new(reactor.wake_event()));
    let reactor = reactor::Reactor::Uring(reactor);
    let shard = Shard::new(executor, reactor, (index, options.shards), options.device);
    let runtime = Runtime(Rc::new(shard));
    let _closing = Closing(runtime.clone());

    let result = Rc::new(RefCell::new(None));
    let (future, slot) = (main(runtime.clone()), result.clone());
    let main = async move {
        let value = future.await;
        *slot.borrow_mut() = Some(value);
    };
    let main = runtime.spawn(TaskClass::Latency, main);
    let mut turns = Turns { runtime: &runtime, spin: options.spin, busy: monotonic() };
    loop {
        let ran = turns.run_tasks();
        if main.is_finished() {
            break;
        }
        turns.wait(ran)?;
    }
    let value = result.borrow_mut().take();
    Ok(value.expect("the main future leaves its value when it ends"))
}

/// Ends a shard in order, also when its code panics: futures first, then what they left in the ring.
struct Closing(Runtime);

impl Drop for Closing {
    fn drop(&mut self) {
        let shard = &*self.0.0;
        if std::thread::panicking() {
            // Dropping futures may panic again, which would abort with less to read; the kernel cancels a dead ring's
            // operations, so their memory must outlive this thread.
            std::mem::forget(self.0.clone());
            return;
        }
        shard.executor.close();
        ring(shard).drain();
    }
}

fn ring(shard: &Shard) -> &Reactor {
    match &*shard.reactor {
        reactor::Reactor::Uring(reactor) => reactor,
        _ => unreachable!("`run` gave this shard a ring"),
    }
}

struct Turns<'a> {
    runtime: &'a Runtime,
    spin: Duration,
    /// When a task last ran.
    busy: MonotonicTime,
}

impl Turns<'_> {
    /// Fires timers and gives the ring its turn; sleeps if nothing else is to do.
    fn wait(&mut self, ran: bool) -> io::Result<()> {
        let shard = &*self.runtime.0;
        let ring = ring(shard);
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
            ring.enter(Wait::No)?;
            std::hint::spin_loop();
            return ring.reap();
        }
        let wait = match shard.timers.next_deadline() {
            None => Wait::Forever,
            Some(deadline) => Wait::AtMost(deadline - now),
        };
        let entered = ring.enter(wait);
        // Before completions wake tasks: only wakes from other threads are to signal the wake event.
        shard.executor.unparked();
        entered?;
        ring.reap()?;
        shard.timers.fire(monotonic());
        Ok(())
    }

    /// Runs ready tasks: latency tasks and those that they wake, then background tasks for their share of the time.
    fn run_tasks(&self) -> bool {
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
        let share = match latency {
            0 => BACKGROUND_TURN,
            _ => (background_started - started) * BACKGROUND_SHARES / LATENCY_SHARES,
        };
        for _ in 0..background {
            let Some(task) = executor.take(TaskClass::Background, 0) else { break };
            task.run();
            if monotonic() - background_started >= share {
                break;
            }
        }
        true
    }
}
