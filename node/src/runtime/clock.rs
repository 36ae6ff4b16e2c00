//! The kernel's clocks and randomness: the only place that reads them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::time::MonotonicTime;

/// Now on the machine's monotonic clock.
pub(super) fn monotonic() -> MonotonicTime {
    let now = clock_gettime(ClockId::Monotonic);
    MonotonicTime::from_nanoseconds(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Microseconds since 1970 on the machine's wall clock.
pub(super) fn unix_time_us() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// Time that the calling thread has spent on a core.
pub(super) fn thread_cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Bytes of the kernel's generator.
pub(super) fn fill_random(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty());
        match filled {
            Ok(count) => bytes = &mut bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel has a random generator: {error}"),
        }
    }
}
