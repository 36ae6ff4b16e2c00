//! The server's own reader of WAL, `pg_waldump`: how many records of each type, and what it says in words about records
//! that change no page.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use firn_core::postgres::redo::Effect;
use firn_core::postgres::wal::names::rmgr;
use firn_core::types::Lsn;

use super::report::Report;
use crate::local::postgres::run;
use crate::local::postgres_install::PostgresInstall;
use crate::local::process::built_program;

/// A stretch of WAL on one Postgres timeline.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// The Postgres timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: Lsn,
}

fn waldump(
    install: &PostgresInstall,
    wal: &Path,
    stretch: Stretch,
    arguments: &[&str],
) -> Result<String> {
    let mut command = install.command("pg_waldump")?;
    command.args(["-t", &stretch.timeline.to_string(), "-s", &stretch.start.to_string()]);
    command.args(arguments).arg("-p").arg(wal);
    // It ends with an error at the end of the WAL, after what it has to say.
    let output = command.output().context("cannot run pg_waldump")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!text.is_empty(), "pg_waldump printed nothing: {error}");
    Ok(text)
}

/// `pg_waldump --stats=record`'s counts by name.
pub fn counts(
    install: &PostgresInstall,
    wal: &Path,
    stretches: &[Stretch],
) -> Result<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for &stretch in stretches {
        add_counts(&waldump(install, wal, stretch, &["--stats=record"])?, &mut sums);
    }
    ensure!(!sums.is_empty(), "pg_waldump printed no statistics");
    Ok(sums)
}

/// `firn wal dump --stats=record`'s counts by name. It follows the newest Postgres timeline by itself.
pub fn our_counts(wal: &Path, start: Lsn) -> Result<BTreeMap<String, u64>> {
    let mut command = Command::new(built_program("firn")?);
    command.args(["wal", "dump", "--stats=record", "--start", &start.to_string()]).arg(wal);
    let mut sums = BTreeMap::new();
    add_counts(&run(&mut command)?, &mut sums);
    Ok(sums)
}

fn add_counts(statistics: &str, sums: &mut BTreeMap<String, u64>) {
    for line in statistics.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| name.contains('/')) else { continue };
        let Some(Ok(count)) = words.next().map(str::parse::<u64>) else { continue };
        if count > 0 {
            *sums.entry(name.to_string()).or_default() += count;
        }
    }
}

/// What `pg_waldump` says about each record of the managers that [`Words`] covers, by start LSN, without the type's name.
fn descriptions(
    install: &PostgresInstall,
    wal: &Path,
    stretches: &[Stretch],
) -> Result<BTreeMap<Lsn, String>> {
    const MANAGERS: [&str; 10] = [
        "-r",
        "XLOG",
        "-r",
        "Standby",
        "-r",
        "ReplicationOrigin",
        "-r",
        "Tablespace",
        "-r",
        "Database",
    ];
    let mut descriptions = BTreeMap::new();
    for &stretch in stretches {
        for line in waldump(install, wal, stretch, &MANAGERS)?.lines() {
            let place = line.split_once(" lsn: ").and_then(|(_, rest)| rest.split_once(','));
            let words = line.split_once(" desc: ").map(|(_, words)| words);
            let (Some((lsn, _)), Some(words)) = (place, words) else { continue };
            let words = words.split_once(' ').map_or("", |(_, words)| words);
            descriptions.insert(lsn.parse()?, words.trim().to_string());
        }
    }
    Ok(descriptions)
}

/// Records without pages in `pg_waldump`'s words, made from their effects.
#[derive(Debug, Default)]
pub struct Words {
    records: BTreeMap<Lsn, ((u8, u8), String)>,
}

impl Words {
    /// Writes down an effect of the record of this type (manager and kind) that begins at `lsn`.
    pub fn add(&mut self, lsn: Lsn, kind: (u8, u8), effect: &Effect<'_>) {
        if let Some(words) = describe(kind.0, effect) {
            let (_, text) = self.records.entry(lsn).or_insert_with(|| (kind, String::new()));
            if text.is_empty() {
                *text = words;
            } else if let Effect::DatabaseDrop { .. } = effect {
                text.push_str(words.trim_start_matches("dir"));
            }
        }
    }

    /// Each must be what `pg_waldump`'s line begins with.
    pub fn compare(
        &self,
        install: &PostgresInstall,
        wal: &Path,
        stretches: &[Stretch],
        report: &mut Report,
    ) -> Result<()> {
        let theirs = descriptions(install, wal, stretches)?;
        for (lsn, (kind, ours)) in &self.records {
            let counts = report.records.entry(*kind).or_default();
            counts.checked += 1;
            let said = theirs.get(lsn);
            if said.is_none_or(|theirs| !theirs.starts_with(ours.as_str())) {
                counts.failed += 1;
                report.note(|| format!("record at {lsn}: {ours:?}, pg_waldump says {said:?}"));
            }
        }
        Ok(())
    }
}

fn describe(manager: u8, effect: &Effect<'_>) -> Option<String> {
    const LEVELS: [&str; 3] = ["minimal", "replica", "logical"];
    let switch = |on| if on { "on" } else { "off" };
    Some(match *effect {
        Effect::NextOid(next) => next.to_string(),
        Effect::FullPageWrites(on) => on.to_string(),
        Effect::BackupEnd { start } => start.to_string(),
        Effect::EndOfRecovery { timeline, previous_timeline } => {
            format!("tli {timeline}; prev tli {previous_timeline}; time ")
        }
        Effect::Parameters(parameters) => format!(
            "max_connections={} max_worker_processes={} max_wal_senders={} max_prepared_xacts={} \
             max_locks_per_xact={} wal_level={} wal_log_hints={} track_commit_timestamp={}",
            parameters.max_connections,
            parameters.max_worker_processes,
            parameters.max_wal_senders,
            parameters.max_prepared_transactions,
            parameters.max_locks_per_transaction,
            usize::try_from(parameters.wal_level)
                .ok()
                .and_then(|level| LEVELS.get(level))
                .unwrap_or(&"?"),
            switch(parameters.wal_log_hints),
            switch(parameters.track_commit_timestamp),
        ),
        Effect::RunningTransactions { next_xid, oldest_running_xid, latest_completed_xid } => {
            format!(
                "nextXid {next_xid} latestCompletedXid {latest_completed_xid} oldestRunningXid {oldest_running_xid}"
            )
        }
        // Ends of transactions advance origins as well; their words are about more than that.
        Effect::OriginAdvance { origin, remote_lsn, backward }
            if manager == rmgr::REPLICATION_ORIGIN =>
        {
            format!("set {origin}; lsn {remote_lsn}; force: {}", u8::from(backward))
        }
        Effect::OriginDrop { origin } => format!("drop {origin}"),
        Effect::TablespaceCreate { tablespace, path } => {
            format!("{tablespace} \"{}\"", String::from_utf8_lossy(path))
        }
        Effect::TablespaceDrop { tablespace } => tablespace.to_string(),
        Effect::DatabaseCopy { database, tablespace, source_database, source_tablespace } => {
            format!("copy dir {source_tablespace}/{source_database} to {tablespace}/{database}")
        }
        Effect::DatabaseCreate { database, tablespace } => {
            format!("create dir {tablespace}/{database}")
        }
        Effect::DatabaseDrop { database, tablespace } => format!("dir {tablespace}/{database}"),
        _ => return None,
    })
}
