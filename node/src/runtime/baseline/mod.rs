//! What figures are held against: the device, a file per timeline, a bare socket echo. Each runs on the same runtime and
//! behind the same device wrapper as what it is compared with, does the least that can be done, and is used by
//! `firn-bench` only.
//!
//! Read in any order: [`device`], [`files`], [`echo`]. `others.rs` compares the runtime itself with glommio and tokio
//! (feature `baselines`, which `firn-bench` turns on: the node is built without them).

pub mod device;
pub mod echo;
pub mod files;
#[cfg(feature = "baselines")]
mod glommio;
#[cfg(feature = "baselines")]
pub mod others;
#[cfg(feature = "baselines")]
mod tokio;
#[cfg(feature = "baselines")]
pub mod uring;

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Buffer, File, MonotonicTime, OpenOptions, Runtime};

/// Bytes per write of a zero fill.
const FILL_BYTES: u64 = 1 << 20;

/// Hears of each operation when it ends: when that is, and how long it took.
pub type Heard<'a> = &'a dyn Fn(MonotonicTime, Duration);

/// A new file of zeroes that are on the device, as the journal prepares its segments. `len_bytes` is a multiple of 4 KiB.
///
/// # Errors
/// Those of the file system.
pub async fn zero_filled(runtime: &Runtime, path: &Path, len_bytes: u64) -> io::Result<File> {
    let file = runtime.open(path, OpenOptions::read_write().create().truncate()).await?;
    file.fallocate(0, len_bytes).await?;
    let mut buffer = Buffer::zeroed(FILL_BYTES.min(len_bytes) as usize);
    let mut done_bytes = 0;
    while done_bytes < len_bytes {
        buffer.set_len(buffer.capacity().min((len_bytes - done_bytes) as usize));
        let written_bytes = buffer.len() as u64;
        let (result, returned) = file.write_at(buffer, done_bytes).await;
        result?;
        buffer = returned;
        done_bytes += written_bytes;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
