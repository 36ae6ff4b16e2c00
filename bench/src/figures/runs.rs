//! Runs of `firn-bench wal` for figures, each in a process of its own: nodes, journals and memory end with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::report::{self, Report};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// One short round instead of five.
    pub quick: bool,
}

impl Effort {
    /// Rounds whose median is the figure.
    pub fn rounds(self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// Seconds of load per round.
    pub fn round_s(self) -> f64 {
        if self.quick { 0.3 } else { 2.0 }
    }

    /// Seconds of load before each round.
    pub fn warm_up_s(self) -> f64 {
        if self.quick { 0.1 } else { 0.5 }
    }
}

/// Which directory a run's files lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The device of the temporary directory.
    Real,
    /// Memory, with writes held until 20 us after their submission.
    Modelled,
}

/// Runs the load with its baselines on embedded nodes of one shard; node and generator are pinned to different cores
/// where there are two.
pub fn wal(
    effort: Effort,
    device: Device,
    rounds: usize,
    arguments: &[&str],
) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let prefix = directory.path().join("run");
    let own = std::env::current_exe().context("cannot find the running program")?;
    let mut command = Command::new(own);
    let duration_s = effort.round_s() * rounds as f64;
    command
        .args(["wal", "--embedded", "--rounds", &rounds.to_string()])
        .args(["--duration", &duration_s.to_string()])
        .args(["--warm-up", &effort.warm_up_s().to_string()])
        .args(arguments)
        .arg("--output")
        .arg(&prefix);
    if device == Device::Modelled {
        command.args(["--device", "modelled:20us:20us"]).arg("--directory").arg(memory()?);
    }
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        command.args(["--node-cores", "0", "--cores", "1"]);
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run firn-bench wal")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "firn-bench wal {}: {errors}", arguments.join(" "));
    report::read(&prefix.with_extension("json"))
}

/// A directory in memory.
fn memory() -> anyhow::Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    ensure!(memory.is_dir(), "no memory file system at {}", memory.display());
    Ok(memory.to_path_buf())
}

/// The middle of several values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
