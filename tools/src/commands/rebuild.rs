//! `firn timeline rebuild`: a data directory that ends exactly where the quorum's WAL ends.
//!
//! Fence first, so that no older proposer can commit anything past the LSN that the rebuild will reach. Then stock
//! archive recovery: Postgres itself replays the base backup with `restore_command = firn wal fetch`, which hands out
//! the quorum's WAL up to the fence and nothing else. All WAL in the base backup is dropped: it may hold what the quorum
//! never committed. In the end the switch point in the new Postgres timeline's history file must be the fence LSN.

mod base;
mod tablespaces;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use firn_core::api::Fenced;
use firn_core::types::Lsn;

use crate::clock::wait_until;
use crate::commands::nodes::{KeyArguments, NodesArguments};
use crate::commands::rebuild::base::Base;
use crate::commands::rebuild::tablespaces::TablespaceMapping;
use crate::local::postgres::{PostgresServer, run};
use crate::local::postgres_install::PostgresInstall;

/// How long the recovery may take: a base backup and everything written since.
const RECOVERY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// `firn timeline rebuild`.
#[derive(Debug, Clone, Args)]
pub struct RebuildCommand {
    #[command(flatten)]
    rebuild: RebuildArguments,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// What to rebuild from what, and where.
#[derive(Debug, Clone, Args)]
pub struct RebuildArguments {
    /// The nodes to ask.
    #[command(flatten)]
    pub nodes: NodesArguments,
    /// The timeline.
    #[command(flatten)]
    pub key: KeyArguments,
    /// A base backup taken while the relay was attached: pg_basebackup's directory or its tar file.
    #[arg(long)]
    pub base: PathBuf,
    /// The data directory to make; must not exist or be empty.
    #[arg(long)]
    pub to: PathBuf,
    /// New place of a tablespace, as pg_basebackup takes it.
    ///
    /// A backup that is a directory needs one for each tablespace; from tar files they go
    /// where they were on the lost primary unless mapped.
    #[arg(long, value_name = "OLDDIR=NEWDIR", verbatim_doc_comment)]
    pub tablespace_mapping: Vec<TablespaceMapping>,
}

/// What a rebuild reached.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    /// The fence that it began with.
    pub fenced: Fenced,
    /// The Postgres timeline that the new directory writes.
    pub postgres_timeline: u32,
    /// The Postgres that recovered it.
    pub install: PostgresInstall,
}

impl RebuildCommand {
    /// Does it and says so.
    pub fn run(&self) -> Result<()> {
        let Rebuilt { fenced, postgres_timeline, .. } = self.rebuild.rebuild()?;
        let to = &self.rebuild.to;
        if self.json {
            println!(
                "{}",
                serde_json::json!({
                    "lsn": fenced.lsn,
                    "term": fenced.term,
                    "postgres_timeline": postgres_timeline,
                    "data": to,
                })
            );
            return Ok(());
        }
        println!("fenced at {} in term {}", fenced.lsn, fenced.term);
        println!("{} ends there, on Postgres timeline {postgres_timeline}", to.display());
        println!("start it, then the relay, which follows the new Postgres timeline");
        Ok(())
    }
}

impl RebuildArguments {
    /// Fences, copies the base backup, and has Postgres recover it.
    pub fn rebuild(&self) -> Result<Rebuilt> {
        ensure_empty(&self.to)?;
        let base = Base::find(&self.base)?;
        let tablespaces = tablespaces::plan(&base, &self.tablespace_mapping)?;
        let fenced = self.nodes.first(|client| client.fence(self.key.key()))?;
        base.unpack(&self.to)?;
        let to = fs::canonicalize(&self.to).context("cannot find the new directory")?;
        let version = fs::read_to_string(to.join("PG_VERSION"))
            .with_context(|| format!("{} is no base backup: no PG_VERSION", self.base.display()))?;
        let version =
            version.trim().parse().context("the base backup's PG_VERSION is no number")?;
        let install = PostgresInstall::find(Some(version))?;
        self.check_begin(&to, &fenced)?;
        prepare(&to)?;
        tablespaces::place(&tablespaces, &to)?;
        let postgres_timeline = self.recover(install.clone(), &to, &fenced)?;
        Ok(Rebuilt { fenced, postgres_timeline, install })
    }

    /// The base backup must begin where a node still has WAL, and not after the fence; that it ends before the fence is
    /// Postgres' own check.
    fn check_begin(&self, to: &Path, fenced: &Fenced) -> Result<()> {
        let label = fs::read_to_string(to.join("backup_label")).context(
            "no backup_label: the base is not a base backup (a copied data directory does not do)",
        )?;
        let begin = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "));
        let begin = begin.and_then(|line| line.split_whitespace().next());
        let begin: Lsn =
            begin.context("backup_label does not say where the backup begins")?.parse()?;
        ensure!(
            begin <= fenced.lsn,
            "the base backup begins at {begin}, after the fence {}: it holds what the quorum never committed",
            fenced.lsn
        );
        let statuses = self.nodes.statuses(self.key.key())?;
        let oldest = statuses.iter().map(|(_, status)| status.local_start_lsn).min();
        ensure!(
            oldest.is_some_and(|oldest| oldest <= begin),
            "the base backup begins at {begin}, the nodes' WAL at {}: take a base backup while the relay is attached",
            oldest.unwrap_or_default()
        );
        Ok(())
    }

    fn recover(&self, install: PostgresInstall, to: &Path, fenced: &Fenced) -> Result<u32> {
        let until = fenced.lsn;
        // Recovery fetches the histories of the timelines that it follows, none of which goes past the fence; the
        // promotion's comes after all of these.
        let followed = fenced.postgres_timeline.map(|timeline| timeline.0);
        let before = newest_history(to)?.map(|(timeline, _)| timeline).max(followed);
        let mut server = PostgresServer::adopt(install.clone(), to)?;
        let restore_command = self.restore_command(until)?;
        // On the command line only: nothing of the recovery stays behind in the directory. WAL is kept for the relay,
        // which has to read on from the fence.
        server.launch_with(&[
            ("restore_command", &restore_command),
            ("recovery_target_timeline", "latest"),
            ("wal_keep_size", "1GB"),
            ("autovacuum", "off"),
            ("hot_standby", "off"),
        ])?;
        // The base backup's control file says "in production" too, so the promotion's history file must be there first.
        let promoted = |history: Option<(u32, Lsn)>| history.map(|(timeline, _)| timeline) > before;
        let in_production = || {
            server.check_running().context("the recovery failed")?;
            if !promoted(newest_history(to)?) {
                return Ok(None);
            }
            let mut command = install.command("pg_controldata")?;
            let report = run(command.env("LC_ALL", "C").arg("-D").arg(to))?;
            let state = report.lines().find(|line| line.starts_with("Database cluster state:"));
            Ok(state.is_some_and(|line| line.ends_with("in production")).then_some(()))
        };
        wait_until(RECOVERY_LIMIT, in_production)?.context("the recovery takes more than a day")?;
        server.stop()?;
        let (timeline, switch_lsn) =
            newest_history(to)?.context("the recovery left no timeline history")?;
        ensure!(
            switch_lsn == until,
            "the recovery ended at {switch_lsn}, not at the fence {until}: do not use {}",
            to.display()
        );
        Ok(timeline)
    }

    /// This program, as Postgres calls it for each file.
    fn restore_command(&self, until: Lsn) -> Result<String> {
        let own = std::env::current_exe().context("cannot find the running program")?;
        let own = if own.file_name().is_some_and(|name| name == "firn") {
            own
        } else {
            crate::local::process::built_program("firn")?
        };
        let token = self.nodes.token.as_ref().map(|token| format!("FIRN_TOKEN={} ", quote(token)));
        Ok(format!(
            "{}{} wal fetch --nodes {} --tenant {} --timeline {} --until {until} %f \"%p\"",
            token.unwrap_or_default().replace('%', "%%"),
            quote(&own.display().to_string()).replace('%', "%%"),
            quote(&self.nodes.nodes.join(",")).replace('%', "%%"),
            self.key.tenant,
            self.key.timeline,
        ))
    }
}

/// A word of a shell command line.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A directory that is there and holds something is somebody's.
fn ensure_empty(to: &Path) -> Result<()> {
    ensure!(!to.exists() || to.is_dir(), "{} is no directory", to.display());
    let has_entries = fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!has_entries, "{} is not empty", to.display());
    Ok(())
}

/// Makes a copied base backup ready for archive recovery from the quorum alone.
fn prepare(to: &Path) -> Result<()> {
    for name in ["postmaster.pid", "postmaster.opts", "standby.signal"] {
        let path = to.join(name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for folder in ["pg_wal", "pg_replslot"] {
        let folder = to.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(to.join("recovery.signal"), "").context("cannot write recovery.signal")
}

/// The highest Postgres timeline with a history file, and where it begins: its last line says `parent LSN reason`.
fn newest_history(data: &Path) -> Result<Option<(u32, Lsn)>> {
    let mut newest = None;
    for entry in fs::read_dir(data.join("pg_wal")).context("no pg_wal")?.flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".history"));
        let Some(timeline) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            continue;
        };
        if newest.is_some_and(|(other, _)| other >= timeline) {
            continue;
        }
        let text = fs::read_to_string(entry.path())
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        let mut lines = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let lsn = lines.next_back().and_then(|line| line.split_whitespace().nth(1));
        let lsn = lsn.with_context(|| format!("{} has no line", entry.path().display()))?;
        newest = Some((timeline, lsn.parse()?));
    }
    Ok(newest)
}
