//! One preallocated file per timeline, each append a write with an fdatasync linked to it, all timelines at once: what a
//! node without a shared journal does at its best. Files are zero-filled, so a flush has no metadata to write.

use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;

use super::super::{ALIGNMENT_BYTES, Buffer, MonotonicTime, OpenOptions, Runtime};
use super::{Heard, zero_filled};

/// Bytes of a file: written round and round.
const FILE_BYTES: u64 = 256 << 10;

/// Makes the files of `count` timelines.
///
/// # Errors
/// Those of the file system.
pub async fn prepare(runtime: &Runtime, directory: &Path, count: usize) -> io::Result<()> {
    for number in 0..count {
        zero_filled(runtime, &path(directory, number), FILE_BYTES).await?.fdatasync().await?;
    }
    Ok(())
}

/// Appends `size_bytes`, rounded up to whole blocks, `depth` at a time to each file until the given moment.
///
/// # Errors
/// Those of the file system.
///
/// # Panics
/// If the size is over a file's.
pub async fn run(
    runtime: &Runtime,
    directory: &Path,
    count: usize,
    (size_bytes, depth): (usize, usize),
    until: MonotonicTime,
    heard: Heard<'_>,
) -> io::Result<()> {
    let block_bytes = size_bytes.next_multiple_of(ALIGNMENT_BYTES);
    let places = FILE_BYTES / block_bytes as u64;
    assert!(places > 0, "an append fits into a file");
    let lanes = (0..count * depth).map(|lane| async move {
        let path = path(directory, lane % count);
        let file = runtime.open(path, OpenOptions::read_write()).await?;
        let mut buffer = Buffer::zeroed(block_bytes);
        for append in 0.. {
            let started = runtime.now();
            if started >= until {
                break;
            }
            let place = (append * depth as u64 + (lane / count) as u64) % places;
            let offset_bytes = place * block_bytes as u64;
            let (result, returned) = file.write_linked_fdatasync_at(buffer, offset_bytes).await;
            result?;
            buffer = returned;
            let ended = runtime.now();
            heard(ended, ended - started);
        }
        io::Result::Ok(())
    });
    try_join_all(lanes).await.map(drop)
}

fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("timeline-{number}"))
}
