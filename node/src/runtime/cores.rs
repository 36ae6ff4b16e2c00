//! Which cores shards may use, and whether they are theirs alone: only then a shard may spin. A shard that spins on a core
//! that it shares takes time from the other, and gains nothing.

use std::io;
use std::num::NonZero;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::checks::{Checked, StartError};
use super::options::RuntimeOptions;

/// Says to other processes of this machine that a core is taken: a socket with a name in the kernel only, which goes with
/// the process however it ends.
#[derive(Debug)]
pub struct CoreClaim {
    _socket: UnixListener,
}

impl CoreClaim {
    /// Takes a core; `None` when another process has it.
    fn take(core: usize) -> Option<CoreClaim> {
        let name = SocketAddr::from_abstract_name(format!("firn-node/core-{core}")).ok()?;
        let socket = UnixListener::bind_addr(&name).ok()?;
        Some(CoreClaim { _socket: socket })
    }
}

/// Refuses cores that are not there; takes the others, and forbids spinning where they are shared.
pub(super) fn check(checked: &mut Checked) -> Result<(), StartError> {
    let options = &mut checked.options;
    let available: Vec<usize> = match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
        // Without the answer pinning itself will say what is wrong.
        Err(_) => options.cores.clone(),
    };
    if let Some(core) = options.cores.iter().find(|core| !available.contains(core)) {
        return Err(StartError::NoSuchCore { core: *core, available });
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if options.shards > cores {
        checked.degraded.push(format!("{} shards share {cores} cores", options.shards));
    }
    let mut own = options.cores.clone();
    own.truncate(options.shards);
    own.sort_unstable();
    own.dedup();
    let mut shared = Vec::new();
    for core in &own {
        match CoreClaim::take(*core) {
            Some(claim) => checked.claims.push(claim),
            None => shared.push(*core),
        }
    }
    if !options.spin.is_zero()
        && let Some(reason) = why_not_spin(options, &own, &shared)
    {
        options.spin = Duration::ZERO;
        checked.degraded.push(format!("{reason}: they do not spin before they sleep"));
    }
    Ok(())
}

fn why_not_spin(options: &RuntimeOptions, own: &[usize], shared: &[usize]) -> Option<String> {
    if own.len() < options.shards {
        return Some("shards have no cores of their own (--cores)".to_string());
    }
    if !shared.is_empty() {
        return Some(format!("shards share cores {shared:?} with another firn-node"));
    }
    None
}

/// Pins the calling thread.
pub(super) fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        let text = format!("there is no core {core}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    cores.set(core);
    sched_setaffinity(None, &cores)
        .map_err(|error| io::Error::other(format!("cannot pin a shard to core {core}: {error}")))
}
