//! Shards' threads: how they start, whichever implementation runs them, and how they end.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use thiserror::Error;

use super::options::{RuntimeName, RuntimeOptions};
use super::shared::Runtime;
use super::{cores, glommio, threads, uring};

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
    match options.runtime {
        RuntimeName::Uring => uring::run(index, options, main),
        RuntimeName::Glommio => glommio::run(index, options, main),
    }
}
