//! The default implementation: one io_uring per shard, run by the shard's own thread.
//!
//! Read `reactor.rs` first (operations in flight, the one enter per loop), then `prepare.rs` (operation to ring entry,
//! the only unsafe part), `shard.rs` (the loop), `kernel.rs` (what the kernel must offer).

#![expect(clippy::disallowed_types, reason = "this is the place of io_uring")]

mod kernel;
mod prepare;
mod reactor;
mod shard;

pub(super) use kernel::{check_operations, check_rings};
pub(super) use reactor::{Reactor, patient};
pub(super) use shard::run;
