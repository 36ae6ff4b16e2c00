//! What the machine must offer before shards start, and what is done without where it may lack something.
//!
//! Each finding is one line: refusals as [`StartError`], degradations as text for the log.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use super::buffer::{ALIGNMENT_BYTES, Buffer};
use super::cores::{self, CoreClaim};
use super::file::OpenOptions;
use super::options::{RuntimeName, RuntimeOptions};
use super::shards::block_on_with;
use super::{glommio, uring};

/// The file that the check of a data directory makes and removes.
const PROBE_FILE: &str = "direct-io-probe";

/// Why shards cannot start here.
#[derive(Debug, Error)]
pub enum StartError {
    /// No ring at all.
    #[error("cannot set up an io_uring: {0}; {1}")]
    NoRing(io::Error, String),
    /// Too little of something for the rings.
    #[error("cannot set up {rings} io_urings: {error}; {advice}")]
    TooManyRings {
        /// How many were asked for.
        rings: usize,
        /// What the kernel said.
        error: io::Error,
        /// What to change.
        advice: String,
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
    /// The cores that this process has for itself among Firn's, as long as it keeps this.
    pub claims: Vec<CoreClaim>,
}

/// Checks kernel, limits, cores and the data directory, which must exist. Blocks for a few milliseconds.
///
/// # Errors
/// The first thing that Firn cannot do without.
pub fn check_start(options: &RuntimeOptions, data_dir: &Path) -> Result<Checked, StartError> {
    let checked = check_machine(options)?;
    check_data_dir(options, data_dir)?;
    Ok(checked)
}

/// Checks kernel, limits and cores.
///
/// # Errors
/// The first thing that Firn cannot do without.
pub fn check_machine(options: &RuntimeOptions) -> Result<Checked, StartError> {
    raise_open_files();
    let mut checked =
        Checked { options: options.clone(), degraded: Vec::new(), claims: Vec::new() };
    uring::check_operations()?;
    match options.runtime {
        RuntimeName::Uring => uring::check_rings(&mut checked)?,
        RuntimeName::Glommio => glommio::check_executors(options)?,
    }
    cores::check(&mut checked)?;
    Ok(checked)
}

/// What [`check_start`] would find in a directory, by a file that never has a name: nothing is changed. `false`: this file
/// system has no such files, so that direct I/O was not tried.
///
/// # Errors
/// If the directory cannot be written or has no direct I/O.
pub fn check_directory_unchanged(path: &Path) -> Result<bool, StartError> {
    let not_writable =
        |error: Errno| StartError::NotWritable { path: path.to_path_buf(), error: error.into() };
    let open = |direct| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | direct;
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
    };
    match open(OFlags::empty()) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(not_writable)?;
            return Ok(false);
        }
        Err(error) => return Err(not_writable(error)),
    }
    let durable = || {
        let file = open(OFlags::DIRECT)?;
        let written = Buffer::padded_copy(b"firn");
        rustix::io::pwritev2(&file, &[IoSlice::new(&written)], 0, ReadWriteFlags::DSYNC)
    };
    match durable() {
        Ok(_) => Ok(true),
        Err(error) => Err(StartError::NoDirectIo { path: path.to_path_buf(), error: error.into() }),
    }
}

/// Raises the process' own limit on open files to what it may have: the usual 1,024 is a bound for programs that use
/// select(2), which would fail beyond it.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Without it there are fewer connections, each refused one with a line of its own.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// The refusal for a reactor that cannot be set up.
pub(super) fn no_ring(error: io::Error) -> StartError {
    let advice = advice(&error);
    StartError::NoRing(error, advice)
}

/// What to change when a ring cannot be set up.
pub(super) fn advice(error: &io::Error) -> String {
    let limit = |resource| {
        getrlimit(resource).current.map_or("unlimited".to_string(), |limit| limit.to_string())
    };
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has none: Linux 5.15 or newer is needed".to_string(),
        Some(libc::EPERM) => {
            "it is forbidden here: see sysctl kernel.io_uring_disabled and the container's seccomp profile".to_string()
        }
        Some(libc::ENOMEM) => format!(
            "RLIMIT_MEMLOCK is {} bytes (raise it with `ulimit -l`, or start fewer shards)",
            limit(Resource::Memlock)
        ),
        Some(libc::EMFILE) => format!(
            "RLIMIT_NOFILE is {} open files (raise it with `ulimit -n`, or start fewer shards)",
            limit(Resource::Nofile)
        ),
        _ => "see the kernel's log".to_string(),
    }
}

fn check_data_dir(options: &RuntimeOptions, path: &Path) -> Result<(), StartError> {
    let probe = path.join(PROBE_FILE);
    let options = RuntimeOptions { cores: Vec::new(), ..options.clone() };
    let tried = block_on_with(&options, move |runtime| async move {
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
        Err(error) => Err(no_ring(error)),
        Ok(Err(Problem::Write(error))) => Err(StartError::NotWritable { path, error }),
        Ok(Err(Problem::Direct(error))) => Err(StartError::NoDirectIo { path, error }),
    }
}

enum Problem {
    Write(io::Error),
    Direct(io::Error),
}

#[cfg(test)]
mod tests;
