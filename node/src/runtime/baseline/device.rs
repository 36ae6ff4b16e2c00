//! The device alone: direct writes, one after the other through a zero-filled file, so many at a time; each durable
//! (RWF_DSYNC), or none flushed.

use std::cell::Cell;
use std::io;
use std::path::Path;

use futures_util::future::try_join_all;

use super::super::{ALIGNMENT_BYTES, Buffer, MonotonicTime, OpenOptions, Runtime};
use super::{Heard, zero_filled};

/// Bytes of the file: written round and round.
const FILE_BYTES: u64 = 64 << 20;

/// Makes the file that [`run`] writes to.
///
/// # Errors
/// Those of the file system.
pub async fn prepare(runtime: &Runtime, path: &Path) -> io::Result<()> {
    zero_filled(runtime, path, FILE_BYTES).await?.fdatasync().await
}

/// Writes `size_bytes`, rounded up to whole blocks, `depth` at a time until the given moment; durably or not at all.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// If the size is over the file's.
pub async fn run(
    runtime: &Runtime,
    path: &Path,
    (size_bytes, depth, durable): (usize, usize, bool),
    until: MonotonicTime,
    heard: Heard<'_>,
) -> io::Result<()> {
    let block_bytes = size_bytes.next_multiple_of(ALIGNMENT_BYTES);
    let places = FILE_BYTES / block_bytes as u64;
    assert!(places > 0, "a write fits into the file");
    let file = runtime.open(path, OpenOptions::read_write()).await?;
    let next = Cell::new(0);
    let lanes = (0..depth).map(|_| async {
        let mut buffer = Buffer::zeroed(block_bytes);
        loop {
            let started = runtime.now();
            if started >= until {
                return io::Result::Ok(());
            }
            let offset_bytes = next.replace(next.get() + 1) % places * block_bytes as u64;
            let (result, returned) = match durable {
                true => file.write_durable_at(buffer, offset_bytes).await,
                false => file.write_at(buffer, offset_bytes).await,
            };
            result?;
            buffer = returned;
            let ended = runtime.now();
            heard(ended, ended - started);
        }
    });
    try_join_all(lanes).await.map(drop)
}
