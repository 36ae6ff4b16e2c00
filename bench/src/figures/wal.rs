//! Figures of the append path: from a proposer's socket through a shard and its journal and back.
//!
//! "Modelled": a device whose durable write takes 20 us, in memory, the baselines through the same wrapper. One shard.

use super::figure::{Figure, Goal};
use super::runs::{Device, Effort, median, wal};
use crate::report::{Report, Series};

/// Measures them all.
pub fn figures(quick: bool) -> anyhow::Result<Vec<Figure>> {
    let effort = Effort { quick };
    let mut figures = Vec::new();
    figures.extend(one_at_a_time(effort)?);
    figures.extend(on_the_real_device(effort)?);
    figures.extend(throughput_of_a_core(effort)?);
    figures.extend(large_appends(effort)?);
    figures.extend(many_timelines(effort)?);
    figures.push(beside_a_neighbour(effort)?);
    figures.extend(heartbeats(effort)?);
    Ok(figures)
}

fn figure(
    name: &str,
    unit: &'static str,
    measured: f64,
    baseline: Option<(&str, f64)>,
    goal: Goal,
) -> Figure {
    let baseline = baseline.map(|(name, value)| (name.to_string(), value));
    Figure { name: name.to_string(), unit, measured, baseline, goal }
}

fn series<'a>(report: &'a Report, name: &str) -> &'a Series {
    let found = report.series.iter().find(|series| series.name == name);
    found.expect("a run with baselines has them all")
}

fn rate(series: &Series) -> f64 {
    series.median(|round| round.per_s)
}

fn one_at_a_time(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let report = wal(effort, Device::Modelled, effort.rounds(), &["--baselines"])?;
    let appends = series(&report, "appends");
    let below = |percentile| {
        let parts = ["device", "socket echo"];
        let sum = parts.map(|name| series(&report, name).median_latency_us(percentile));
        Some(("device + socket echo", sum.iter().sum()))
    };
    let latency = |percentile, bound| {
        figure(
            &format!("one timeline, one outstanding 8 KiB append, modelled: {percentile}"),
            "us",
            appends.median_latency_us(percentile),
            below(percentile),
            Goal::AboveBaselineAtMost(bound),
        )
    };
    Ok(vec![
        latency("p50", 25.0),
        latency("p99", 60.0),
        figure(
            "the same: system calls of the shard per append",
            "calls",
            appends.cost.enters.unwrap_or(f64::NAN),
            None,
            Goal::AtMost(3.0),
        ),
        figure(
            "the same: CPU time of the shard per append",
            "us",
            appends.cost.cpu_us.unwrap_or(f64::NAN),
            None,
            Goal::None,
        ),
    ])
}

/// Longer than an append takes on the real device: with it neither core goes to sleep between two appends.
const POLLS_US: &str = "300";

fn on_the_real_device(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let one = wal(effort, Device::Real, effort.rounds(), &["--baselines"])?;
    let awake = ["--spin-us", POLLS_US, "--generator-spin-us", POLLS_US];
    let awake = wal(effort, Device::Real, effort.rounds(), &awake)?;
    let sixteen = wal(effort, Device::Real, effort.rounds(), &["--timelines", "16"])?;
    let device = series(&one, "device");
    Ok(vec![
        figure(
            "one timeline, one outstanding 8 KiB append, real device: p50",
            "us",
            series(&one, "appends").median_latency_us("p50"),
            Some(("durable write", device.median_latency_us("p50"))),
            Goal::RatioAtMost(1.35),
        ),
        figure(
            &format!(
                "the same, shard and load generator poll {POLLS_US} us before they sleep: p50"
            ),
            "us",
            series(&awake, "appends").median_latency_us("p50"),
            Some(("durable write", device.median_latency_us("p50"))),
            Goal::None,
        ),
        figure(
            "16 timelines, one outstanding 8 KiB append each, real device",
            "appends/s",
            rate(series(&sixteen, "appends")),
            Some(("durable writes one at a time", rate(device))),
            Goal::RatioAtLeast(5.0),
        ),
    ])
}

/// Of a core, which the shard shares with the copying that the modelled device has kernel threads do; the load generator
/// has another one. Beside it what the shard's thread alone would reach: its own time on the core, and the kernel's for it.
fn throughput_of_a_core(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let load = ["--timelines", "16", "--outstanding", "8", "--baselines"];
    let report = wal(effort, Device::Modelled, effort.rounds(), &load)?;
    let (appends, echo) = (series(&report, "appends"), series(&report, "socket echo"));
    let per_cpu = |series: &Series| 1e6 / series.cost.cpu_us.unwrap_or(f64::NAN);
    Ok(vec![
        figure(
            "16 connections, 8 outstanding 8 KiB appends each, modelled, one shard",
            "appends/s",
            rate(appends),
            Some(("socket echo", rate(echo))),
            Goal::AtLeast(100_000.0),
        ),
        figure(
            "the same: per second of the shard's CPU time",
            "appends/s",
            per_cpu(appends),
            Some(("socket echo", per_cpu(echo))),
            Goal::None,
        ),
        figure("the same: p99.99", "us", appends.median_latency_us("p99.99"), None, Goal::None),
    ])
}

fn large_appends(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let load = ["--size", "131072", "--outstanding", "8", "--baselines"];
    let report = wal(effort, Device::Real, effort.rounds(), &load)?;
    let megabytes = |name| rate(series(&report, name)) * 131_072.0 / 1e6;
    let against = |name, baseline, series, goal| {
        figure(name, "MB/s", megabytes("appends"), Some((baseline, megabytes(series))), goal)
    };
    Ok(vec![
        against(
            "one timeline, 8 outstanding 128 KiB appends, real device",
            "direct writes, not flushed",
            "device, not flushed",
            Goal::RatioAtLeast(0.6),
        ),
        against("the same", "durable writes", "device", Goal::None),
    ])
}

fn many_timelines(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let count = if effort.quick { "100" } else { "1000" };
    let load = ["--timelines", count, "--size", "512", "--baselines"];
    let report = wal(effort, Device::Real, effort.rounds(), &load)?;
    let appends = series(&report, "appends");
    let name = format!("{count} timelines, one outstanding 512-byte append each, real device");
    Ok(vec![
        figure(
            &name,
            "appends/s",
            rate(appends),
            Some(("file per timeline", rate(series(&report, "file per timeline")))),
            Goal::RatioAtLeast(5.0),
        ),
        figure(
            "the same: device flushes per append",
            "flushes",
            appends.cost.flushes.unwrap_or(f64::NAN),
            Some(("file per timeline", 1.0)),
            Goal::RatioAtMost(0.02),
        ),
    ])
}

fn beside_a_neighbour(effort: Effort) -> anyhow::Result<Figure> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds() {
        let p99 = |arguments: &[&str]| {
            let report = wal(effort, Device::Real, 1, arguments)?;
            anyhow::Ok(series(&report, "appends").median_latency_us("p99"))
        };
        alone.push(p99(&["--size", "512"])?);
        beside.push(p99(&["--size", "512", "--beside", "131072"])?);
    }
    Ok(figure(
        "512-byte append beside another tenant's saturating 128 KiB stream, real device: p99",
        "us",
        median(beside),
        Some(("alone", median(alone))),
        Goal::RatioAtMost(3.0),
    ))
}

fn heartbeats(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let (count, rounds) = if effort.quick { ("100", 1) } else { ("1000", 3) };
    let load = ["--timelines", count, "--size", "0", "--rate", count];
    let report = wal(effort, Device::Real, rounds, &load)?;
    let cost = series(&report, "appends").cost;
    let per_s = series(&report, "appends").per_s;
    let percent_of_a_core = cost.cpu_us.unwrap_or(f64::NAN) * per_s / 1e6 * 100.0;
    Ok(vec![
        figure(
            &format!("{count} connected proposers, one heartbeat a second each: CPU of a core"),
            "%",
            percent_of_a_core,
            None,
            Goal::None,
        ),
        figure(
            "the same: journal writes per heartbeat",
            "writes",
            cost.flushes.unwrap_or(f64::NAN),
            None,
            Goal::AtMost(0.0),
        ),
    ])
}
