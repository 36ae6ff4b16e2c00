//! Wrappers between files and the ring that any data directory can be put behind, chosen at start.
//!
//! - *modelled*: the real operation runs, and its completion is held until a fixed time after submission. A slow or noisy
//!   disk then does not hide the software (best over a memory file system). Any number of operations are held at once;
//!   a shard that holds some polls instead of sleeping, so that the time is exact. An operation slower than the model
//!   completes when it completes.
//! - *volatile*: bytes written and not flushed live in this process only and vanish with it, also when it ends in order.
//!   That makes `kill -9` of a real process a power failure for bytes: the only way to notice a missing flush in one.
//!   Names are not volatile. What one shard has not flushed, others do not see.
//!
//! `sim` needs neither: its disks have times and crashes of their own.

mod extents;
mod modelled;
mod volatile;

use std::str::FromStr;
use std::time::Duration;

use super::options::parse_time;
pub(super) use modelled::hold;
pub(super) use volatile::{FileIdentity, VolatileFile, VolatileFiles};

/// A durable write on a good NVMe in a data centre, and a read.
const MODELLED_WRITE: Duration = Duration::from_micros(20);
const MODELLED_READ: Duration = Duration::from_micros(80);

/// What stands between files and the ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// Nothing.
    #[default]
    Real,
    /// Completions are held until a fixed time after submission.
    Modelled {
        /// Time of writes and flushes.
        write: Duration,
        /// Time of reads.
        read: Duration,
    },
    /// What is not flushed vanishes with the process.
    Volatile,
}

/// A device's text form that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid device {0:?}: expected real, volatile or modelled[:WRITE[:READ]] with times as 20us"
)]
pub struct DeviceParseError(String);

impl FromStr for Device {
    type Err = DeviceParseError;
    fn from_str(text: &str) -> Result<Self, DeviceParseError> {
        let error = || DeviceParseError(text.to_string());
        let time = |text: Option<&str>, default| {
            text.map_or(Ok(default), |text| parse_time(text).map_err(|_| error()))
        };
        let mut parts = text.split(':');
        let device = match parts.next() {
            Some("real") => Device::Real,
            Some("volatile") => Device::Volatile,
            Some("modelled") => Device::Modelled {
                write: time(parts.next(), MODELLED_WRITE)?,
                read: time(parts.next(), MODELLED_READ)?,
            },
            _ => return Err(error()),
        };
        match parts.next() {
            None => Ok(device),
            Some(_) => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests;
