//! A report's forms hold what was measured.

use std::time::Duration;

use super::{Report, Series, Setting, hgrm, page, text};
use crate::machine::Machine;
use crate::wal::generator::{Measured, new_histogram};
use crate::wal::usage::Usage;

fn measured() -> Measured {
    let mut latencies_ns = new_histogram();
    for microseconds in 1..=1_000_u64 {
        latencies_ns.record(microseconds * 1_000).unwrap();
    }
    Measured {
        latencies_ns,
        duration: Duration::from_secs(2),
        over_time: vec![400, 600],
        interval: Duration::from_secs(1),
        usage: Usage { cpu_ns: Some(5_000_000), ring_enters: Some(2_000), ..Usage::default() },
        generator_cpu_ns: 1_000_000,
    }
}

fn report() -> Report {
    let mut appends = Series::new("appends");
    appends.add(&measured()).unwrap();
    appends.add(&measured()).unwrap();
    let setting = Setting {
        load: "1 < 2".to_string(),
        open_loop: false,
        size_bytes: 8192,
        connections: 1,
        outstanding: 1,
        durability: "flushed".to_string(),
        quorum: "1 of 1".to_string(),
        acceptors: "one".to_string(),
        generator: "1 thread".to_string(),
        device: "real".to_string(),
        protocol: 3,
        rounds: 2,
        seconds: 4.0,
        warm_up_s: 0.0,
    };
    let machine = Machine::now();
    Report { load_after: machine.load, machine, setting, series: vec![appends] }
}

#[test]
fn series_sum_up_their_rounds() {
    let report = report();
    let appends = &report.series[0];
    assert_eq!((appends.count, appends.per_s), (2_000, 500.0));
    assert_eq!(appends.over_time_per_s, [400.0, 600.0, 400.0, 600.0]);
    assert_eq!((appends.cost.cpu_us, appends.cost.enters), (Some(5.0), Some(2.0)));
    assert!((appends.latency_us(0.5) - 500.0).abs() < 1.0);
    assert!((appends.latency_us(1.0) - 1_000.0).abs() < 1.0);
    assert_eq!(appends.median(|round| round.per_s), 500.0);
    assert!((appends.median_latency_us("p99") - 990.0).abs() < 1.0);
}

#[test]
fn forms_hold_the_same() {
    let report = report();
    let text = text::page(&report);
    assert!(text.contains("p99.99") && text.contains("quorum 1 of 1"), "{text}");
    let html = page::html(&[(None, &report)]);
    assert!(html.contains("1 &lt; 2") && html.contains("<polyline") && !html.contains("src="));
    let json = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(read.series[0].curve.len(), report.series[0].curve.len());
    assert!((read.series[0].latency_us(0.9) - report.series[0].latency_us(0.9)).abs() < 0.001);
    let hgrm = hgrm::text(&measured().latencies_ns);
    assert!(hgrm.contains("1/(1-Percentile)") && hgrm.contains("Total count    =         1000"));
}
