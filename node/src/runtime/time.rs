//! Monotonic time as the runtime tells it: real in `uring`, virtual in `sim`.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the monotonic clock, in nanoseconds since an origin that all shards of a process share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime {
    nanoseconds: u64,
}

impl MonotonicTime {
    /// The moment `nanoseconds` after the clock's origin.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self { nanoseconds }
    }

    /// Nanoseconds since the clock's origin.
    pub const fn nanoseconds(self) -> u64 {
        self.nanoseconds
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: MonotonicTime) -> Duration {
        Duration::from_nanos(self.nanoseconds.saturating_sub(earlier.nanoseconds))
    }
}

impl Add<Duration> for MonotonicTime {
    type Output = MonotonicTime;
    fn add(self, duration: Duration) -> MonotonicTime {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        MonotonicTime { nanoseconds: self.nanoseconds.saturating_add(nanoseconds) }
    }
}

impl Sub for MonotonicTime {
    type Output = Duration;
    fn sub(self, earlier: MonotonicTime) -> Duration {
        self.since(earlier)
    }
}
