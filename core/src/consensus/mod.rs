//! Who may write a timeline's WAL, and what of it is durable on a majority.
//!
//! The rules are those of Neon's walproposer protocol (a Paxos over a log): a proposer wins a *term* by a majority of
//! votes, continues from the most advanced log it saw, and a byte is committed when a majority has flushed it.
//!
//! Read first: [`state`] (what an acceptor keeps, and how each [`change::Change`] changes it), then [`acceptor`], then
//! [`proposer`].

pub mod acceptor;
pub mod change;
#[cfg(test)]
mod cluster_tests;
pub mod membership;
pub mod membership_change;
pub mod postgres_history;
pub mod proposer;
pub mod reseed;
pub mod state;
pub mod term_history;
