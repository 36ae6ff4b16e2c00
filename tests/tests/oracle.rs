//! Redo against Postgres' own images, all record types: `./test oracle --versions 15,18`.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeSet;

use firn_core::postgres::wal::WalVersion;
use firn_core::postgres::wal::names::{record_kind, record_name, resource_manager_name, rmgr};
use firn_tests::oracle::pass::{PASSES, run_pass, run_workloads};
use firn_tests::oracle::report::{Report, Table};
use firn_tests::postgres_versions::postgres_versions;
use firn_tools::local::postgres_install::PostgresInstall;

/// Record types that a stock server cannot be made to write, and why.
const NEVER_WRITTEN: &[(&str, &str)] = &[
    ("XLOG/NOOP", "replay knows it, and no code of the server writes it"),
    (
        "Heap/HOT_UPDATE+INIT",
        "a page is initialized by its first tuple, and a HOT update's page holds the old tuple already",
    ),
];

fn names(version: WalVersion) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for manager in 0..=rmgr::LOGICAL_MESSAGE {
        for info in (0..=0xF0u8).step_by(16) {
            if let Some(name) = record_name(version, manager, record_kind(manager, info)) {
                names.insert(format!("{}/{name}", resource_manager_name(manager).unwrap()));
            }
        }
    }
    names
}

/// One pass after the other, so that there is never more than one pass' data on the disk.
fn check(install: &PostgresInstall) -> Report {
    let passes = PASSES.map(|pass| {
        let report = run_pass(install, pass, |server| run_workloads(server, pass)).unwrap();
        println!("{}", report.line(&pass));
        report
    });
    passes
        .into_iter()
        .reduce(|mut sum, pass| {
            sum.add(pass);
            sum
        })
        .unwrap()
}

#[test]
fn every_record_type_replays_to_the_servers_own_pages() {
    let reports: Vec<Report> = postgres_versions().unwrap().iter().map(check).collect();
    println!("{}", Table(&reports));
    let mut wrong = Vec::new();
    for report in &reports {
        let seen = report.seen_by_name();
        let count = |name: &str| seen.get(name).copied().unwrap_or(0);
        for name in names(report.version) {
            let never = NEVER_WRITTEN.iter().any(|(known, _)| *known == name);
            if never == (count(&name) > 0) {
                wrong.push(format!("{}: {name} seen {} times", report.release, count(&name)));
            }
        }
        if report.failed() > 0 {
            wrong.push(format!("{}: {} differences", report.release, report.failed()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
