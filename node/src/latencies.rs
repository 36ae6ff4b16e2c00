//! How long things take: one HDR histogram per stage, on one thread, copied for a scrape.

use std::cell::RefCell;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in nanoseconds: a minute; longer ones count as this.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Two digits: 1 % precision in a few tens of KiB.
const LATENCY_DIGITS: u8 = 2;

/// Latencies in nanoseconds.
#[derive(Debug)]
pub struct Latencies(RefCell<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        Latencies(RefCell::new(new_histogram()))
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.borrow_mut().saturating_record(nanoseconds.max(1));
    }

    /// A copy for a scrape.
    pub fn snapshot(&self) -> Histogram<u64> {
        self.0.borrow().clone()
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)
        .expect("the bounds are constants in order")
}
