//! A cluster for tests: [`Cluster`], with what tests wait for and ask.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Output};

use anyhow::{Context, Result, bail};
use firn_tools::clock::wait_until;
use firn_tools::local::cluster::{Cluster, ClusterOptions};
pub use firn_tools::local::cluster::{LIMIT, RELAY_NAME};
use firn_tools::local::node::{NodeOptions, NodeProcess};
use firn_tools::local::postgres::PostgresServer;
use firn_tools::local::postgres_install::PostgresInstall;
use firn_tools::local::process::built_program;
use tempfile::TempDir;

/// The cluster. Its processes end and its files are removed with it.
pub struct TestCluster(Cluster);

impl Deref for TestCluster {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.0
    }
}

impl TestCluster {
    /// Three nodes with this Postgres; the first commit, which makes table `t`, came back when it returns.
    pub fn start(install: PostgresInstall, node_options: &NodeOptions) -> Result<TestCluster> {
        TestCluster::start_with(install, node_options, &[])
    }

    /// The same with further arguments to initdb.
    pub fn start_with(
        install: PostgresInstall,
        node_options: &NodeOptions,
        initdb: &[&str],
    ) -> Result<TestCluster> {
        let nodes = node_options.clone();
        let options = ClusterOptions { install, parent: None, keep: false, nodes, initdb };
        Cluster::start(&options, "CREATE TABLE t (id int PRIMARY KEY)").map(TestCluster)
    }

    /// HTTP addresses of the nodes, separated by commas.
    pub fn node_urls(&self) -> Result<String> {
        let urls = self.nodes.iter().map(NodeProcess::url).collect::<Result<Vec<_>>>()?;
        Ok(urls.join(","))
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

    /// Waits until the relay has ended by itself; how it did.
    pub fn wait_for_relay_end(&mut self) -> Result<ExitStatus> {
        wait_until(LIMIT, || self.relay.ended())?
            .with_context(|| format!("the relay goes on:\n{}", self.relay.log_tail()))
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

    /// The primary and its relay die, a standby is promoted, and a new relay follows it.
    pub fn fail_over(&mut self, promoted: PostgresServer) -> Result<()> {
        self.postgres.kill()?;
        self.relay.kill()?;
        promoted.sql("SELECT pg_promote()")?;
        self.relay = self.relay_from(&promoted, "promoted.log");
        self.postgres = promoted;
        self.relay.start()
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
