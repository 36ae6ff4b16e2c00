//! A shard on an executor of the library: tasks, timers and the executor, in turn, until the shard's main future ends.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::super::checks::{StartError, advice};
use super::super::executor::Executor;
use super::super::options::RuntimeOptions;
use super::super::reactor::{self, Wait};
use super::super::shared::{Runtime, Shard};
use super::super::turns::Turns;
use super::super::uring::patient;
use super::reactor::Reactor;

/// Memory that the library registers with each of its rings for buffers of direct I/O. Larger ones, and those that find no
/// room, come from the heap. Small: it counts as locked memory.
const REGISTERED_BYTES: usize = 1 << 20;
/// The library's timer for preemption. The shard's loop yields by itself, see `SLEEP_MAX` for why the timer is long.
const PREEMPTION: Duration = Duration::from_secs(10);
/// Rings of one executor.
const RINGS: usize = 3;

fn executor() -> io::Result<LocalExecutor> {
    patient(|| {
        // The shard's thread is pinned already.
        let builder = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(REGISTERED_BYTES)
            .preempt_timer(PREEMPTION);
        Ok(builder.make()?)
    })
}

/// All shards' executors are set up at once to see whether they fit.
pub(in super::super) fn check_executors(options: &RuntimeOptions) -> Result<(), StartError> {
    let made: io::Result<Vec<LocalExecutor>> = (0..options.shards).map(|_| executor()).collect();
    made.map(drop).map_err(|error| {
        // The library's own refusal is for too little locked memory.
        let code = error.raw_os_error().unwrap_or(libc::ENOMEM);
        let advice = advice(&io::Error::from_raw_os_error(code));
        StartError::TooManyRings { rings: options.shards * RINGS, error, advice }
    })
}

/// Runs a shard on the calling thread until `main` ends.
pub(in super::super) fn run<F>(
    index: usize,
    options: &RuntimeOptions,
    main: impl FnOnce(Runtime) -> F,
) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    executor()?.run(async move {
        let reactor = Reactor::new()?;
        let executor = Executor::new(reactor.wake_event());
        let reactor = reactor::Reactor::Glommio(reactor);
        let shard = Shard::new(executor, reactor, (index, options.shards), options.device);
        let runtime = Runtime(Rc::new(shard));
        let _leaked = LeakedByPanic(runtime.clone());
        let reactor = reactor_of(&runtime);

        let value = {
            let mut turns = Turns::begin(&runtime, options.spin, main);
            loop {
                let wait = match turns.run() {
                    Ok(value) => break value,
                    Err(wait) => wait,
                };
                reactor.enter(wait).await;
                if wait != Wait::No {
                    turns.woken();
                }
                reactor.reap();
                turns.fire_timers();
            }
        };
        runtime.0.executor.close();
        reactor.drain().await;
        Ok(value)
    })
}

fn reactor_of(runtime: &Runtime) -> &Reactor {
    match &*runtime.0.reactor {
        reactor::Reactor::Glommio(reactor) => reactor,
        _ => unreachable!("`run` gave this shard an executor of the library"),
    }
}

/// Dropping futures may panic again, which would abort with less to read.
struct LeakedByPanic(Runtime);

impl Drop for LeakedByPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.clone());
        }
    }
}
