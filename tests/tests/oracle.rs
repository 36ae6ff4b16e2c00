//! Redo against Postgres' own images, all record types, one test per version: `./test oracle --versions 15,18`.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeSet;

use firn_core::postgres::wal::WalVersion;
use firn_core::postgres::wal::names::{record_kind, record_name, resource_manager_name, rmgr};
use firn_tests::oracle::report::Report;
use firn_tests::oracle::workload::{PASSES, run_pass};
use firn_tests::postgres_versions::postgres_versions;

/// Record types that the workloads cannot make a stock server write, and why.
const UNREACHED: &[(&str, &str)] = &[
    ("XLOG/NOOP", "no code writes it"),
    ("XLOG/PARAMETER_CHANGE", "settings stay the same over the run"),
    ("XLOG/END_OF_RECOVERY", "needs a promotion"),
    ("XLOG/OVERWRITE_CONTRECORD", "needs a crash in the middle of a record"),
    ("Heap2/REWRITE", "needs a logical replication slot"),
    ("Heap/HOT_UPDATE+INIT", "a HOT update's page has the old tuple, so it is never new"),
    ("Gist/ASSIGN_LSN", "wal_level=minimal only"),
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

fn check(major: u32) {
    let versions = postgres_versions().unwrap();
    let Some(install) = versions.iter().find(|install| install.major == major) else { return };
    let mut report = Report::new(WalVersion::from_major(major).unwrap());
    for pass in PASSES {
        report.add(run_pass(install, pass).unwrap());
    }
    println!("{report}");
    let seen: BTreeSet<String> = report.seen_by_name().into_iter().map(|(name, _)| name).collect();
    let unreached: Vec<_> = names(report.version)
        .into_iter()
        .filter(|name| !seen.contains(name) && !UNREACHED.iter().any(|(known, _)| known == name))
        .collect();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(unreached.is_empty(), "never seen: {unreached:?}");
}

#[test]
fn postgres_15_replays_to_its_own_pages() {
    check(15);
}

#[test]
fn postgres_16_replays_to_its_own_pages() {
    check(16);
}

#[test]
fn postgres_17_replays_to_its_own_pages() {
    check(17);
}

#[test]
fn postgres_18_replays_to_its_own_pages() {
    check(18);
}
