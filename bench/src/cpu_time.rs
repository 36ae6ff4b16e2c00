//! Time on a core, which other work on the machine does not stretch as it does the clock on the wall.

use std::fs;

use anyhow::Context;
use firn_tools::local::process::children;
use rustix::time::{ClockId, clock_gettime};

/// Ticks per second in /proc (USER_HZ), the same on every Linux machine that Firn runs on.
const TICKS_PER_S: f64 = 100.0;

/// Seconds that the calling thread has spent on a core.
pub fn thread_cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Seconds that the children which this process has waited for spent on cores, to a hundredth.
pub fn children_cpu_seconds() -> anyhow::Result<f64> {
    let [_, _, user, system] = times(std::process::id())?;
    Ok((user + system) as f64 / TICKS_PER_S)
}

/// CPU seconds of a process, its living children and those that it has waited for.
pub fn cpu_s_of_tree(pid: u32) -> anyhow::Result<f64> {
    let mut ticks = times(pid)?.into_iter().sum::<u64>();
    for child in children(pid) {
        // It may have ended since; then its parent has waited for it or will.
        ticks += times(child).map_or(0, |times| times.into_iter().sum());
    }
    Ok(ticks as f64 / TICKS_PER_S)
}

/// User and system time of a process, then of the children that it has waited for, in ticks (proc_pid_stat(5)).
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
