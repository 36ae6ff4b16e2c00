//! Nodes that share timelines: what each knows of the others' positions, and WAL from them while no proposer brings it.
//!
//! Once a second every pair of nodes with a timeline in common exchanges the positions that changed, also when none did, over
//! one connection, which the node with the lower id makes; addresses are those of the timelines' memberships. All of that
//! lives on shard 0 ([`Exchange`]), which gathers from the shards and tells them what was heard. A timeline that lags behind
//! a peer's commit LSN and has no proposer connected catches up with it ([`catch_up`]), on its own shard.
//!
//! Invariant: what is heard decides nothing but whether to ask. What is written follows from the acceptor's own checks.
//!
//! Cost: a comparison per timeline and second; a question and an answer per pair and second, each with the positions that
//! changed, [`POSITIONS_MAX`] of them at most.
//!
//! Read first: [`table`] (which positions a peer has not heard), then [`exchange`], then [`catch_up`].

pub mod catch_up;
pub mod exchange;
pub mod table;

pub use exchange::Exchange;

/// Positions in one message: with at most 400 bytes each they stay below a message's 1 MiB. More wait for the next second.
pub const POSITIONS_MAX: usize = 2_000;
