//! The part of `firn-bench runtime` that compares: the same work on the product's runtime, on glommio and on tokio, each
//! time in a process of its own, in turn. CPU time is that of all threads of the process; system calls are counted in two
//! more runs under strace, of which one does more operations.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use firn_node::runtime::baseline::others::{Measured, Which, Work, prepare};
use serde_json::{Value, json};

use crate::figures::median;

/// Operations of the two runs under strace: the difference leaves out what starts and ends a run.
const TRACED: [u64; 2] = [200, 1_200];
/// Columns of a run that are medians over the rounds.
const COLUMNS: [&str; 5] = ["per_s", "p50_us", "p99_us", "p99.9_us", "cpu_us"];

/// Does one kind of work on one runtime and prints what it took, for the process that compares.
pub fn run_one(name: &str, directory: &Path, operations: u64) -> anyhow::Result<()> {
    let (which, work) = name.split_once(':').context("--one: expected RUNTIME:WORK")?;
    let which: Which = which.parse().map_err(anyhow::Error::msg)?;
    let work: Work = work.parse().map_err(anyhow::Error::msg)?;
    let measured = which.run(work, &file(directory), operations);
    let measured = measured.with_context(|| format!("{work} on {which}"))?;
    println!("{}", summary(measured));
    Ok(())
}

fn file(directory: &Path) -> std::path::PathBuf {
    directory.join("firn-bench-runtimes")
}

fn summary(mut measured: Measured) -> Value {
    measured.latencies_ns.sort_unstable();
    let count = measured.latencies_ns.len();
    let at = |quantile: f64| {
        let place = (count as f64 * quantile) as usize;
        measured.latencies_ns.get(place.min(count - 1)).map_or(f64::NAN, |ns| *ns as f64 / 1e3)
    };
    json!({
        "per_s": count as f64 / measured.elapsed.as_secs_f64(),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "p99.9_us": at(0.999),
        "cpu_us": measured.cpu.as_secs_f64() * 1e6 / count as f64,
    })
}

/// Compares all work on all runtimes: medians of so many rounds.
pub fn compare(directory: &Path, operations: u64, rounds: usize) -> anyhow::Result<()> {
    prepare(&file(directory))?;
    let compared = compare_prepared(directory, operations, rounds);
    std::fs::remove_file(file(directory))?;
    compared
}

fn compare_prepared(directory: &Path, operations: u64, rounds: usize) -> anyhow::Result<()> {
    println!(
        "\n{:<20} {:<8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9}",
        "on three runtimes", "", "per s", "p50 us", "p99 us", "p99.9 us", "CPU us", "syscalls"
    );
    for work in Work::ALL {
        let mut taken = Which::ALL.map(|_| COLUMNS.map(|_| Vec::new()));
        for _ in 0..rounds.max(1) {
            for (which, columns) in Which::ALL.iter().zip(&mut taken) {
                let round = child(*which, work, directory, operations)?;
                for (name, values) in COLUMNS.iter().zip(columns) {
                    values.push(round[*name].as_f64().unwrap_or(f64::NAN));
                }
            }
        }
        for (which, columns) in Which::ALL.into_iter().zip(taken) {
            let [per_s, p50, p99, p999, cpu] = columns.map(median);
            let syscalls = syscalls(which, work, directory)?;
            let syscalls = syscalls.map_or("-".to_string(), |calls| format!("{calls:.2}"));
            let (work, which) = (work.to_string(), which.to_string());
            println!(
                "{work:<20} {which:<8} {per_s:>9.0} {p50:>9.1} {p99:>9.1} {p999:>9.1} {cpu:>8.1} {syscalls:>9}"
            );
        }
    }
    Ok(())
}

fn arguments(which: Which, work: Work, directory: &Path, operations: u64) -> Vec<String> {
    let directory = directory.display().to_string();
    let one = format!("{which}:{work}");
    let operations = operations.to_string();
    ["runtime", "--directory", &directory, "--operations", &operations, "--one", &one]
        .map(str::to_string)
        .to_vec()
}

fn child(which: Which, work: Work, directory: &Path, operations: u64) -> anyhow::Result<Value> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let mut command = Command::new(own);
    command.args(arguments(which, work, directory, operations)).stdin(Stdio::null());
    let output = command.output().context("cannot run firn-bench runtime")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{work} on {which}: {errors}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("{work} on {which}"))
}

/// System calls per operation, of all threads; `None` without strace.
fn syscalls(which: Which, work: Work, directory: &Path) -> anyhow::Result<Option<f64>> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    let counts = directory.join("firn-bench-runtimes.strace");
    let mut calls = Vec::new();
    for operations in TRACED {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-c", "-o"]).arg(&counts).arg(&own);
        command.args(arguments(which, work, directory, operations)).stdin(Stdio::null());
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            output => ensure!(output?.status.success(), "strace: {work} on {which}"),
        }
        let text = std::fs::read_to_string(&counts)?;
        std::fs::remove_file(&counts)?;
        let total = text.lines().rfind(|line| line.ends_with("total"));
        // Its columns: % time, seconds, usecs/call, calls.
        let field = total.and_then(|line| line.split_whitespace().nth(3));
        let found = field.and_then(|field| field.parse::<f64>().ok());
        calls.push(found.with_context(|| format!("strace's totals were not understood: {text}"))?);
    }
    let [few, many] = TRACED;
    Ok(Some((calls[1] - calls[0]) / (many - few) as f64))
}
