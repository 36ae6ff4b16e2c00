//! One pass over a version: a fresh server runs the workloads, its WAL is replayed over a copy of the data directory from
//! before, and everything is compared.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use firn_core::postgres::redo::Settings;
use firn_core::postgres::wal::WalVersion;
use firn_core::types::Lsn;
use firn_tools::clock::now;

use super::report::Report;
use super::waldump::{self, Stretch, Words};
use super::{compare, data_directory, odd_records, replay, workload};
use crate::local::postgres::{PostgresServer, run};
use crate::local::postgres_install::PostgresInstall;

/// How one pass sets the server up.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// `full_page_writes`. Off gives the most evidence: on hides the first change of a page behind an image.
    pub full_page_writes: bool,
    /// Data checksums, which make hint-bit images appear and VISIBLE move the heap page's LSN.
    pub checksums: bool,
    /// `wal_level`.
    pub wal_level: &'static str,
    /// Whether pgbench's own workload runs too.
    pub pgbench: bool,
    /// Whether a base backup is taken under load, and WAL replayed over it as well.
    pub backup: bool,
}

/// The passes of a version.
pub const PASSES: [Pass; 2] = [
    Pass {
        full_page_writes: false,
        checksums: false,
        wal_level: "replica",
        pgbench: true,
        backup: false,
    },
    Pass {
        full_page_writes: true,
        checksums: true,
        wal_level: "logical",
        pgbench: false,
        backup: true,
    },
];

/// Makes a server, has `workload` run on it, and compares. `directory` is where it all lives.
pub fn run_pass(
    install: &PostgresInstall,
    pass: Pass,
    workload: impl Fn(&mut PostgresServer) -> Result<()>,
) -> Result<Report> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let data = directory.path().join("data");
    let base = directory.path().join("base");
    let checksums = match (pass.checksums, install.major) {
        (true, _) => Some("--data-checksums"),
        (false, 18..) => Some("--no-data-checksums"),
        (false, _) => None,
    };
    let initdb: Vec<&str> = checksums.into_iter().collect();
    let mut server = PostgresServer::create_with(install.clone(), &data, &settings(pass), &initdb)?;
    server.start()?;
    server.stop()?;
    copy_without_wal(&data, &base)?;
    let mut stretches = vec![Stretch { timeline: 1, start: install.redo_location(&data)? }];
    let begun = now();
    server.start()?;
    workload(&mut server)?;
    server.stop()?;
    let server_time = begun.elapsed();

    let begun = now();
    let version = WalVersion::from_major(install.major).context("a version from 14 to 18")?;
    let mut store = data_directory::read(&base)?;
    let settings = Settings { visible_moves_heap_lsn: pass.checksums, ..Settings::default() };
    let wal = data.join("pg_wal");
    let start = stretches[0].start;
    let (mut report, words) = replay::replay(&mut store, &wal, start, version, settings, None)?;
    report.release = format!("{}.{}", install.major, install.minor);
    // Nothing can be in a copy of a stopped server already.
    ensure!(report.skipped == 0, "{} blocks had their record already", report.skipped);
    let stopped = data_directory::read(&data)?;
    compare::compare(&store, &stopped, &mut report);
    drop(store);
    if pass.backup {
        let backup = backup_folder(&server);
        let mut store = data_directory::read(&backup)?;
        let start = backup_start(&backup)?;
        let (mut over_backup, _) =
            replay::replay(&mut store, &wal, start, version, settings, None)?;
        compare::compare(&store, &stopped, &mut over_backup);
        report.add_backup(over_backup);
    }
    stretches.extend(later_timelines(&wal)?);
    compare_with_waldump(install, &wal, &stretches, &words, &mut report)?;
    report.times.push((server_time, begun.elapsed()));
    Ok(report)
}

/// Every workload.
pub fn run_workloads(server: &mut PostgresServer, pass: Pass) -> Result<()> {
    workload::run_scripts(server)?;
    workload::run_clients(server, pass.pgbench, || match pass.backup {
        true => server.base_backup(&backup_folder(server)),
        false => Ok(()),
    })?;
    odd_records::run(server, pass)
}

fn settings(pass: Pass) -> [(&'static str, &'static str); 13] {
    [
        ("wal_consistency_checking", "all"),
        ("full_page_writes", if pass.full_page_writes { "on" } else { "off" }),
        ("wal_level", pass.wal_level),
        ("wal_compression", "lz4"),
        ("autovacuum", "off"),
        ("max_prepared_transactions", "20"),
        ("track_commit_timestamp", "on"),
        ("allow_in_place_tablespaces", "on"),
        ("wal_keep_size", "30GB"),
        ("max_wal_size", "30GB"),
        ("wal_recycle", "off"),
        ("checkpoint_timeout", "1h"),
        ("fsync", "off"),
    ]
}

fn backup_folder(server: &PostgresServer) -> PathBuf {
    server.data().with_extension("backup")
}

/// Where replay over a base backup begins.
fn backup_start(backup: &Path) -> Result<Lsn> {
    let label = fs::read_to_string(backup.join("backup_label")).context("no backup_label")?;
    let start = label.strip_prefix("START WAL LOCATION: ");
    let start = start.and_then(|rest| rest.split_whitespace().next());
    Ok(start.context("a backup_label that does not begin with the start")?.parse()?)
}

fn copy_without_wal(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))?;
    fs::remove_dir_all(to.join("pg_wal")).context("cannot remove the copy's WAL")
}

/// Where each Postgres timeline after the first begins: the last line of its history file names the one before and the
/// switch.
fn later_timelines(wal: &Path) -> Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    for timeline in 2.. {
        let path = wal.join(format!("{timeline:08X}.history"));
        if !path.exists() {
            break;
        }
        let history = fs::read_to_string(path)?;
        let line = history.lines().rfind(|line| !line.is_empty());
        let start = line.and_then(|line| line.split('\t').nth(1));
        let start = start.context("a history file without a switch")?.parse()?;
        stretches.push(Stretch { timeline, start });
    }
    Ok(stretches)
}

/// pg_waldump must count the same records as the replay and `firn wal dump` do, and say the same about those without
/// pages.
fn compare_with_waldump(
    install: &PostgresInstall,
    wal: &Path,
    stretches: &[Stretch],
    words: &Words,
    report: &mut Report,
) -> Result<()> {
    let theirs = waldump::counts(install, wal, stretches)?;
    let dumped = waldump::our_counts(wal, stretches[0].start)?;
    let ours = report.seen_by_name();
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).chain(dumped.keys()).collect();
    for name in names {
        // Names that were compared with words alone have a count of 0 here.
        let [ours, dumped, theirs] =
            [&ours, &dumped, &theirs].map(|counts| counts.get(name).copied().unwrap_or(0));
        if ours != theirs || dumped != theirs {
            report.count_difference(format!(
                "{name}: {ours} records, firn wal dump counts {dumped}, pg_waldump {theirs}"
            ));
        }
    }
    words.compare(install, wal, stretches, report)
}
