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

pub(super) use modelled::hold;
pub(super) use volatile::{FileIdentity, VolatileFile, VolatileFiles};

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
#[error("invalid device {0:?}: expected real, volatile or modelled:WRITE_US:READ_US")]
pub struct DeviceParseError(String);

impl FromStr for Device {
    type Err = DeviceParseError;
    fn from_str(text: &str) -> Result<Self, DeviceParseError> {
        let error = || DeviceParseError(text.to_string());
        let microseconds = |text: Option<&str>| {
            let number = text.and_then(|text| text.parse().ok()).ok_or_else(error)?;
            Ok(Duration::from_micros(number))
        };
        let mut parts = text.split(':');
        let device = match parts.next() {
            Some("real") => Device::Real,
            Some("volatile") => Device::Volatile,
            Some("modelled") => Device::Modelled {
                write: microseconds(parts.next())?,
                read: microseconds(parts.next())?,
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
