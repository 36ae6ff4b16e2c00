//! How to start shards.

use std::time::Duration;

use super::device::Device;

/// How many shards to start, where, and how they wait.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Number of shards, each one thread. At least 1.
    pub shards: usize,
    /// The cores to pin shards to, shard i to entry i modulo the length; empty: no pinning.
    pub cores: Vec<usize>,
    /// How long an idle shard that just had work polls before it sleeps in the kernel. Zero where cores are shared.
    pub spin: Duration,
    /// What stands between files and the ring.
    pub device: Device,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { shards: 1, cores: Vec::new(), spin: Duration::ZERO, device: Device::Real }
    }
}
