//! The only way to disks, sockets, time and chance: one façade, implementations chosen at start.
//!
//! `uring` (default) is a thin single-threaded executor on io_uring; `glommio` carries the same operations out on that
//! library, for comparison; `sim` runs whole clusters in one thread on virtual time from one seed. A [`Runtime`] belongs to
//! one shard: it, its files, streams and tasks never leave the shard's thread; [`mailbox()`], [`oneshot()`], wakers and
//! [`RawStream`] do.
//!
//! Invariant: a buffer belongs to its operation until the completion arrives. Dropping a future never frees what the
//! kernel may still write to.
//!
//! Budget of the hot paths in `uring`: one `io_uring_enter` per turn of the loop, however many operations it submits and
//! reaps, none when nothing was submitted or completed; a durable append on an idle shard is 1 enter; read, write,
//! receive and send allocate nothing (their state is a slab entry) and copy nothing; a send in parts allocates its
//! parts and message header.
//!
//! Read first: `shared.rs` ([`Runtime`]), `operation.rs`, `executor.rs`, `turns.rs`; then `uring/`, `glommio/` or `sim/`.

pub mod baseline;
mod buffer;
mod checks;
mod clock;
mod cores;
mod device;
mod directory;
mod executor;
mod file;
mod glommio;
mod in_flight;
mod mailbox;
mod network;
mod operation;
mod options;
mod raw_file;
mod reactor;
mod resolver;
mod shards;
mod shared;
pub mod sim;
pub mod sync;
mod threads;
mod time;
mod timers;
mod tls;
mod turns;
mod uring;

pub use buffer::{ALIGNMENT_BYTES, Buffer};
pub use checks::{Checked, StartError, check_directory_unchanged, check_machine, check_start};
pub use cores::CoreClaim;
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
    CoresParseError, RingSetup, RuntimeName, RuntimeOptions, TimeParseError, parse_cores,
    parse_time,
};
pub use shards::{ShardPanicked, Shards, block_on, block_on_with, start_shards};
pub use shared::Runtime;
pub use time::MonotonicTime;

#[cfg(test)]
mod tests;
