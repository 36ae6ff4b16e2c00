//! The HTTP port: management as JSON (`firn_core::api`), metrics, WAL files for restore.
//!
//! Runs on one thread of its own with a single-threaded tokio; it owns no state but the listener and asks the shards
//! through [`crate::shard::request::NodeHandle`]. A relay has the same port, for its metrics only. Nothing here is on a commit's path.
//!
//! Read first: [`routes`] (what there is), then [`respond`] (errors, tokens), [`metrics`] (names and units).

pub mod metrics;
pub mod relay_metrics;
pub mod respond;
pub mod routes;
pub mod server;
mod wal_files;
