//! `firn-bench wal` and `compare` run to their end and write what they say. Their figures are for people.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use firn_bench::report::{self, Report};
use firn_bench::wal::embedded::{EmbeddedOptions, start};
use firn_node::runtime::Device;

fn bench(arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_firn-bench"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn wal(arguments: &[&str], directory: &Path, name: &str) -> Report {
    let short = ["wal", "--duration", "0.4", "--warm-up", "0.05", "--output", name];
    let text = bench(&[&short, arguments].concat(), directory);
    assert!(text.contains("p99.99") && text.contains("quorum"), "{text}");
    for extension in ["hgrm", "html"] {
        let path = directory.join(format!("{name}.{extension}"));
        assert!(path.metadata().unwrap().len() > 1_000, "{}", path.display());
    }
    report::read(&directory.join(format!("{name}.json"))).unwrap()
}

#[test]
fn embedded_nodes_are_measured_beside_their_baselines() {
    let directory = tempfile::tempdir().unwrap();
    let modelled = ["--embedded", "--device", "modelled:20us:20us", "--size", "512"];
    let rounds = ["--baselines", "--rounds", "2", "--timelines", "3", "--connections", "2"];
    let a = wal(&[&modelled[..], &rounds[..]].concat(), directory.path(), "a");
    let names: Vec<&str> = a.series.iter().map(|series| series.name.as_str()).collect();
    let baselines = ["device", "device, not flushed", "file per timeline", "socket echo"];
    assert_eq!(names, [&["appends"], &baselines[..]].concat());
    assert!(a.series.iter().all(|series| series.rounds.len() == 2 && series.per_s > 0.0));
    let cost = a.series[0].cost;
    assert!(cost.cpu_us.is_some() && cost.enters.is_some() && cost.flushes.is_some());

    let three = ["--embedded", "--nodes", "3", "--rate", "200", "--protocol", "2"];
    let b = wal(&three, directory.path(), "b");
    assert_eq!((b.setting.quorum.as_str(), b.setting.open_loop), ("2 of 3", true));

    let compared = bench(&["compare", "a.json", "b.json"], directory.path());
    assert!(compared.contains("B/A"), "{compared}");
    let page = std::fs::read_to_string(directory.path().join("firn-bench-compare.html")).unwrap();
    assert!(page.contains("A: device") && page.contains("B: appends"));
}

#[test]
fn acceptors_elsewhere_are_measured() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        nodes: 1,
        shards: 1,
        cores: Vec::new(),
        spin: Duration::ZERO,
        device: Device::Real,
    };
    let nodes = start(&options, directory.path()).unwrap();
    let target = nodes[0].listen.to_string();
    let pid = std::process::id().to_string();
    let report = wal(
        &["--targets", &target, "--target-pid", &pid, "--outstanding", "4"],
        directory.path(),
        "elsewhere",
    );
    assert_eq!(report.setting.acceptors, target);
    assert!(report.series[0].count > 0 && report.series[0].cost.cpu_us.is_some());
    assert_eq!(report.series[0].cost.enters, None);
}

#[test]
fn a_load_that_cannot_be_is_refused() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_firn-bench"))
            .arg("wal")
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["--embedded", "--size", "100"]).contains("multiple of 8"));
    assert!(refused(&["--embedded", "--connections", "2"]).contains("--connections 2"));
    assert!(refused(&["--embedded", "--protocol", "4"]).contains("expected 2 or 3"));
    assert!(refused(&[]).contains("--targets"));
}
