//! The default implementation: one io_uring per shard, run by the shard's own thread.
//!
//! Read `reactor.rs` first (operations in flight, the one enter per loop), then `prepare.rs` (operation to ring entry,
//! the only unsafe part), `shard.rs` (the loop), `checks.rs` and `cores.rs` (what
//! the machine must offer).

#![expect(clippy::disallowed_types, reason = "this is the place of io_uring")]

mod checks;
mod cores;
mod prepare;
mod reactor;
mod shard;

pub use checks::{Checked, StartError, check_directory_unchanged, check_machine, check_start};
pub use cores::CoreClaim;
pub(super) use reactor::Reactor;
pub use shard::{ShardPanicked, Shards, block_on, block_on_with, start_shards};
