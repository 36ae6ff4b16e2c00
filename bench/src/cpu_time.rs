//! Time on a core, which other work on the machine does not stretch as it does the clock on the wall.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Ticks per second in /proc (USER_HZ), the same on every Linux machine that Firn runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that the calling thread has spent on a core.
pub fn thread_cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Seconds that the children which this process has waited for spent on cores, to a hundredth
/// (proc(5), /proc/pid/stat: cutime, cstime).
pub fn children_cpu_seconds() -> Result<f64> {
    let path = "/proc/self/stat";
    let text = std::fs::read_to_string(path).with_context(|| path.to_string())?;
    // The second field is a name in parentheses, with anything in it.
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat has no name")?;
    let ticks = |index: usize| -> Result<f64> {
        let field = fields.split_whitespace().nth(index).unwrap_or_default();
        field.parse().with_context(|| format!("{path}: expected ticks, found {field:?}"))
    };
    Ok((ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}
