//! What the demo does to its cluster: losses, the rebuild from what is left, the relay on the rebuilt primary.

use std::fs;

use anyhow::{Context, Result};

use crate::commands::nodes::{KeyArguments, NodesArguments};
use crate::commands::rebuild::{RebuildArguments, Rebuilt};
use crate::local::cluster::Cluster;
use crate::local::node::NodeProcess;
use crate::local::postgres::PostgresServer;

/// The statement that makes the clients' table.
pub const TABLE: &str =
    "CREATE TABLE acknowledged (client int, sequence bigint, PRIMARY KEY (client, sequence))";

/// What kind of file system the nodes write to.
pub fn device(cluster: &Cluster) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let point = |line: &&str| line.split_whitespace().nth(1).unwrap_or("-").to_string();
    let above = mounts.lines().filter(|line| cluster.path("").starts_with(point(line)));
    let innermost = above.max_by_key(|line| point(line).len());
    let kind = innermost.and_then(|line| line.split_whitespace().nth(2));
    kind.unwrap_or("unknown file system").to_string()
}

/// A base backup of the running primary.
pub fn base_backup(cluster: &Cluster) -> Result<()> {
    cluster.postgres.base_backup(&cluster.path("base-backup"))
}

/// Kills Postgres, the relay and the first node, and removes the disks of the primary and of that node.
pub fn lose_primary_and_node(cluster: &mut Cluster) -> Result<()> {
    cluster.postgres.kill()?;
    cluster.relay.kill()?;
    cluster.nodes[0].kill()?;
    cluster.nodes[0].lose_data()?;
    fs::remove_dir_all(cluster.postgres.data()).context("cannot remove the primary's disk")
}

/// Kills the nodes that are left, all at once, and starts them again.
pub fn restart_survivors(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes[1..] {
        node.kill()?;
    }
    for node in &mut cluster.nodes[1..] {
        node.start()?;
    }
    Ok(())
}

/// Fences through the nodes that are left, rebuilds Postgres from them, and starts it without anybody to wait for.
pub fn rebuild(cluster: &mut Cluster) -> Result<Rebuilt> {
    let nodes = cluster.nodes[1..].iter().map(NodeProcess::url).collect::<Result<Vec<_>>>()?;
    let key = KeyArguments { tenant: cluster.key.tenant_id, timeline: cluster.key.timeline_id };
    let rebuild = RebuildArguments {
        nodes: NodesArguments { nodes, token: None },
        key,
        base: cluster.path("base-backup"),
        to: cluster.path("rebuilt"),
        tablespace_mapping: Vec::new(),
    };
    let rebuilt = rebuild.rebuild()?;
    cluster.postgres = PostgresServer::adopt(rebuilt.install.clone(), &cluster.path("rebuilt"))?;
    cluster.postgres.start()?;
    Ok(rebuilt)
}

/// Attaches a relay to the rebuilt primary and commits once more, through the two nodes that are left.
pub fn attach_rebuilt(cluster: &mut Cluster) -> Result<()> {
    cluster.relay = cluster.relay_from(&cluster.postgres, "relay-of-rebuilt.log");
    cluster.relay.start()?;
    cluster.commit("CREATE TABLE after_the_rebuild ()")
}
