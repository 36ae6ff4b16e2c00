//! Holding completions until a fixed time after submission.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use super::super::Runtime;

/// Runs an operation; gives its result no sooner than `latency` after this call.
pub(in super::super) async fn hold<T>(
    runtime: &Runtime,
    latency: Duration,
    operation: impl Future<Output = T>,
) -> T {
    let deadline = runtime.now() + latency;
    let result = operation.await;
    let _polling = Polling::new(runtime);
    runtime.sleep_until(deadline).await;
    result
}

/// While one lives, the shard polls: the kernel's timers are too coarse for a device's microseconds.
struct Polling<'a>(&'a Cell<usize>);

impl Polling<'_> {
    fn new(runtime: &Runtime) -> Polling<'_> {
        let held = &runtime.0.held_completions;
        held.set(held.get() + 1);
        Polling(held)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
