//! What the machine must offer before shards start, and what is done without where it may lack something.
//!
//! Each finding is one line: refusals as [`StartError`], degradations as text for the log.

use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use super::super::buffer::{ALIGNMENT_BYTES, Buffer};
use super::super::file::OpenOptions;
use super::super::options::RuntimeOptions;
use super::reactor::{Reactor, Setup};
use super::shard::block_on;

/// The file that the check of a data directory makes and removes.
const PROBE_FILE: &str = "direct-io-probe";

/// Why shards cannot start here.
#[derive(Debug, Error)]
pub enum StartError {
    /// No ring at all.
    #[error("cannot set up an io_uring: {0}; {1}")]
    NoRing(io::Error, &'static str),
    /// Too little locked memory for the rings.
    #[error(
        "cannot set up {rings} io_urings: {error}; RLIMIT_MEMLOCK is {limit} (raise it with `ulimit -l`, or start fewer shards)"
    )]
    LockedMemory {
        /// How many were asked for.
        rings: usize,
        /// The limit, in bytes.
        limit: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// An old kernel.
    #[error("this kernel's io_uring cannot {0}: Linux 5.15 or newer is needed")]
    MissingOperations(String),
    /// The data directory cannot be written.
    #[error("cannot write in the data directory {path}: {error}")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The data directory's file system cannot do what the journal needs.
    #[error(
        "the data directory {path} cannot do durable direct I/O in blocks of {ALIGNMENT_BYTES} bytes: {error}; use ext4 or xfs"
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A core that is not there or not ours.
    #[error("core {core} is not available to this process: available are {available:?}")]
    NoSuchCore {
        /// The core asked for.
        core: usize,
        /// The cores of the process.
        available: Vec<usize>,
    },
}

/// Options that fit the machine, and a line for each thing done without.
#[derive(Debug)]
pub struct Checked {
    /// The options to start with.
    pub options: RuntimeOptions,
    /// What is slower or less than asked for, and why.
    pub degraded: Vec<String>,
}

/// Checks kernel, limits, cores and the data directory, which must exist. Blocks for a few milliseconds.
///
/// # Errors
/// The first thing that Firn cannot do without.
pub fn check_start(options: &RuntimeOptions, data_dir: &Path) -> Result<Checked, StartError> {
    let mut checked = Checked { options: options.clone(), degraded: Vec::new() };
    check_kernel(&mut checked)?;
    check_locked_memory(options.shards)?;
    check_cores(&mut checked)?;
    check_data_dir(data_dir)?;
    Ok(checked)
}

fn check_kernel(checked: &mut Checked) -> Result<(), StartError> {
    let ring = IoUring::new(1).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel has none: Linux 5.15 or newer is needed",
            Some(libc::EPERM) => {
                "it is forbidden here: see sysctl kernel.io_uring_disabled and the container's seccomp profile"
            }
            _ => "see RLIMIT_MEMLOCK and the number of open files",
        };
        StartError::NoRing(error, hint)
    })?;
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
    let reactor = Reactor::new().map_err(|error| StartError::NoRing(error, "a small one works"))?;
    match reactor.setup() {
        Setup::Deferred => {}
        Setup::Cooperative => checked.degraded.push(
            "the kernel lacks DEFER_TASKRUN (Linux 6.1): completions interrupt more".to_string(),
        ),
        Setup::Plain => checked.degraded.push(
            "the kernel lacks COOP_TASKRUN (Linux 5.19): completions interrupt much more"
                .to_string(),
        ),
    }
    Ok(())
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

/// Kernels before 5.12 count rings as locked memory: all shards' rings are set up at once to see whether they fit.
fn check_locked_memory(rings: usize) -> Result<(), StartError> {
    let made: io::Result<Vec<Reactor>> = (0..rings).map(|_| Reactor::new()).collect();
    made.map(drop).map_err(|error| {
        let limit = getrlimit(Resource::Memlock).current;
        let limit = limit.map_or("unlimited".to_string(), |bytes| format!("{bytes} bytes"));
        StartError::LockedMemory { rings, limit, error }
    })
}

fn check_cores(checked: &mut Checked) -> Result<(), StartError> {
    let options = &mut checked.options;
    let affinity = rustix::thread::sched_getaffinity(None);
    let available: Vec<usize> = match affinity {
        Ok(set) => {
            let cores = 0..rustix::thread::CpuSet::MAX_CPU;
            cores.filter(|core| set.is_set(*core)).collect()
        }
        // Without the answer pinning itself will say what is wrong.
        Err(_) => options.cores.clone(),
    };
    if let Some(core) = options.cores.iter().find(|core| !available.contains(core)) {
        return Err(StartError::NoSuchCore { core: *core, available });
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if options.shards > cores {
        let text = format!("{} shards share {cores} cores", options.shards);
        checked.degraded.push(text);
    }
    let mut own = options.cores.clone();
    own.sort_unstable();
    own.dedup();
    if !options.spin.is_zero() && own.len() < options.shards {
        options.spin = std::time::Duration::ZERO;
        let text =
            "shards have no cores of their own (--cores): they do not spin before they sleep";
        checked.degraded.push(text.to_string());
    }
    Ok(())
}

fn check_data_dir(path: &Path) -> Result<(), StartError> {
    let probe = path.join(PROBE_FILE);
    let tried = block_on(move |runtime| async move {
        // Whether the directory can be written at all, before direct I/O is asked for.
        let options = OpenOptions::read_write().create().truncate();
        runtime.open(&probe, options.buffered()).await.map_err(Problem::Write)?;
        let durable = async {
            let file = runtime.open(&probe, options).await?;
            let written = Buffer::padded_copy(b"firn");
            let (result, _) = file.write_durable_at(written, 0).await;
            result?;
            let (count, read) = file.read_at(Buffer::zeroed(ALIGNMENT_BYTES), 0).await;
            match count? {
                ALIGNMENT_BYTES if read.starts_with(b"firn") => Ok(()),
                _ => Err(io::Error::other("what was written does not read back")),
            }
        };
        let durable = durable.await.map_err(Problem::Direct);
        runtime.remove_file(&probe).await.map_err(Problem::Write)?;
        durable
    });
    let path = path.to_path_buf();
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Problem::Write(error))) | Err(error) => Err(StartError::NotWritable { path, error }),
        Ok(Err(Problem::Direct(error))) => Err(StartError::NoDirectIo { path, error }),
    }
}

enum Problem {
    Write(io::Error),
    Direct(io::Error),
}

#[cfg(test)]
mod tests;
