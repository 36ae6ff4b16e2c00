//! A cluster on this machine: three nodes, a Postgres that waits for the relay, a relay; real processes on loopback in one
//! temporary directory. `firn demo` and the end-to-end tests do with it what they want to show.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use tempfile::TempDir;

use crate::client::NodeClient;
use crate::clock::wait_until;
use crate::commands::nodes::random_id;
use crate::commands::timeline::{acceptors, ask_primary, create_on};
use crate::local::node::{NodeOptions, NodeProcess};
use crate::local::postgres::PostgresServer;
use crate::local::postgres_install::PostgresInstall;
use crate::local::process::{Process, log_tail};
use crate::local::relay::RelayProcess;

/// Nodes of a cluster.
const NODES: usize = 3;
/// The relay's `application_name`, which Postgres waits for.
pub const RELAY_NAME: &str = "firn";
/// How long anything that must happen may take: recoveries and elections on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a cluster is made.
pub struct ClusterOptions<'a> {
    /// The Postgres.
    pub install: PostgresInstall,
    /// Where to make its directory; the system's place for temporary files without it.
    pub parent: Option<PathBuf>,
    /// Leave the files there.
    pub keep: bool,
    /// How the nodes are started.
    pub nodes: NodeOptions,
    /// Further arguments to initdb.
    pub initdb: &'a [&'a str],
}

/// The running cluster. Its processes end and its files are removed with it.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<NodeProcess>,
    /// The relay.
    pub relay: RelayProcess,
    /// The primary.
    pub postgres: PostgresServer,
    /// The timeline.
    pub key: TimelineKey,
    /// The acceptors' addresses.
    pub acceptors: Vec<String>,
    // Last: the directory is removed after the processes in it have ended.
    directory: TempDir,
}

impl Cluster {
    /// Starts everything and runs a first statement; its commit came back from the quorum when this returns.
    pub fn start(options: &ClusterOptions<'_>, first_statement: &str) -> Result<Cluster> {
        let parent = options.parent.clone().unwrap_or_else(std::env::temp_dir);
        let mut directory = tempfile::Builder::new().prefix("firn-").tempdir_in(&parent)?;
        directory.disable_cleanup(options.keep);
        // The server's user has to enter it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            nodes.push(start_node(directory.path(), number, &options.nodes)?);
        }
        // Nothing but the statements that are run shall write WAL or disturb figures.
        let settings = [("synchronous_standby_names", RELAY_NAME), ("autovacuum", "off")];
        let (install, data) = (options.install.clone(), directory.path().join("primary"));
        let mut postgres = PostgresServer::create_with(install, &data, &settings, options.initdb)?;
        postgres.start()?;
        let key = TimelineKey {
            tenant_id: TenantId(random_id()?),
            timeline_id: TimelineId(random_id()?),
        };
        let clients = nodes.iter().map(|node| Ok(NodeClient::new(&node.url()?, None)));
        let clients: Vec<NodeClient> = clients.collect::<Result<_>>()?;
        let created = create_on(&clients, key, &ask_primary(&postgres.conninfo())?)?;
        let acceptors = acceptors(&created.mconf);
        let log = directory.path().join("relay.log");
        let relay = relay(&postgres, key, &acceptors, &log);
        let mut cluster = Cluster { nodes, relay, postgres, key, acceptors, directory };
        cluster.relay.start()?;
        cluster.commit(first_statement)?;
        Ok(cluster)
    }

    /// A file in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts one more node.
    pub fn add_node(&mut self, options: &NodeOptions) -> Result<()> {
        let number = self.nodes.len() + 1;
        self.nodes.push(start_node(self.directory.path(), number, options)?);
        Ok(())
    }

    /// A relay from another Postgres to the same nodes, with a log of its own. Not started.
    pub fn relay_from(&self, postgres: &PostgresServer, log: &str) -> RelayProcess {
        relay(postgres, self.key, &self.acceptors, &self.path(log))
    }

    /// Runs a statement and waits until its commit came back from the quorum, without a warning.
    pub fn commit(&mut self, sql: &str) -> Result<()> {
        let session = self.begin_commit(sql)?;
        self.finish_commit(session)
    }

    /// Runs a statement beside other work.
    pub fn begin_commit(&self, sql: &str) -> Result<Process> {
        let log = self.path(&format!("psql-{}.log", random_id()?));
        Process::start("psql", &mut self.postgres.psql(sql), &log)
    }

    /// Waits until a statement that runs beside other work has come back, without a warning.
    pub fn finish_commit(&mut self, mut session: Process) -> Result<()> {
        let status = wait_until(LIMIT, || session.ended())?.with_context(|| {
            format!("no commit came back in {LIMIT:?}; the relay says:\n{}", self.relay.log_tail())
        })?;
        let said = log_tail(session.log());
        ensure!(status.success() && !said.contains("WARNING"), "not committed:\n{said}");
        Ok(())
    }
}

fn start_node(directory: &Path, number: usize, options: &NodeOptions) -> Result<NodeProcess> {
    let folder = directory.join(format!("node-{number}"));
    let mut node = NodeProcess::new(&format!("node {number}"), &folder, options.clone())?;
    node.start()?;
    Ok(node)
}

fn relay(
    postgres: &PostgresServer,
    key: TimelineKey,
    acceptors: &[String],
    log: &Path,
) -> RelayProcess {
    let conninfo = format!("{} application_name={RELAY_NAME}", postgres.conninfo());
    RelayProcess::new("the relay", &conninfo, key, acceptors.to_vec(), log)
}
