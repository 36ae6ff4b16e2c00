//! A child process with a log file, which ends with its handle.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::wait_until;

/// How long a process may take to end after it was told to; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Lines of a log that an error shows.
const LOG_TAIL_LINES: usize = 15;

/// A running child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let errors = output.try_clone().context("cannot share the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Process { name: name.to_string(), child, log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))
    }

    /// An error that says how the process ended, with the end of its log; nothing while it runs.
    pub fn check_running(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (_, signal) => format!("signal {}", signal.unwrap_or_default()),
                };
                bail!("{} ended ({how}):\n{}", self.name, log_tail(&self.log))
            }
        }
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid_of(self.pid()), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
            self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(())
    }

    /// `kill -9` of it and of the processes it started, and waits until all are gone.
    pub fn kill_with_children(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            // While it stands still it starts no process that we would miss.
            self.signal(Signal::STOP)?;
            let stands = || {
                let state = state_and_parent(self.pid()).map(|(state, _)| state);
                Ok(matches!(state, None | Some('T' | 'Z')).then_some(()))
            };
            wait_until(STOP_LIMIT, stands)?
                .with_context(|| format!("cannot stop {}", self.name))?;
        }
        let children = children(self.pid());
        self.kill()?;
        kill_orphans(&children)
    }

    /// Ends it as Ctrl-C does, and waits until it is gone.
    pub fn interrupt(&mut self) -> Result<ExitStatus> {
        self.stop(Signal::INT)
    }

    /// Sends `signal` and waits until the process is gone.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(signal)?;
        }
        if let Some(status) = wait_until(STOP_LIMIT, || self.child.try_wait().map_err(Into::into))?
        {
            return Ok(status);
        }
        self.kill()?;
        bail!("{} did not stop within {STOP_LIMIT:?}:\n{}", self.name, log_tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that is gone already is what we want; there is nobody to report anything else to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
pub fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// A loopback port that is free now. For servers that cannot be told to take any port and report it; who uses it must
/// be ready to find it taken.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    Ok(listener.local_addr().context("cannot read a socket's address")?.port())
}

/// The program of this name that was built together with the running one.
pub fn built_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    places.find(|path| path.is_file()).with_context(|| {
        format!("{name} is not beside {}; build it with: cargo build --bin {name}", own.display())
    })
}

/// Ids of the processes whose parent is `parent` now.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// Bytes of a process in memory (proc_pid_status(5)).
///
/// # Errors
/// There is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no VmRSS in {path}"))? * 1024)
}

/// State and parent from `/proc/PID/stat`: `pid (name) state parent ...`; the name may hold anything but ends with the
/// last closing parenthesis.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// `kill -9` of processes that a child of ours started, and waits until they are gone.
fn kill_orphans(pids: &[u32]) -> Result<()> {
    for pid in pids {
        // Gone already is what we want.
        let _ = kill_process(pid_of(*pid), Signal::KILL);
    }
    let is_alive = |pid: &u32| state_and_parent(*pid).is_some_and(|(state, _)| state != 'Z');
    let gone = || Ok((!pids.iter().any(is_alive)).then_some(()));
    wait_until(STOP_LIMIT, gone)?.context("processes survive kill -9")
}

fn pid_of(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the system's process ids are positive")
}
