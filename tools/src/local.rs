//! Processes on this machine: Postgres servers, nodes, relays, for `firn demo` and the end-to-end tests.
//!
//! Every process belongs to a handle and ends with it. They listen on loopback ports that the system chose, and keep
//! their ports over a restart. Read first: [`process`].

pub mod cluster;
pub mod data_directory;
pub mod node;
pub mod postgres;
pub mod postgres_install;
pub mod process;
pub mod relay;
