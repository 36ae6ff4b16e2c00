//! One row of a report: latencies on one scale, and CPU and kernel entries per operation beside them.

use std::time::Duration;

use anyhow::Context;
use firn_node::runtime::{MonotonicTime, Runtime};
use hdrhistogram::Histogram;

/// Longest latency that a histogram tells apart: a minute, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// What was running when a row began.
pub struct Row {
    runtime: Runtime,
    latencies_ns: Histogram<u64>,
    started: MonotonicTime,
    cpu_ns: u64,
    enters: u64,
}

impl Row {
    /// Begins a row on a shard's own thread.
    pub fn begin(runtime: &Runtime) -> anyhow::Result<Row> {
        Ok(Row {
            runtime: runtime.clone(),
            latencies_ns: Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?,
            cpu_ns: thread_cpu_ns()?,
            enters: runtime.ring_enters(),
            started: runtime.now(),
        })
    }

    /// Adds one operation.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.saturating_record(nanoseconds);
    }

    /// Ends the row and prints it.
    pub fn print(self, name: &str) -> anyhow::Result<()> {
        let elapsed = self.runtime.now() - self.started;
        let cpu_ns = thread_cpu_ns()? - self.cpu_ns;
        let enters = self.runtime.ring_enters() - self.enters;
        let count = self.latencies_ns.len().max(1) as f64;
        let at = |quantile| self.latencies_ns.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "{name:<34} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>9.1} {:>8.1} {:>7.2}",
            count / elapsed.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
            self.latencies_ns.max() as f64 / 1e3,
            cpu_ns as f64 / count / 1e3,
            enters as f64 / count,
        );
        Ok(())
    }
}

/// Prints the heads of the columns.
pub fn print_head() {
    println!(
        "{:<34} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7}",
        "latencies in microseconds", "per s", "p50", "p99", "p99.9", "max", "CPU us", "enters"
    );
}

/// Time that the calling thread spent on a core: first field of its schedstat (Linux Documentation/scheduler/sched-stats.rst).
fn thread_cpu_ns() -> anyhow::Result<u64> {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).with_context(|| path.to_string())?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().with_context(|| format!("{path}: expected a number, found {first:?}"))
}
