//! A cluster for tests: three nodes, a Postgres that waits for the relay, a relay; real processes on loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;
use firn_tools::commands::nodes::random_id;
use firn_tools::commands::timeline::{acceptors, ask_primary, create_on};
use firn_tools::local::node::{NodeOptions, NodeProcess};
use firn_tools::local::postgres::PostgresServer;
use firn_tools::local::postgres_install::PostgresInstall;
use firn_tools::local::process::{Process, built_program, log_tail};
use firn_tools::local::relay::RelayProcess;
use tempfile::TempDir;

/// The relay's `application_name`.
pub const RELAY_NAME: &str = "firn";
/// How long anything that must happen may take; only a failing test waits that long.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The cluster. Its processes end and its files are removed with it.
pub struct TestCluster {
    /// The nodes.
    pub nodes: Vec<NodeProcess>,
    /// The relay, running.
    pub relay: RelayProcess,
    /// The primary, running.
    pub postgres: PostgresServer,
    /// The timeline.
    pub key: TimelineKey,
    /// The acceptors' addresses.
    pub acceptors: Vec<String>,
    // Last: the directory is removed after the processes in it have ended.
    directory: TempDir,
}

impl TestCluster {
    /// Three nodes with this Postgres; the first commit came back when it returns.
    pub fn start(install: PostgresInstall, node_options: &NodeOptions) -> Result<TestCluster> {
        TestCluster::start_with(install, node_options, &[])
    }

    /// The same with further arguments to initdb.
    pub fn start_with(
        install: PostgresInstall,
        node_options: &NodeOptions,
        initdb: &[&str],
    ) -> Result<TestCluster> {
        let directory = temporary_directory()?;
        let mut nodes = Vec::new();
        for number in 1..=3 {
            nodes.push(start_node(directory.path(), number, node_options)?);
        }
        let settings = [("synchronous_standby_names", RELAY_NAME), ("autovacuum", "off")];
        let data = directory.path().join("primary");
        let mut postgres = PostgresServer::create_with(install, &data, &settings, initdb)?;
        postgres.start()?;
        let key = TimelineKey {
            tenant_id: TenantId(random_id()?),
            timeline_id: TimelineId(random_id()?),
        };
        let clients = clients(&nodes)?;
        let created = create_on(&clients, key, &ask_primary(&postgres.conninfo())?)?;
        let acceptors = acceptors(&created.mconf);
        let relay = relay(&postgres, key, &acceptors, &directory.path().join("relay.log"));
        let mut cluster = TestCluster { nodes, relay, postgres, key, acceptors, directory };
        cluster.relay.start()?;
        cluster.commit("CREATE TABLE t (id int PRIMARY KEY)")?;
        Ok(cluster)
    }

    /// A place in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts one more node.
    pub fn add_node(&mut self, options: &NodeOptions) -> Result<()> {
        let number = self.nodes.len() + 1;
        self.nodes.push(start_node(self.directory.path(), number, options)?);
        Ok(())
    }

    /// HTTP addresses of the nodes, separated by commas.
    pub fn node_urls(&self) -> Result<String> {
        let urls = self.nodes.iter().map(NodeProcess::url).collect::<Result<Vec<_>>>()?;
        Ok(urls.join(","))
    }

    /// Runs a statement and waits until its commit came back, without a warning, from the quorum.
    pub fn commit(&mut self, sql: &str) -> Result<()> {
        let session = self.begin_commit(sql)?;
        self.finish_commit(session)
    }

    /// Runs a statement beside the test.
    pub fn begin_commit(&self, sql: &str) -> Result<Process> {
        let log = self.path(&format!("psql-{}.log", random_id()?));
        Process::start("psql", &mut self.postgres.psql(sql), &log)
    }

    /// Waits until a statement that runs beside the test has come back, without a warning.
    pub fn finish_commit(&mut self, mut session: Process) -> Result<()> {
        let status = wait_until(LIMIT, || session.ended())?.with_context(|| {
            format!("no commit came back in {LIMIT:?}; the relay says:\n{}", self.relay.log_tail())
        })?;
        let said = log_tail(session.log());
        ensure!(status.success() && !said.contains("WARNING"), "not committed:\n{said}");
        Ok(())
    }

    /// Waits until this many sessions wait for the relay to report their commits.
    pub fn wait_for_waiting_commits(&self, count: usize) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let waiting = || Ok((self.postgres.sql(sql)?.parse::<usize>()? >= count).then_some(()));
        wait_until(LIMIT, waiting)?.context("no session waits for the relay")
    }

    /// Waits until the relay's log has a line with `text`.
    pub fn wait_for_relay_line(&mut self, text: &str) -> Result<()> {
        let log = self.relay.log().to_path_buf();
        let found = || Ok(fs::read_to_string(&log)?.contains(text).then_some(()));
        wait_until(LIMIT, found)?.with_context(|| {
            format!("the relay never says {text:?} but:\n{}", self.relay.log_tail())
        })
    }

    /// Waits until the relay has ended by itself.
    pub fn wait_for_relay_end(&mut self) -> Result<()> {
        wait_until(LIMIT, || Ok((!self.relay.is_running()?).then_some(())))?
            .with_context(|| format!("the relay goes on:\n{}", self.relay.log_tail()))
    }

    /// Replaces the relay by one from another Postgres, with a log of its own. Not started.
    pub fn relay_from(&self, postgres: &PostgresServer, log: &str) -> RelayProcess {
        relay(postgres, self.key, &self.acceptors, &self.path(log))
    }

    /// The command `firn` with the nodes and the timeline in its environment.
    pub fn firn(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(built_program("firn")?);
        command
            .args(arguments)
            .env("FIRN_NODES", self.node_urls()?)
            .env("FIRN_TENANT", self.key.tenant_id.to_string())
            .env("FIRN_TIMELINE", self.key.timeline_id.to_string());
        Ok(command)
    }

    /// Runs `firn` to its end; what it printed, or an error with what it said.
    pub fn run_firn(&self, arguments: &[&str]) -> Result<String> {
        let output = self.firn(arguments)?.output().context("cannot run firn")?;
        let Output { status, stdout, stderr } = output;
        if !status.success() {
            bail!("firn {arguments:?} failed:\n{}", String::from_utf8_lossy(&stderr));
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Rebuilds from the base backup `base` into `to` (both in the cluster's directory) and starts the new primary.
    pub fn rebuild(&self, base: &str, to: &str) -> Result<PostgresServer> {
        let (base, to) = (self.path(base), self.path(to));
        let arguments = ["timeline", "rebuild", "--base", text(&base)?, "--to", text(&to)?];
        self.run_firn(&arguments)?;
        let mut rebuilt = PostgresServer::adopt(self.postgres.install.clone(), &to)?;
        rebuilt.start()?;
        Ok(rebuilt)
    }
}

/// A temporary directory that the server's user may enter.
pub fn temporary_directory() -> Result<TempDir> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn start_node(directory: &Path, number: usize, options: &NodeOptions) -> Result<NodeProcess> {
    let folder = directory.join(format!("node-{number}"));
    let mut node = NodeProcess::new(&format!("node {number}"), &folder, options.clone())?;
    node.start()?;
    Ok(node)
}

fn clients(nodes: &[NodeProcess]) -> Result<Vec<NodeClient>> {
    nodes.iter().map(|node| Ok(NodeClient::new(&node.url()?, None))).collect()
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
