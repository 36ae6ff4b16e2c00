//! Nodes in this process: the product's own shards, journals and listeners, without the HTTP thread.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use firn_node::journal::JournalOptions;
use firn_node::runtime::{Device, RuntimeOptions, block_on, start_shards};
use firn_node::shard::node::{NodeOptions, RunningNode, ShardStarts, prepare, run_shard};

/// How to run nodes.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Nodes; a timeline has them all as its acceptors.
    pub nodes: usize,
    /// Shards of each.
    pub shards: usize,
    /// Cores to pin to: node by node, shard by shard; empty: no pinning.
    pub cores: Vec<usize>,
    /// How long idle shards poll.
    pub spin: Duration,
    /// What stands under their files.
    pub device: Device,
}

/// Starts nodes in sub-directories of `directory`. They run until the process ends.
pub fn start(options: &EmbeddedOptions, directory: &Path) -> anyhow::Result<Vec<RunningNode>> {
    let mut nodes = Vec::new();
    for number in 0..options.nodes {
        let data = directory.join(format!("node-{number}"));
        std::fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        let node_options = NodeOptions {
            data,
            listen: "127.0.0.1:0".to_string(),
            node_id: None,
            credentials: Arc::default(),
            tls_required: false,
            auth_token: None,
            journal: JournalOptions::default(),
        };
        let cores = (0..options.shards).filter_map(|shard| {
            let place = number * options.shards + shard;
            (!options.cores.is_empty()).then(|| options.cores[place % options.cores.len()])
        });
        let runtime = RuntimeOptions {
            shards: options.shards,
            cores: cores.collect(),
            spin: options.spin,
            device: options.device,
            ..RuntimeOptions::default()
        };
        let (starts, starting) = prepare(node_options, options.shards);
        let starts = ShardStarts::new(starts);
        let running = start_shards(&runtime, move |runtime| {
            let start = starts.take(runtime.shard_index());
            run_shard(runtime, start)
        })?;
        // A shard never ends by itself: its threads go with the process.
        std::mem::forget(running);
        nodes.push(block_on(|_| starting.wait())??);
    }
    Ok(nodes)
}
