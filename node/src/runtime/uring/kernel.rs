//! What the kernel must offer to rings.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::super::checks::{Checked, StartError, advice, no_ring};
use super::super::options::{RingSetup, RuntimeOptions};
use super::reactor::Reactor;

/// Refuses a kernel without the operations. The other runtime needs fewer of them, and ends the process where one lacks.
pub(in super::super) fn check_operations() -> Result<(), StartError> {
    let ring = IoUring::new(1).map_err(no_ring)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|_| StartError::MissingOperations("be probed".to_string()))?;
    let missing: Vec<&str> = OPERATIONS
        .iter()
        .filter(|(code, _)| !probe.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(StartError::MissingOperations(missing.join(", ")));
    }
    Ok(())
}

/// Sets up the rings, and says what they do without.
pub(in super::super) fn check_rings(checked: &mut Checked) -> Result<(), StartError> {
    let reactor = Reactor::new(checked.options.ring).map_err(no_ring)?;
    match reactor.setup() {
        RingSetup::Deferred => {}
        RingSetup::Cooperative => checked.degraded.push(
            "the kernel lacks DEFER_TASKRUN (Linux 6.1): completions interrupt more".to_string(),
        ),
        RingSetup::Plain => checked.degraded.push(
            "the kernel lacks COOP_TASKRUN (Linux 5.19): completions interrupt much more"
                .to_string(),
        ),
    }
    check_limits(&checked.options)
}

/// What `prepare` submits, by the kernel's numbers.
const OPERATIONS: [(u8, &str); 14] = [
    (opcode::OpenAt::CODE, "open"),
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::RenameAt::CODE, "rename"),
    (opcode::UnlinkAt::CODE, "unlink"),
    (opcode::Accept::CODE, "accept"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Recv::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::Shutdown::CODE, "shutdown"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::AsyncCancel::CODE, "cancel"),
];

/// All shards' rings are set up at once to see whether they fit: into the open files, and into the locked memory, as which
/// the kernel counts rings of processes without CAP_IPC_LOCK.
fn check_limits(options: &RuntimeOptions) -> Result<(), StartError> {
    let rings = options.shards;
    let made: io::Result<Vec<Reactor>> = (0..rings).map(|_| Reactor::new(options.ring)).collect();
    made.map(drop).map_err(|error| {
        let advice = advice(&error);
        StartError::TooManyRings { rings, error, advice }
    })
}
