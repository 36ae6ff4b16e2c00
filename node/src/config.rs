//! What a node is told at its start, and who it is.
//!
//! Invariant: everything is checked before the node serves anything, and each refusal is one line that says what to
//! change. Read first: [`arguments`] (the command line), then [`identity`] (whose a data directory is), then [`check`]
//! (all of it without a start).

pub mod arguments;
pub mod check;
pub mod identity;
