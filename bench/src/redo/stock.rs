//! The same WAL through stock Postgres: its startup process, and pg_waldump.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firn_tools::clock::wait_until;
use firn_tools::local::postgres::{PostgresServer, run};

use super::recording::Recording;
use crate::cpu_time::children_cpu_seconds;

/// Longest wait for a recovery.
const RECOVERY_LIMIT: Duration = Duration::from_secs(600);
/// What the server's log says when the last record is replayed (xlogrecovery.c), before any page is written back.
const REDO_DONE: &str = "redo done at";

/// CPU seconds, user and system, of the startup process for the recording: crash recovery of a copy of the base.
pub fn recovery_cpu_seconds(recording: &Recording) -> Result<f64> {
    let place = recording.recovery();
    let log = place.with_extension("log");
    remove(&place)?;
    if log.exists() {
        fs::remove_file(&log).context("cannot remove the log of the last recovery")?;
    }
    copy(&recording.base(), &place)?;
    copy(&recording.crashed().join("pg_wal"), &place.join("pg_wal"))?;
    // The server was running when it crashed, and its last checkpoint is the one before the recording.
    let control = "global/pg_control";
    fs::copy(recording.crashed().join(control), place.join(control))
        .context("cannot copy pg_control")?;
    let mut server = PostgresServer::adopt(recording.install.clone(), &place)?;
    server.launch_with(&[])?;
    let line = wait_until(RECOVERY_LIMIT, || {
        server.check_running()?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        Ok(text
            .lines()
            .find(|line| line.contains(REDO_DONE) && line.ends_with(" s"))
            .map(str::to_string))
    })?
    .with_context(|| format!("no end of the recovery after {RECOVERY_LIMIT:?}"))?;
    server.kill()?;
    remove(&place)?;
    let seconds = |name: &str| -> Result<f64> {
        let (_, rest) = line.split_once(name).with_context(|| format!("no {name} in {line:?}"))?;
        let number = rest.split_whitespace().next().unwrap_or_default();
        number.parse().with_context(|| format!("no seconds in {line:?}"))
    };
    Ok(seconds("user:")? + seconds("system:")?)
}

/// CPU seconds of `pg_waldump --quiet` over the recording.
pub fn waldump_cpu_seconds(recording: &Recording) -> Result<f64> {
    let mut command = recording.install.command("pg_waldump")?;
    command.args(["-q", "-s", &recording.start.to_string(), "-e", &recording.end.to_string()]);
    command.arg("-p").arg(recording.crashed().join("pg_wal"));
    let before = children_cpu_seconds()?;
    let status = command.stdout(Stdio::null()).status().context("cannot run pg_waldump")?;
    ensure!(status.success(), "pg_waldump failed on {}", recording.crashed().display());
    Ok(children_cpu_seconds()? - before)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to)).map(|_| ())
}

fn remove(place: &Path) -> Result<()> {
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    Ok(())
}
