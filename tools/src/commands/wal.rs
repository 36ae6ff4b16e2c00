//! `firn wal`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use firn_core::relay::history_file::TimelinePath;
use firn_core::types::{Lsn, PostgresTimeline, TimelineKey};

use crate::commands::finish;
use crate::commands::nodes::{KeyArguments, NodesArguments};
use crate::commands::wal_dump::DumpArguments;

/// Exit code of `wal fetch` when the archive has no such file: a restore goes on without it.
const EXIT_NOT_THERE: u8 = 1;
/// Exit code of `wal fetch` when nobody could be asked. Postgres ends a recovery when its `restore_command` exits with
/// more than 125: with a lower code an unreachable quorum would be taken for the end of the WAL.
const EXIT_NOBODY_ASKED: u8 = 200;

/// WAL.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Fetch a WAL segment or history file, as a restore_command: firn wal fetch ... %f %p
    ///
    /// Exits with 0 when the file is there, 1 when no node has anything of it, 200 when too few nodes answered.
    Fetch(FetchArguments),
    /// Show the records in segment files or in a timeline's committed WAL.
    Dump(DumpArguments),
}

impl WalCommand {
    /// Does it.
    pub fn run(self) -> ExitCode {
        match self {
            WalCommand::Fetch(arguments) => arguments.run(),
            WalCommand::Dump(arguments) => finish(arguments.run()),
        }
    }
}

/// `firn wal fetch`.
#[derive(Debug, Args)]
pub struct FetchArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// The archive ends here: bytes at and past it are zeros, and only nodes that have committed it are asked.
    #[arg(long)]
    until: Option<Lsn>,
    /// Name of the segment or history file (%f).
    file: String,
    /// Where to put it (%p).
    destination: PathBuf,
}

impl FetchArguments {
    fn run(self) -> ExitCode {
        match self.fetch() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(EXIT_NOT_THERE),
            Err(error) => {
                eprintln!("firn: {error:#}");
                ExitCode::from(EXIT_NOBODY_ASKED)
            }
        }
    }

    fn fetch(&self) -> Result<bool> {
        let found = fetch(&self.nodes, self.key.key(), self.until, &self.file)?;
        let Some(bytes) = found else { return Ok(false) };
        let partial = self.destination.with_extension("partial");
        fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, &self.destination))
            .with_context(|| format!("cannot write {}", self.destination.display()))?;
        Ok(true)
    }
}

/// A WAL segment or history file from the first node that can tell: one that has committed `until`.
///
/// "Nothing there" is a node's honest answer only when its commit LSN is known to reach far enough, so without `until`
/// a majority of the members must have been asked. A segment that a node has committed to its end never changes: nobody
/// else is asked then.
pub fn fetch(
    nodes: &NodesArguments,
    key: TimelineKey,
    until: Option<Lsn>,
    file: &str,
) -> Result<Option<Vec<u8>>> {
    let mut asked = 0;
    let mut needed = 1;
    let mut best: Option<(Lsn, Vec<u8>)> = None;
    for (client, status) in nodes.statuses(key)? {
        if until.is_some_and(|until| status.commit_lsn < until) {
            continue;
        }
        let segment_size_bytes = u64::from(status.pg_info.wal_seg_size);
        let start = segment_start(file, segment_size_bytes);
        if let (Some(start), Some(until)) = (start, until)
            && start >= until
        {
            return Ok(None);
        }
        let found = match client.wal_file(key, file) {
            Ok(found) => found,
            Err(error) => {
                eprintln!("firn: {error:#}");
                continue;
            }
        };
        asked += 1;
        if until.is_none() {
            needed = status.mconf.members.len() / 2 + 1;
        }
        if let Some(mut bytes) = found {
            if let Some(until) = until
                && begins_past(file, &bytes, until)?
            {
                // Never committed: the archive ends before that switch.
                return Ok(None);
            }
            if let Some(start) = start {
                ensure!(
                    bytes.len() as u64 == segment_size_bytes,
                    "node {}: {file} has {} bytes, not {segment_size_bytes}",
                    client.address(),
                    bytes.len()
                );
                if let Some(until) = until {
                    cut(&mut bytes, start, until);
                }
            }
            let complete =
                start.is_some_and(|start| status.commit_lsn >= start + segment_size_bytes);
            if best.as_ref().is_none_or(|(commit_lsn, _)| status.commit_lsn > *commit_lsn) {
                best = Some((status.commit_lsn, bytes));
            }
            if until.is_some() || complete {
                needed = asked;
                break;
            }
        }
    }
    if asked < needed {
        bail!(
            "{file}: {asked} nodes of {needed} could tell{}",
            until.map(|until| format!(" (they must have committed {until})")).unwrap_or_default()
        );
    }
    Ok(best.map(|(_, bytes)| bytes))
}

/// Whether a history file's timeline begins past `until`.
fn begins_past(file: &str, bytes: &[u8], until: Lsn) -> Result<bool> {
    let digits =
        file.strip_suffix(".history").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let Some(timeline) = digits.map(PostgresTimeline) else { return Ok(false) };
    let text = std::str::from_utf8(bytes).with_context(|| format!("{file} is no text"))?;
    let path = TimelinePath::parse(timeline, text).with_context(|| file.to_string())?;
    Ok(path.starts(Lsn::INVALID).last().is_some_and(|(_, begin)| *begin > until))
}

/// Zeros everything at and past `until` in a segment that begins at `start`.
fn cut(bytes: &mut [u8], start: Lsn, until: Lsn) {
    let kept = usize::try_from(until - start).unwrap_or(usize::MAX);
    if let Some(tail) = bytes.get_mut(kept..) {
        tail.fill(0);
    }
}

/// The first byte of the segment with this name (24 hex digits: Postgres timeline, then the number in two parts); none
/// when it is not a segment's name.
pub fn segment_start(name: &str, segment_size_bytes: u64) -> Option<Lsn> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let high = u64::from_str_radix(&name[8..16], 16).ok()?;
    let low = u64::from_str_radix(&name[16..24], 16).ok()?;
    let segments_per_high = (1_u64 << 32) / segment_size_bytes;
    let number = high.checked_mul(segments_per_high)?.checked_add(low)?;
    number.checked_mul(segment_size_bytes).map(Lsn)
}

#[cfg(test)]
mod tests;
