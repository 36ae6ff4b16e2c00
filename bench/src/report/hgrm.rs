//! HdrHistogram's percentile distribution as text, which its plotters read. Values are in microseconds.

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Lines per halving of what is left, as the reference program has.
const TICKS_PER_HALF: u32 = 5;

/// The distribution of latencies given in nanoseconds.
pub fn text(latencies_ns: &Histogram<u64>) -> String {
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for step in latencies_ns.iter_quantiles(TICKS_PER_HALF) {
        let quantile = step.quantile_iterated_to();
        let value_us = step.value_iterated_to() as f64 / 1e3;
        let count = latencies_ns.count_between(0, step.value_iterated_to());
        // Writing to a string does not fail.
        let _ = match quantile < 1.0 {
            true => {
                let rest = 1.0 / (1.0 - quantile);
                writeln!(out, "{value_us:>12.3} {quantile:>14.12} {count:>10} {rest:>14.2}")
            }
            false => writeln!(out, "{value_us:>12.3} {quantile:>14.12} {count:>10}"),
        };
    }
    let (mean, deviation) = (latencies_ns.mean() / 1e3, latencies_ns.stdev() / 1e3);
    let (max, count) = (latencies_ns.max() as f64 / 1e3, latencies_ns.len());
    out += &format!("#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]\n");
    out += &format!("#[Max     = {max:>12.3}, Total count    = {count:>12}]\n");
    out += &format!("#[Buckets = {:>12}, SubBuckets     = {:>12}]\n", latencies_ns.buckets(), 2048);
    out
}
