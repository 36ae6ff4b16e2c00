//! The façade on glommio 0.9: each operation is a task of its executor that awaits what the library offers for it, or the
//! plainest thing of equal effect where it offers nothing (docs/records/026). For comparison; `uring` is the default.
//!
//! The façade's own executor, timers and mailboxes run inside, as one more of its tasks (the shard's loop, `shard.rs`): what
//! classes, cancelling and the end of a shard mean is the same everywhere. Other threads reach only the façade's wakers and a
//! socket that wakes the loop, never wakers of glommio.
//!
//! Invariant: an operation's task owns all that the operation owns, and runs on when its future is dropped.
//!
//! Cost: a task and its allocation for each operation; file operations copy to or from buffers of the library; a durable
//! write is a write and then an fdatasync.
//!
//! Read `reactor.rs` first, then `operations.rs` and `handle.rs` (the only unsafe part).

#![expect(clippy::disallowed_types, reason = "this is the place of the library")]

mod handle;
mod operations;
mod polling;
mod reactor;
mod shard;

pub(super) use handle::Handle;
pub(super) use reactor::Reactor;
pub(super) use shard::{check_executors, run};
