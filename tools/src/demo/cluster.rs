//! The demo's cluster: three nodes, a Postgres, a relay, all on loopback in one temporary directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use tempfile::TempDir;

use crate::client::NodeClient;
use crate::clock::wait_until;
use crate::commands::nodes::{KeyArguments, NodesArguments, random_id};
use crate::commands::rebuild::{RebuildArguments, Rebuilt};
use crate::commands::timeline::{acceptors, ask_primary, create_on};
use crate::local::node::{NodeOptions, NodeProcess};
use crate::local::postgres::PostgresServer;
use crate::local::postgres_install::PostgresInstall;
use crate::local::relay::RelayProcess;

/// Nodes of the cluster.
const NODES: usize = 3;
/// The relay's `application_name`, which Postgres waits for.
const RELAY_NAME: &str = "firn";
/// How long the relay may take until the first commit comes back.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);

/// How the cluster is made.
pub struct ClusterOptions {
    /// The Postgres.
    pub install: PostgresInstall,
    /// Where to make it; the system's temporary directory without it.
    pub directory: Option<PathBuf>,
    /// Nodes on the volatile device.
    pub volatile: bool,
    /// Leave the files there.
    pub keep: bool,
}

/// The running cluster. Its processes end and its files are removed with it.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<NodeProcess>,
    /// The relay.
    pub relay: RelayProcess,
    /// The primary; after the rebuild, the rebuilt one.
    pub postgres: PostgresServer,
    key: TimelineKey,
    acceptors: Vec<String>,
    // Last: the directory is removed after the processes in it have ended.
    directory: TempDir,
}

impl Cluster {
    /// Starts everything and makes the table of the clients, with a first commit that the quorum holds.
    pub fn start(options: &ClusterOptions) -> Result<Cluster> {
        let parent = options.directory.clone().unwrap_or_else(std::env::temp_dir);
        let mut directory = tempfile::Builder::new().prefix("firn-demo-").tempdir_in(&parent)?;
        directory.disable_cleanup(options.keep);
        // The server's user has to enter it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        if options.keep {
            eprintln!("files stay in {}", directory.path().display());
        }
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            let node_options = NodeOptions { volatile: options.volatile, ..NodeOptions::default() };
            let folder = directory.path().join(format!("node-{number}"));
            let mut node = NodeProcess::new(&format!("node {number}"), &folder, node_options)?;
            node.start()?;
            nodes.push(node);
        }
        let settings = [
            ("synchronous_standby_names", RELAY_NAME),
            ("max_connections", "100"),
            // The clients are reconnected by the demo itself; nothing else shall disturb the figures.
            ("autovacuum", "off"),
        ];
        let data = directory.path().join("primary");
        let mut postgres = PostgresServer::create(options.install.clone(), &data, &settings)?;
        postgres.start()?;
        let key = TimelineKey {
            tenant_id: TenantId(random_id()?),
            timeline_id: TimelineId(random_id()?),
        };
        let clients = clients_of(&nodes)?;
        let created = create_on(&clients, key, &ask_primary(&postgres.conninfo())?)?;
        let acceptors = acceptors(&created.mconf);
        let relay = relay_for(&postgres, key, &acceptors, &directory.path().join("relay.log"));
        let mut cluster = Cluster { nodes, relay, postgres, key, acceptors, directory };
        cluster.relay.start()?;
        cluster.commit("CREATE TABLE acknowledged (client int, sequence bigint, PRIMARY KEY (client, sequence))")?;
        Ok(cluster)
    }

    /// A file of the cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How clients reach Postgres; the port stays the same over a restart.
    pub fn conninfo(&self) -> String {
        self.postgres.conninfo()
    }

    /// What kind of file system the nodes write to.
    pub fn device(&self) -> String {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let is_above = |line: &&str| {
            let point = line.split_whitespace().nth(1).unwrap_or("-");
            self.directory.path().starts_with(point)
        };
        let innermost = mounts
            .lines()
            .filter(is_above)
            .max_by_key(|line| line.split_whitespace().nth(1).unwrap_or_default().len());
        let kind = innermost.and_then(|line| line.split_whitespace().nth(2));
        kind.unwrap_or("unknown file system").to_string()
    }

    /// A base backup of the running primary.
    pub fn base_backup(&self) -> Result<()> {
        self.postgres.base_backup(&self.path("base-backup"))
    }

    /// Kills Postgres, the relay and the first node, and removes the disks of the primary and of that node.
    pub fn lose_primary_and_node(&mut self) -> Result<()> {
        self.postgres.kill()?;
        self.relay.kill()?;
        self.nodes[0].kill()?;
        self.nodes[0].lose_data()?;
        fs::remove_dir_all(self.postgres.data()).context("cannot remove the primary's disk")
    }

    /// Kills the nodes that are left, all at once, and starts them again.
    pub fn restart_survivors(&mut self) -> Result<()> {
        for node in &mut self.nodes[1..] {
            node.kill()?;
        }
        for node in &mut self.nodes[1..] {
            node.start()?;
        }
        Ok(())
    }

    /// Fences through the nodes that are left, rebuilds Postgres from them, and starts it without anybody to wait for.
    pub fn rebuild(&mut self) -> Result<Rebuilt> {
        let nodes = self.nodes[1..].iter().map(NodeProcess::url).collect::<Result<Vec<_>>>()?;
        let rebuild = RebuildArguments {
            nodes: NodesArguments { nodes, token: None },
            key: KeyArguments { tenant: self.key.tenant_id, timeline: self.key.timeline_id },
            base: self.path("base-backup"),
            to: self.path("rebuilt"),
        };
        let rebuilt = rebuild.rebuild()?;
        self.postgres = PostgresServer::adopt(rebuilt.install.clone(), &self.path("rebuilt"))?;
        self.postgres.start()?;
        Ok(rebuilt)
    }

    /// Attaches a relay to the rebuilt primary and commits once more, through the two nodes that are left.
    pub fn attach_rebuilt(&mut self) -> Result<()> {
        let log = self.path("relay-of-rebuilt.log");
        self.relay = relay_for(&self.postgres, self.key, &self.acceptors, &log);
        self.relay.start()?;
        self.commit("CREATE TABLE after_the_rebuild ()")
    }

    /// Runs one statement, whose commit must come back from the quorum.
    fn commit(&mut self, sql: &str) -> Result<()> {
        let mut session = crate::local::process::Process::start(
            "psql",
            &mut self.postgres.psql(sql),
            &self.path("psql.log"),
        )?;
        let done = || {
            self.relay.check_running()?;
            session.ended()
        };
        let status = wait_until(ATTACH_LIMIT, done)?.with_context(|| {
            format!(
                "no commit came back within {ATTACH_LIMIT:?}; the relay says:\n{}",
                self.relay.log_tail()
            )
        })?;
        if !status.success() {
            anyhow::bail!("{sql}:\n{}", crate::local::process::log_tail(session.log()));
        }
        Ok(())
    }
}

fn relay_for(
    postgres: &PostgresServer,
    key: TimelineKey,
    acceptors: &[String],
    log: &Path,
) -> RelayProcess {
    let conninfo = format!("{} application_name={RELAY_NAME}", postgres.conninfo());
    RelayProcess::new("the relay", &conninfo, key, acceptors.to_vec(), log)
}

fn clients_of(nodes: &[NodeProcess]) -> Result<Vec<NodeClient>> {
    nodes.iter().map(|node| Ok(NodeClient::new(&node.url()?, None))).collect()
}
