//! What the command line `firn` is made of, as a library so that the end-to-end tests start servers and nodes the same
//! way as `firn demo` does.
//!
//! | module | what |
//! | --- | --- |
//! | [`commands`] | one file per noun of the command line |
//! | [`client`] | a node's HTTP API: the only way in which a command reaches a node |
//! | [`wal_segments`] | WAL out of files, directories or nodes |
//! | [`local`] | processes on this machine: Postgres servers, nodes, relays |
//! | [`demo`] | `firn demo`: a cluster, a ledger, kills, a rebuild |
//!
//! It is not a library for others: its functions return `anyhow` errors, made to be read by people.

pub mod client;
pub mod clock;
pub mod commands;
pub mod demo;
pub mod local;
pub mod wal_segments;
