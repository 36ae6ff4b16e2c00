//! `firn postgres`: a primary whose only durable copy is the quorum (fsync=off mode).
//!
//! Without fsync a directory is worthless after any crash, so it is used once: it is made from the quorum by a fence and
//! a rebuild, marked before the server starts, and never started again, whatever happened. `restart_after_crash=off`
//! makes the whole server end when one backend dies; the next primary is another rebuild.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::commands::nodes::random_id;
use crate::commands::rebuild::RebuildArguments;
use crate::local::postgres_install::{PostgresInstall, ServerUser};

/// The file in a data directory that says that a server ran in it without fsync. It holds the run's id.
pub const USED_MARK: &str = "firn.used_without_fsync";

/// The server setting by which a relay sees that a server without fsync runs in a directory that is used once: the
/// run's id. A relay refuses a primary with `fsync=off` that does not have it.
pub const RUN_SETTING: &str = "firn.single_use_run";

/// Postgres servers.
#[derive(Debug, Subcommand)]
pub enum PostgresCommand {
    /// Rebuild a fresh directory from the quorum and run a primary in it with fsync=off, once.
    Run(RunArguments),
}

impl PostgresCommand {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            PostgresCommand::Run(arguments) => arguments.run(),
        }
    }
}

/// `firn postgres run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    rebuild: RebuildArguments,
    /// Port of the server.
    #[arg(long, default_value_t = 5432)]
    port: u16,
    /// Further arguments to postgres.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl RunArguments {
    fn run(self) -> Result<()> {
        let to = &self.rebuild.to;
        if to.join(USED_MARK).exists() {
            bail!(
                "{} was used without fsync and must not be started again; name a directory that does not exist",
                to.display()
            );
        }
        let rebuilt = self.rebuild.rebuild()?;
        let mut command = single_use(&rebuilt.install, to, self.port)?;
        eprintln!("firn: rebuilt up to {}; starting without fsync, once", rebuilt.fenced.lsn);
        // Replaces this process, so that signals and the exit code are the server's own.
        let error = command.args(&self.arguments).exec();
        Err(error).context("cannot start postgres")
    }
}

/// Marks a fresh directory as used and gives the command that runs a server in it, once.
pub fn single_use(install: &PostgresInstall, data: &Path, port: u16) -> Result<Command> {
    let mark = data.join(USED_MARK);
    ensure!(!mark.exists(), "{} was used without fsync already", data.display());
    let run_id = random_id()?;
    fs::write(&mark, format!("{run_id}\n"))
        .and_then(|()| File::open(&mark)?.sync_all())
        .and_then(|()| File::open(data)?.sync_all())
        .with_context(|| format!("cannot mark {} as used", data.display()))?;
    ServerUser::give(&mark)?;
    let data = fs::canonicalize(data).with_context(|| format!("no {}", data.display()))?;
    let mut command = install.command("postgres")?;
    command.arg("-D").arg(data).args(["-p", &port.to_string()]);
    for setting in ["fsync=off", "restart_after_crash=off"] {
        command.args(["-c", setting]);
    }
    command.args(["-c", &format!("{RUN_SETTING}={run_id}")]);
    Ok(command)
}
