//! The node: what runs on each core, and the relay that proposes a stock Postgres' WAL.
//!
//! Read first: [`runtime`] (the only way to disks, sockets, time and chance), then `shard`.

pub mod auth;
pub mod config;
pub mod control;
pub mod credentials;
pub mod journal;
pub mod latencies;
pub mod peers;
pub mod relay;
pub mod runtime;
pub mod service_manager;
pub mod shard;
mod small_file;
pub mod tls;
pub mod wal_service;
