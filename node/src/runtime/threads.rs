//! Threads are made here only: shards, and short helpers for calls that block.

use std::io;
use std::thread::JoinHandle;

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "this is the place where threads start")]
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(format!("firn-{name}")).spawn(body)
}
