//! The simulator's own parts: what writes WAL, what breaks, what watches.
//!
//! A *workload* (primary, proposers, faults) only acts; a *check* only looks, and knows nothing of the workload that
//! runs. Everything that happens in a run follows from one seed, drawn through [`random::Random`], so a failing seed
//! replays.
//!
//! Read first: [`wal`] (the WAL that a simulated primary writes).

pub mod checks;
pub mod cluster;
pub mod consensus;
pub mod ledger;
pub mod primary;
pub mod random;
pub mod runner;
pub mod session;
pub mod wal;
