//! What the relay decides: a stock Postgres' WAL is proposed to a quorum only when it continues what the quorum holds.
//!
//! Invariant: nothing that a majority may have committed is ever proposed differently. [`comparison`] finds the first
//! byte that differs, [`history_file`] finds where a primary left the timeline that the quorum holds, [`window`] keeps
//! recent WAL once for all acceptors, [`synchronous_names`] judges whether commits wait for the relay at all.
//!
//! No I/O here: `firn-node`'s relay reads, writes and reconnects. Read first: [`comparison`].

pub mod comparison;
pub mod history_file;
pub mod synchronous_names;
pub mod window;
