//! A `firn-node relay` process of our own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Result, ensure};
use firn_core::types::TimelineKey;
use rustix::process::Signal;

use crate::local::process::{Process, built_program, log_tail};

/// A relay, which may be running or not.
#[derive(Debug)]
pub struct RelayProcess {
    name: String,
    postgres: String,
    key: TimelineKey,
    acceptors: Vec<String>,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

impl RelayProcess {
    /// A relay from the Postgres at `conninfo` to the acceptors (`host:port` each). Not started.
    pub fn new(
        name: &str,
        conninfo: &str,
        key: TimelineKey,
        acceptors: Vec<String>,
        log: &Path,
    ) -> RelayProcess {
        RelayProcess {
            name: name.to_string(),
            postgres: conninfo.to_string(),
            key,
            acceptors,
            arguments: Vec::new(),
            log: log.to_path_buf(),
            process: None,
        }
    }

    /// Adds an argument to its command line.
    pub fn with_argument(mut self, argument: &str) -> RelayProcess {
        self.arguments.push(argument.to_string());
        self
    }

    /// The command that starts it.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(built_program("firn-node")?);
        command.args(["relay", "--postgres", &self.postgres]);
        command.args(["--tenant", &self.key.tenant_id.to_string()]);
        command.args(["--timeline", &self.key.timeline_id.to_string()]);
        command.args(["--acceptors", &self.acceptors.join(",")]).args(&self.arguments);
        Ok(command)
    }

    /// Starts it. It connects, and connects again, by itself.
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} runs already", self.name);
        self.process = Some(Process::start(&self.name, &mut self.command()?, &self.log)?);
        Ok(())
    }

    /// How its process ended by itself, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.as_mut().map_or(Ok(None), Process::ended)
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// An error with the end of its log when it ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Orderly shutdown.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::TERM).map(|_| ()),
            None => Ok(()),
        }
    }
}
