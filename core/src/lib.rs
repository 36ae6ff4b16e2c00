//! Firn's decisions: consensus, journal format and recovery, wire formats, Postgres' own formats.
//!
//! Everything here is a plain function or a state machine: bytes and events in, actions and bytes out. There is no
//! file, socket, clock, thread or `async` in this crate, so every rule in it can be tested and simulated alone.
//!
//! Read first: [`consensus`] (who may write, what is durable), then [`journal`] (how it is kept).
//!
//! It is not a Postgres parser for general use, not a Raft library, and it never learns about `firn-node`.

pub mod api;
pub mod consensus;
pub mod crc;
pub mod journal;
pub mod marks;
pub mod mutant;
pub mod postgres;
pub mod relay;
pub mod types;
pub mod wire;
