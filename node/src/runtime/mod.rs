//! The only way to disks, sockets, time and chance: one façade, implementations chosen at start.
//!
//! `uring` (default) is a thin single-threaded executor on io_uring; `sim` runs whole clusters in one thread on virtual
//! time from one seed. (`glommio` gets its place beside them.) A [`Runtime`] belongs to one shard: it, its files,
//! streams and tasks never leave the shard's thread; [`mailbox()`], [`oneshot()`], wakers and [`RawStream`] do.
//!
//! Invariant: a buffer belongs to its operation until the completion arrives. Dropping a future never frees what the
//! kernel may still write to.
//!
//! Budget of the hot paths in `uring`: one `io_uring_enter` per turn of the loop, however many operations it submits and
//! reaps, none when nothing was submitted or completed; a durable append on an idle shard is 1 enter; read, write,
//! receive and send allocate nothing (their state is a slab entry) and copy nothing; a send in parts allocates its
//! parts and message header.
//!
//! Read first: `shared.rs` ([`Runtime`]), `operation.rs`, `executor.rs`; then `uring/` or `sim/`.

pub mod baseline;
mod buffer;
mod clock;
mod device;
mod directory;
mod executor;
mod file;
mod in_flight;
mod mailbox;
mod network;
mod operation;
mod options;
mod raw_file;
mod reactor;
mod resolver;
mod shared;
pub mod sim;
pub mod sync;
mod threads;
mod time;
mod timers;
mod tls;
mod uring;

pub use buffer::{ALIGNMENT_BYTES, Buffer};
pub use device::{Device, DeviceParseError};
pub use directory::{DirectoryEntry, FileLock};
pub use executor::{BACKGROUND_SHARES, LATENCY_SHARES, Task, TaskClass};
pub use file::{File, OpenOptions};
pub use mailbox::{
    Disconnected, Mailbox, MailboxSender, OneshotReceiver, OneshotSender, TrySendError, mailbox,
    oneshot,
};
pub use network::{Listener, PeerAddress, RawStream, Stream};
pub use options::{
    CoresParseError, RingSetup, RuntimeOptions, TimeParseError, parse_cores, parse_time,
};
pub use shared::Runtime;
pub use time::MonotonicTime;
pub use uring::{
    Checked, CoreClaim, ShardPanicked, Shards, StartError, block_on, block_on_with,
    check_directory_unchanged, check_machine, check_start, start_shards,
};

#[cfg(test)]
mod tests;
