//! `firn demo`, the first thing that people see, on Debian's Postgres and on a device that loses what was not flushed.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::process::Command;

use firn_tests::local::process::built_program;
use firn_tests::postgres_versions::postgres_version;

fn demo(arguments: &[&str]) -> serde_json::Value {
    let mut command = Command::new(built_program("firn").unwrap());
    command.args(["demo", "--json", "--part-s", "1", "--postgres-version"]);
    command.arg(postgres_version().unwrap().major.to_string()).args(arguments);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_demo_finds_every_acknowledged_transaction() {
    let report = demo(&[]);
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["acknowledged"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn the_demo_holds_on_a_device_that_loses_unflushed_writes() {
    let report = demo(&["--volatile"]);
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["ok"], true, "{report}");
}

#[test]
fn the_demo_holds_on_the_other_runtime() {
    let report = demo(&["--runtime", "glommio"]);
    assert_eq!(report["runtime"], "glommio", "{report}");
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["ok"], true, "{report}");
}
