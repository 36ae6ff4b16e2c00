//! What a run measured, and its forms: text, `.hgrm`, JSON, one self-contained page.
//!
//! Read first: [`Report`]; then `text.rs`, `page.rs` with `chart.rs`, `hgrm.rs`. [`compare`] reads two reports back.

mod chart;
pub mod compare;
mod hgrm;
mod page;
pub mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::figures::median;
use crate::machine::Machine;
use crate::wal::generator::{Measured, new_histogram};
use crate::wal::usage::Usage;

/// Percentiles of tables, as quantiles with their names.
pub const QUANTILES: [(f64, &str); 6] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"), (1.0, "max")];
/// Points of a percentile curve in each halving of what is left above it.
const POINTS_PER_HALVING: u32 = 5;
/// Halvings of a percentile curve: to 1 in 2^20, a million.
const HALVINGS: u32 = 20;

/// One run: what was measured, on what, under which load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine, and its load before.
    pub machine: Machine,
    /// Its load averages afterwards.
    pub load_after: [f64; 3],
    /// What was run.
    pub setting: Setting,
    /// The product's appends first, then baselines.
    pub series: Vec<Series>,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The load in words, with how latencies are counted.
    pub load: String,
    /// Whether appends were due at fixed times.
    pub open_loop: bool,
    /// Bytes of WAL in an append.
    pub size_bytes: usize,
    /// Timelines pushed to.
    pub connections: usize,
    /// Outstanding appends of each.
    pub outstanding: usize,
    /// When an append counts as acknowledged.
    pub durability: String,
    /// Acceptors that must have it.
    pub quorum: String,
    /// Who they are.
    pub acceptors: String,
    /// Threads of the load generator.
    pub generator: String,
    /// What is under the acceptors' files.
    pub device: String,
    /// Version of the walproposer protocol.
    pub protocol: u32,
    /// Rounds.
    pub rounds: usize,
    /// Seconds measured in all rounds.
    pub seconds: f64,
    /// Seconds before each round that were not.
    pub warm_up_s: f64,
}

/// One curve: the product's or a baseline's, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What was done.
    pub name: String,
    /// Operations.
    pub count: u64,
    /// Operations per second.
    pub per_s: f64,
    /// Mean latency.
    pub mean_us: f64,
    /// The curve: quantile and latency in microseconds.
    pub curve: Vec<(f64, f64)>,
    /// Operations per second in equal parts of the measured time, round after round.
    pub over_time_per_s: Vec<f64>,
    /// Each round by itself.
    pub rounds: Vec<Round>,
    /// What it cost, per operation.
    pub cost: Cost,
    /// All latencies.
    #[serde(skip)]
    histogram: Option<Histogram<u64>>,
    #[serde(skip)]
    spent: Spent,
}

/// One round of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Operations per second.
    pub per_s: f64,
    /// Latencies in microseconds at [`QUANTILES`].
    pub latencies_us: [f64; QUANTILES.len()],
}

/// What an operation cost. `None`: not to be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of the acceptors, or of the baseline's thread.
    pub cpu_us: Option<f64>,
    /// System calls of their shards: enters of the ring.
    pub enters: Option<f64>,
    /// Device writes that were flushed.
    pub flushes: Option<f64>,
    /// CPU time of the load generator.
    pub generator_cpu_us: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Spent {
    seconds: f64,
    operations: u64,
    usage: Option<Usage>,
    generator_cpu_ns: u64,
}

impl Series {
    /// Nothing measured yet.
    pub fn new(name: &str) -> Series {
        Series {
            name: name.to_string(),
            count: 0,
            per_s: 0.0,
            mean_us: 0.0,
            curve: Vec::new(),
            over_time_per_s: Vec::new(),
            rounds: Vec::new(),
            cost: Cost::default(),
            histogram: None,
            spent: Spent::default(),
        }
    }

    /// Adds a round.
    pub fn add(&mut self, round: &Measured) -> anyhow::Result<()> {
        let operations: u64 = round.over_time.iter().sum();
        let seconds = round.duration.as_secs_f64();
        let interval_s = round.interval.as_secs_f64();
        self.over_time_per_s.extend(round.over_time.iter().map(|count| *count as f64 / interval_s));
        self.rounds.push(Round {
            per_s: operations as f64 / seconds,
            latencies_us: QUANTILES
                .map(|(quantile, _)| round.latencies_ns.value_at_quantile(quantile) as f64 / 1e3),
        });
        let spent = &mut self.spent;
        spent.seconds += seconds;
        spent.operations += operations;
        spent.generator_cpu_ns += round.generator_cpu_ns;
        let usage = spent.usage.map_or(round.usage, |before| before.plus(&round.usage));
        spent.usage = Some(usage);
        let each = |sum: Option<u64>| Some(sum? as f64 / spent.operations.max(1) as f64);
        self.cost = Cost {
            cpu_us: each(usage.cpu_ns).map(|ns| ns / 1e3),
            enters: each(usage.ring_enters),
            flushes: each(usage.frames),
            generator_cpu_us: each(Some(spent.generator_cpu_ns)).map(|ns| ns / 1e3),
        };
        let histogram = self.histogram.get_or_insert_with(new_histogram);
        histogram.add(&round.latencies_ns)?;
        self.count = histogram.len();
        self.per_s = spent.operations as f64 / spent.seconds;
        self.mean_us = histogram.mean() / 1e3;
        self.curve = curve(histogram);
        Ok(())
    }

    /// Latency in microseconds at a quantile, from the curve.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        let at = self.curve.iter().find(|(at, _)| *at >= quantile - 1e-12);
        at.or(self.curve.last()).map_or(f64::NAN, |(_, latency_us)| *latency_us)
    }

    /// The median over rounds of what `value` takes from each.
    pub fn median(&self, value: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(value).collect())
    }

    /// The median over rounds of a latency of [`QUANTILES`] in microseconds.
    pub fn median_latency_us(&self, name: &str) -> f64 {
        let place = QUANTILES.iter().position(|(_, known)| *known == name);
        let place = place.expect("the percentile is one of the table's");
        self.median(|round| round.latencies_us[place])
    }
}

/// Quantiles that lie closer together towards 1, those of tables among them.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = 0..=HALVINGS * POINTS_PER_HALVING;
    let even =
        steps.map(|step| 1.0 - 0.5_f64.powf(f64::from(step) / f64::from(POINTS_PER_HALVING)));
    let mut quantiles: Vec<f64> = even.chain(QUANTILES.map(|(quantile, _)| quantile)).collect();
    quantiles.sort_by(f64::total_cmp);
    quantiles.dedup();
    let latency_us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    quantiles.into_iter().map(|quantile| (quantile, latency_us(quantile))).collect()
}

/// Writes a report's files: `PREFIX.hgrm`, `PREFIX.json`, `PREFIX.html`.
pub fn write(report: &Report, prefix: &Path) -> anyhow::Result<()> {
    let path = |extension: &str| {
        let mut name = prefix.as_os_str().to_os_string();
        name.push(extension);
        PathBuf::from(name)
    };
    let appends = report.series.first().and_then(|series| series.histogram.as_ref());
    fs::write(path(".hgrm"), hgrm::text(appends.context("a run has appends")?))?;
    fs::write(path(".json"), serde_json::to_string_pretty(report)?)?;
    fs::write(path(".html"), page::html(&[(None, report)]))?;
    Ok(())
}

/// Reads a report's JSON.
pub fn read(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let found = serde_json::from_str(&text);
    found.with_context(|| format!("{} is no report of firn-bench wal", path.display()))
}

#[cfg(test)]
mod tests;
