//! What Firn's end-to-end tests share: real Postgres servers, node processes, recordings.

pub mod simulation;
