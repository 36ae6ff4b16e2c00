//! What Firn's end-to-end tests share: real Postgres servers, node processes, recordings.

pub mod certificates;
pub mod cluster;
pub mod fuzz;
pub mod gateway;
pub mod neon_recording;
pub mod nodes;
pub mod oracle;
pub mod postgres_versions;
pub mod proposer;
pub mod readers;
pub mod recordings;
pub mod redo_samples;
pub mod replay;
pub mod rot;
pub mod simulation;

/// Servers, nodes and relays as processes of their own, which end with their handles.
pub use firn_tools::local;
