//! The same small work on three runtimes: the product's own, glommio, tokio. Each does it in its best way, alone in its
//! process; its start is not counted.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::time::{ClockId, clock_gettime};

use super::super::clock::monotonic;
use super::super::{MonotonicTime, block_on};
use super::zero_filled;
use super::{glommio, tokio, uring};

/// A page, and the reply to a request.
pub(super) const BLOCK_BYTES: usize = 8192;
/// A request.
pub(super) const REQUEST_BYTES: usize = 32;
/// The file that is written and read: larger than what a device caches for one stream.
pub const FILE_BYTES: u64 = 64 << 20;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Durable writes of 8 KiB, one after the other through the file, so many at a time.
    DurableWrites {
        /// How many.
        depth: u64,
    },
    /// Reads of 8 KiB all over the file, so many at a time.
    Reads {
        /// How many.
        depth: u64,
    },
    /// Requests of 32 bytes with replies of 8 KiB, server and clients on one thread.
    Requests {
        /// Connections, one request outstanding on each.
        connections: u64,
    },
    /// Questions to a thread that sleeps, and its answers.
    Wakes,
}

impl Work {
    /// All that is compared.
    pub const ALL: [Work; 8] = [
        Work::DurableWrites { depth: 1 },
        Work::DurableWrites { depth: 8 },
        Work::Reads { depth: 1 },
        Work::Reads { depth: 8 },
        Work::Reads { depth: 32 },
        Work::Requests { connections: 1 },
        Work::Requests { connections: 16 },
        Work::Wakes,
    ];
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::DurableWrites { depth } => write!(f, "durable-writes-{depth}"),
            Work::Reads { depth } => write!(f, "reads-{depth}"),
            Work::Requests { connections } => write!(f, "requests-{connections}"),
            Work::Wakes => f.write_str("wakes"),
        }
    }
}

impl FromStr for Work {
    type Err = String;
    fn from_str(text: &str) -> Result<Work, String> {
        let found = Work::ALL.into_iter().find(|work| work.to_string() == text);
        found.ok_or_else(|| format!("unknown work {text:?}"))
    }
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The product's own.
    Uring,
    /// glommio 0.9.
    Glommio,
    /// tokio on one thread, with its pool of threads for files.
    Tokio,
}

impl Which {
    /// All that are compared.
    pub const ALL: [Which; 3] = [Which::Uring, Which::Glommio, Which::Tokio];

    /// Does `operations` operations.
    ///
    /// # Errors
    /// Those of the system, and of a runtime that cannot start.
    pub fn run(self, work: Work, path: &Path, operations: u64) -> io::Result<Measured> {
        match self {
            Which::Uring => uring::run(work, path, operations),
            Which::Glommio => glommio::run(work, path, operations),
            Which::Tokio => tokio::run(work, path, operations),
        }
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Which::Uring => "uring",
            Which::Glommio => "glommio",
            Which::Tokio => "tokio",
        })
    }
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Which, String> {
        let found = Which::ALL.into_iter().find(|which| which.to_string() == text);
        found.ok_or_else(|| format!("unknown runtime {text:?}"))
    }
}

/// Makes the file that files' work needs.
///
/// # Errors
/// Those of the file system.
pub fn prepare(path: &Path) -> io::Result<()> {
    let path = path.to_path_buf();
    block_on(
        |runtime| async move { zero_filled(&runtime, &path, FILE_BYTES).await?.fdatasync().await },
    )?
}

/// What so many operations took.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Of each, in nanoseconds.
    pub latencies_ns: Vec<u64>,
    /// Of all.
    pub elapsed: Duration,
    /// Time of all threads of the process on cores, the kernel's for them too.
    pub cpu: Duration,
}

/// Measures from its begin to its end.
pub(super) struct Meter {
    latencies_ns: Vec<u64>,
    started: MonotonicTime,
    cpu: Duration,
}

impl Meter {
    pub(super) fn begin() -> Meter {
        Meter { latencies_ns: Vec::new(), started: monotonic(), cpu: process_cpu() }
    }

    pub(super) fn now() -> MonotonicTime {
        monotonic()
    }

    pub(super) fn record(&mut self, started: MonotonicTime) {
        self.latencies_ns.push((monotonic() - started).as_nanos() as u64);
    }

    pub(super) fn end(self) -> Measured {
        let (elapsed, cpu) = (monotonic() - self.started, process_cpu() - self.cpu);
        Measured { latencies_ns: self.latencies_ns, elapsed, cpu }
    }
}

/// Does parts of some work at once, each of which records its operations.
pub(super) async fn at_once<T, F>(
    parts: impl IntoIterator<Item = T>,
    mut work: impl FnMut(T, Rc<RefCell<Meter>>) -> F,
) -> io::Result<Measured>
where
    F: Future<Output = io::Result<()>>,
{
    let meter = Rc::new(RefCell::new(Meter::begin()));
    try_join_all(parts.into_iter().map(|part| work(part, meter.clone()))).await?;
    let meter = Rc::into_inner(meter).expect("all parts have ended");
    Ok(meter.into_inner().end())
}

fn process_cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Where an operation's block lies: writes go through the file, reads all over it.
pub(super) fn offset_of(number: u64, write: bool) -> u64 {
    // A step that is prime to the number of blocks visits all of them, none near the last.
    let step = if write { 1 } else { 2_654_435_761 };
    number * step % (FILE_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64
}
