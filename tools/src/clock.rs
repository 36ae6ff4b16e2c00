//! Real time and threads. Nothing in this crate is simulated: it drives real processes.

#![expect(clippy::disallowed_methods, reason = "the command line lives in real time")]

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The present moment.
pub fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs `work` on a thread of its own.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(work)
}

/// How long [`wait_until`] pauses between two looks: short against anything it waits for, long against a look's cost.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `ready` gives a value, an error, or the time is over (`None`).
pub fn wait_until<T>(
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let start = now();
    loop {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        sleep(LOOK_INTERVAL);
    }
}
