//! What processes spend, from /proc (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;

use anyhow::Context;
use firn_tools::local::process::children;

/// Clock ticks per second that /proc counts in: USER_HZ, 100 on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds of a process, its living children and those that it has waited for.
pub fn cpu_s_of_tree(pid: u32) -> anyhow::Result<f64> {
    let mut ticks = times(pid)?.into_iter().sum::<u64>();
    for child in children(pid) {
        // It may have ended since; then its parent has waited for it or will.
        ticks += times(child).map_or(0, |times| times.into_iter().sum());
    }
    Ok(ticks as f64 / TICKS_PER_S)
}

/// User and system time of a process, then of the children that it has waited for.
fn times(pid: u32) -> anyhow::Result<[u64; 4]> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let behind_name = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    // The state follows the name as field 3; the times are fields 14 to 17.
    let mut fields = behind_name.split_whitespace().skip(11).map(str::parse);
    let mut next = || fields.next().context("too few fields")?.context("no number");
    let times = (|| anyhow::Ok([next()?, next()?, next()?, next()?]))();
    times.with_context(|| path.clone())
}

/// Bytes of a process in memory.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no VmRSS in {path}"))? * 1024)
}
