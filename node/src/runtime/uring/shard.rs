//! A shard on a ring: tasks, timers and the ring, in turn, until the shard's main future ends.

use std::future::Future;
use std::io;
use std::rc::Rc;

use super::super::executor::Executor;
use super::super::options::RuntimeOptions;
use super::super::reactor::{self, Wait};
use super::super::shared::{Runtime, Shard};
use super::super::turns::Turns;
use super::reactor::Reactor;

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
    let reactor = Reactor::new(options.ring)?;
    let executor = Executor::new(Box::new(reactor.wake_event()));
    let reactor = reactor::Reactor::Uring(reactor);
    let shard = Shard::new(executor, reactor, (index, options.shards), options.device);
    let runtime = Runtime(Rc::new(shard));
    let _closing = Closing(runtime.clone());
    let ring = ring(&runtime.0);

    let mut turns = Turns::begin(&runtime, options.spin, main);
    loop {
        let wait = match turns.run() {
            Ok(value) => return Ok(value),
            Err(wait) => wait,
        };
        let entered = ring.enter(wait);
        if wait == Wait::No {
            entered?;
            std::hint::spin_loop();
            ring.reap()?;
            continue;
        }
        turns.woken();
        entered?;
        ring.reap()?;
        turns.fire_timers();
    }
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
