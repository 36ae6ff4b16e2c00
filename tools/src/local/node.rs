//! A `firn-node run` process of our own, with its data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firn_core::api::PortsFile;
use rustix::process::Signal;

use crate::clock::wait_until;
use crate::local::process::{Process, built_program};

/// How long a node may take to listen; it may have a recovery to do.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a node is started.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Threads that own tenants; absent = what the node decides.
    pub shards: Option<u32>,
    /// Run on the volatile device: what was not flushed is lost with `kill -9`.
    pub volatile: bool,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A node's data directory with its process, which may be running or not. It keeps its ports over a restart.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    folder: PathBuf,
    options: NodeOptions,
    ports: Option<PortsFile>,
    process: Option<Process>,
    wrapper: Vec<String>,
}

impl NodeProcess {
    /// A node that keeps its data in `folder/data` and its log and ports file beside it. Not started.
    pub fn new(name: &str, folder: &Path, options: NodeOptions) -> Result<NodeProcess> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(NodeProcess {
            name: name.to_string(),
            folder: folder.to_path_buf(),
            options,
            ports: None,
            process: None,
            wrapper: Vec::new(),
        })
    }

    /// Adds arguments to its command line, for its next start.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.options.arguments.extend(arguments.iter().map(|argument| (*argument).to_string()));
    }

    /// Starts it from now on by these words before its own command; they must end in it, as exec(2) does.
    pub fn wrap(&mut self, words: &[&str]) {
        self.wrapper = words.iter().map(|word| (*word).to_string()).collect();
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// Who it is and where it listens, once it was started.
    pub fn ports(&self) -> Result<&PortsFile> {
        self.ports.as_ref().with_context(|| format!("{} was never started", self.name))
    }

    /// `host:port` of its acceptor.
    pub fn pg_address(&self) -> Result<String> {
        Ok(self.ports()?.pg.clone())
    }

    /// The base of its HTTP API's URLs.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}", self.ports()?.http))
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

    /// The command that starts it, on the ports that it had before.
    pub fn command(&self) -> Result<Command> {
        let program = built_program("firn-node")?;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let any = "127.0.0.1:0".to_string();
        let (pg, http) = match &self.ports {
            Some(ports) => (ports.pg.clone(), ports.http.clone()),
            None => (any.clone(), any),
        };
        command.arg("run").arg("--data").arg(self.data()).args(["--listen", &pg, "--http", &http]);
        command.arg("--ports-file").arg(self.ports_file());
        if let Some(shards) = self.options.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        if self.options.volatile {
            command.args(["--device", "volatile"]);
        }
        command.args(&self.options.arguments);
        Ok(command)
    }

    fn ports_file(&self) -> PathBuf {
        self.folder.join("ports.json")
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} runs already", self.name);
        // An old file must not be taken for the new process's.
        if self.ports_file().exists() {
            fs::remove_file(self.ports_file()).context("cannot remove the old ports file")?;
        }
        let mut process = Process::start(&self.name, &mut self.command()?, &self.log())?;
        let listening = || {
            process.check_running()?;
            let Ok(text) = fs::read_to_string(self.ports_file()) else { return Ok(None) };
            Ok(Some(serde_json::from_str::<PortsFile>(&text).context("the ports file is no such")?))
        };
        let ports = wait_until(START_LIMIT, listening)?;
        self.ports = Some(
            ports
                .with_context(|| format!("{} does not listen after {START_LIMIT:?}", self.name))?,
        );
        self.process = Some(process);
        Ok(())
    }

    /// Tells it to read its keys and certificates again; its log says when it has.
    pub fn reload(&self) -> Result<()> {
        self.process()?.signal(Signal::HUP)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Stops it where it is, with its sockets open, until [`NodeProcess::resume`].
    pub fn pause(&self) -> Result<()> {
        self.process()?.signal(Signal::STOP)
    }

    /// Lets a paused node go on.
    pub fn resume(&self) -> Result<()> {
        self.process()?.signal(Signal::CONT)
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.name))
    }

    /// Orderly shutdown.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::TERM).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Removes its data directory, as a lost disk does. It must not be running.
    pub fn lose_data(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} runs", self.name);
        fs::remove_dir_all(self.data()).with_context(|| format!("cannot remove {}", self.name))
    }
}
