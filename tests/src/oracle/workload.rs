//! A server that runs the workloads, and its data directory before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use firn_core::postgres::redo::Settings;
use firn_core::postgres::wal::WalVersion;
use firn_core::types::Lsn;

use super::report::Report;
use super::{compare, data_directory, replay};
use crate::local::postgres::{PostgresServer, run};
use crate::local::postgres_install::{PostgresInstall, ServerUser};
use crate::recordings::shared_directory;

/// How one pass sets the server up.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// `full_page_writes`. Off gives the most evidence: on hides the first change of a page behind an image.
    pub full_page_writes: bool,
    /// Data checksums, which make hint-bit images appear and VISIBLE move the heap page's LSN.
    pub checksums: bool,
    /// `wal_level`.
    pub wal_level: &'static str,
    /// `wal_compression`.
    pub compression: &'static str,
}

/// The passes of a version.
pub const PASSES: [Pass; 2] = [
    Pass { full_page_writes: false, checksums: false, wal_level: "replica", compression: "lz4" },
    Pass { full_page_writes: true, checksums: true, wal_level: "logical", compression: "pglz" },
];

/// Runs all workloads on a fresh server, replays its WAL and compares.
pub fn run_pass(install: &PostgresInstall, pass: Pass) -> Result<Report> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let data = directory.path().join("data");
    let base = directory.path().join("base");
    let switch = |on| if on { "on" } else { "off" };
    let settings = [
        ("wal_consistency_checking", "all"),
        ("full_page_writes", switch(pass.full_page_writes)),
        ("wal_level", pass.wal_level),
        ("wal_compression", pass.compression),
        ("autovacuum", "off"),
        ("max_prepared_transactions", "20"),
        ("track_commit_timestamp", "on"),
        ("allow_in_place_tablespaces", "on"),
        ("wal_keep_size", "30GB"),
        ("max_wal_size", "30GB"),
        ("wal_recycle", "off"),
        ("checkpoint_timeout", "1h"),
        ("fsync", "off"),
    ];
    let checksums = match (pass.checksums, install.major) {
        (true, _) => Some("--data-checksums"),
        (false, 18..) => Some("--no-data-checksums"),
        (false, _) => None,
    };
    let initdb: Vec<&str> = checksums.into_iter().collect();
    let mut server = PostgresServer::create_with(install.clone(), &data, &settings, &initdb)?;
    server.start()?;
    server.stop()?;
    copy_without_wal(&data, &base)?;
    let start = redo_location(install, &data)?;
    server.start()?;
    run_workloads(&server)?;
    server.stop()?;

    let version = WalVersion::from_major(install.major).context("a version from 14 to 18")?;
    let mut store = data_directory::read(&base)?;
    let settings = Settings { visible_moves_heap_lsn: pass.checksums, ..Settings::default() };
    let wal = data.join("pg_wal");
    let mut report = replay::replay(&mut store, &wal, start, version, settings, None)?;
    compare::compare(&store, &data_directory::read(&data)?, &mut report);
    compare_counts(install, &wal, start, &mut report)?;
    Ok(report)
}

fn copy_without_wal(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))?;
    fs::remove_dir_all(to.join("pg_wal")).context("cannot remove the copy's WAL")
}

/// Where WAL after the last checkpoint begins.
fn redo_location(install: &PostgresInstall, data: &Path) -> Result<Lsn> {
    let output = run(install.command("pg_controldata")?.arg("-D").arg(data))?;
    let line = output.lines().find(|line| line.contains("REDO location"));
    let lsn = line.and_then(|line| line.split_whitespace().last());
    Ok(lsn.context("pg_controldata shows no REDO location")?.parse()?)
}

fn run_workloads(server: &PostgresServer) -> Result<()> {
    let folder = shared_directory()?.join("workloads");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("no workloads at {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "no workloads at {}", folder.display());
    let port = server.port().to_string();
    for file in files {
        let mut psql = server.install.command_as_we_are("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &server.conninfo(), "-f"]);
        let output = psql.arg(&file).output().context("cannot run psql")?;
        if !output.status.success() {
            bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
    let mut pgbench = server.install.command_as_we_are("pgbench");
    pgbench.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-n", "-c", "8", "-j", "2"]);
    pgbench.args(["-t", "150"]);
    for script in ["upsert.sql", "locks.sql", "growshrink.sql"] {
        pgbench.arg("-f").arg(folder.join("pgbench").join(script));
    }
    run(pgbench.arg("postgres"))?;
    ServerUser::give(server.data())
}

/// pg_waldump must count the same records.
fn compare_counts(
    install: &PostgresInstall,
    wal: &Path,
    start: Lsn,
    report: &mut Report,
) -> Result<()> {
    let mut command = install.command("pg_waldump")?;
    // It ends with an error at the end of the WAL, after the table.
    let output = command
        .args(["--stats=record", "-s", &start.to_string(), "-p"])
        .arg(wal)
        .output()
        .context("cannot run pg_waldump")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut theirs: Vec<(String, u64)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().filter(|name| name.contains('/'))?;
            Some((name.to_string(), words.next()?.parse().ok()?))
        })
        .collect();
    let mut ours = report.seen_by_name();
    theirs.sort();
    ours.sort();
    ensure!(!theirs.is_empty(), "pg_waldump printed no statistics");
    for line in ours.iter().filter(|line| !theirs.contains(line)) {
        report.count_difference(format!(
            "{} records of {}: pg_waldump does not agree",
            line.1, line.0
        ));
    }
    for line in theirs.iter().filter(|line| !ours.contains(line)) {
        report.count_difference(format!("pg_waldump counts {} records of {}", line.1, line.0));
    }
    Ok(())
}
