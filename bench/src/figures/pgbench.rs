//! A stock Postgres under pgbench (TPC-B) whose commits wait for a relay and three nodes, against the same Postgres with
//! one stock synchronous receiver, all on this machine. Rounds alternate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;
use firn_tools::commands::nodes::random_id;
use firn_tools::commands::timeline::{acceptors, ask_primary, create_on};
use firn_tools::local::node::{NodeOptions, NodeProcess};
use firn_tools::local::postgres::{PostgresServer, SUPERUSER, run};
use firn_tools::local::postgres_install::PostgresInstall;
use firn_tools::local::process::{Process, log_tail};
use firn_tools::local::relay::RelayProcess;

use super::figure::{Figure, Goal};
use super::runs::{Effort, median};
use crate::cpu_time::cpu_s_of_tree;

/// Sessions of pgbench.
const CLIENTS: &str = "16";
/// How long a receiver may take to catch up with the WAL of the rounds before.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// `application_name` of the relay.
const RELAY: &str = "firn";
/// `application_name` of `pg_receivewal`.
const RECEIVER: &str = "pg_receivewal";

/// One round of one kind.
struct Round {
    transactions_per_s: f64,
    /// CPU seconds per 1,000 transactions of Postgres, of each node on average, and of what receives.
    postgres_cpu_s: f64,
    node_cpu_s: f64,
    receiver_cpu_s: f64,
}

/// What all rounds run on.
struct Bench {
    postgres: PostgresServer,
    nodes: Vec<NodeProcess>,
    relay: RelayProcess,
    directory: tempfile::TempDir,
    seconds: String,
}

/// Measures them all: needs Postgres with pgbench, and `firn-node` built beside this program.
pub fn figures(quick: bool) -> anyhow::Result<Vec<Figure>> {
    let effort = Effort { quick };
    let mut bench = Bench::start(quick)?;
    let (mut relay, mut unsynced, mut receiver) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds().min(3) {
        receiver.push(bench.receiver_round()?);
        relay.push(bench.relay_round(true)?);
        unsynced.push(bench.relay_round(false)?);
    }
    let of =
        |rounds: &[Round], value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let baseline = |value| Some(("pg_receivewal --synchronous".to_string(), of(&receiver, value)));
    let name = format!(
        "pgbench, {CLIENTS} clients, scale {}, relay and 3 nodes beside it",
        if quick { 1 } else { 50 }
    );
    let figure = |name: &str, unit, measured, baseline, goal| Figure {
        name: name.to_string(),
        unit,
        measured,
        baseline,
        goal,
    };
    let (rate, cpu) = ("transactions/s", "CPU s per 1,000 transactions");
    let per_s = |round: &Round| round.transactions_per_s;
    Ok(vec![
        figure(&name, rate, of(&relay, per_s), baseline(per_s), Goal::RatioAtLeast(0.85)),
        figure("the same with fsync=off", rate, of(&unsynced, per_s), baseline(per_s), Goal::None),
        figure(
            "the same with fsync=on: Postgres",
            cpu,
            of(&relay, |round| round.postgres_cpu_s),
            baseline(|round| round.postgres_cpu_s),
            Goal::None,
        ),
        figure(
            "the same: relay",
            cpu,
            of(&relay, |round| round.receiver_cpu_s),
            baseline(|round| round.receiver_cpu_s),
            Goal::None,
        ),
        figure("the same: each node", cpu, of(&relay, |round| round.node_cpu_s), None, Goal::None),
    ])
}

impl Bench {
    fn start(quick: bool) -> anyhow::Result<Bench> {
        let directory = temporary_directory()?;
        let mut nodes = Vec::new();
        for number in 1..=3 {
            let folder = directory.path().join(format!("node-{number}"));
            let options = NodeOptions { shards: Some(1), ..NodeOptions::default() };
            let mut node = NodeProcess::new(&format!("node {number}"), &folder, options)?;
            node.start()?;
            nodes.push(node);
        }
        let settings = [
            ("shared_buffers", "1GB"),
            ("max_wal_size", "8GB"),
            ("synchronous_commit", "on"),
            ("autovacuum", "off"),
        ];
        let install = PostgresInstall::find(None)?;
        let data = directory.path().join("primary");
        let mut postgres = PostgresServer::create(install, &data, &settings)?;
        postgres.start()?;
        let key = TimelineKey {
            tenant_id: TenantId(random_id()?),
            timeline_id: TimelineId(random_id()?),
        };
        let clients = nodes.iter().map(|node| Ok(NodeClient::new(&node.url()?, None)));
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let created = create_on(&clients, key, &ask_primary(&postgres.conninfo())?)?;
        let conninfo = format!("{} application_name={RELAY}", postgres.conninfo());
        let log = directory.path().join("relay.log");
        let relay = RelayProcess::new("the relay", &conninfo, key, acceptors(&created.mconf), &log);
        let seconds = if quick { "1" } else { "20" }.to_string();
        let mut bench = Bench { postgres, nodes, relay, directory, seconds };
        // From its first start on, the relay's slot keeps the WAL that it has not seen.
        bench.relay.start()?;
        bench.wait_for(RELAY, "state = 'streaming'")?;
        let scale = if quick { "1" } else { "50" };
        bench.pgbench(&["-i", "-q", "-s", scale])?;
        bench.relay.stop()?;
        Ok(bench)
    }

    fn pgbench(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.postgres.install.command_as_we_are("pgbench");
        let port = self.postgres.port().to_string();
        command.args(["-h", "127.0.0.1", "-U", SUPERUSER, "-p", &port]);
        run(command.args(arguments).arg("postgres"))
    }

    /// Waits until what Postgres knows of a receiver is as wanted.
    fn wait_for(&self, name: &str, wanted: &str) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND {wanted}"
        );
        let ready = || Ok((self.postgres.sql(&sql)? == "1").then_some(()));
        let tail = || log_tail(self.relay.log());
        wait_until(CATCH_UP_LIMIT, ready)?
            .with_context(|| format!("{name}: never {wanted}; the relay says: {}", tail()))
    }

    /// Lets commits wait for a receiver, once it has all WAL, and runs pgbench.
    fn measure(&self, name: &str, receiver: u32, fsync: bool) -> anyhow::Result<Round> {
        let fsync = if fsync { "on" } else { "off" };
        self.postgres.sql(&format!("ALTER SYSTEM SET fsync = {fsync}"))?;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        self.postgres.sql(&set)?;
        self.postgres.sql("SELECT pg_reload_conf()")?;
        self.postgres.sql("CHECKPOINT")?;
        let caught_up = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' \
             AND sync_state = 'sync' AND flush_lsn >= pg_current_wal_flush_lsn()"
        );
        let ready = || Ok((self.postgres.sql(&caught_up)? == "1").then_some(()));
        wait_until(CATCH_UP_LIMIT, ready)?
            .with_context(|| format!("{name} does not catch up: {}", log_tail(self.relay.log())))?;
        let postgres = self.postgres.pid().context("Postgres runs")?;
        let nodes: Vec<u32> = self.nodes.iter().filter_map(NodeProcess::pid).collect();
        let spent = || {
            let of_nodes = nodes.iter().map(|pid| cpu_s_of_tree(*pid));
            let of_nodes = of_nodes.sum::<anyhow::Result<f64>>()? / nodes.len() as f64;
            anyhow::Ok([cpu_s_of_tree(postgres)?, of_nodes, cpu_s_of_tree(receiver)?])
        };
        let before = spent()?;
        let load = ["-n", "-c", CLIENTS, "-j", "2", "-T", &self.seconds];
        let output = self.pgbench(&load)?;
        let after = spent()?;
        self.postgres.sql("ALTER SYSTEM SET synchronous_standby_names = ''")?;
        self.postgres.sql("SELECT pg_reload_conf()")?;
        let value = |head: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(head));
            let word = line.and_then(|line| line.trim().split([' ', '/']).next());
            let parsed = word.and_then(|word| word.parse::<f64>().ok());
            parsed.with_context(|| format!("pgbench does not say {head:?}: {output}"))
        };
        let thousands = value("number of transactions actually processed:")? / 1e3;
        ensure!(thousands > 0.0, "pgbench made no transaction: {output}");
        let each = |place: usize| (after[place] - before[place]) / thousands;
        Ok(Round {
            transactions_per_s: value("tps =")?,
            postgres_cpu_s: each(0),
            node_cpu_s: each(1),
            receiver_cpu_s: each(2),
        })
    }

    fn relay_round(&mut self, fsync: bool) -> anyhow::Result<Round> {
        self.relay.start()?;
        let pid = self.relay.pid().context("the relay runs")?;
        let round = self.measure(RELAY, pid, fsync);
        self.relay.stop()?;
        round
    }

    fn receiver_round(&self) -> anyhow::Result<Round> {
        let received = self.directory.path().join("received");
        remake(&received)?;
        let mut command = self.postgres.install.command_as_we_are(RECEIVER);
        let port = self.postgres.port().to_string();
        command.args(["-h", "127.0.0.1", "-U", SUPERUSER, "-p", &port]);
        command.args(["--synchronous", "--no-loop", "-D"]).arg(&received);
        let log = self.directory.path().join("receiver.log");
        let mut receiver = Process::start(RECEIVER, &mut command, &log)?;
        let round = self.measure(RECEIVER, receiver.pid(), true);
        receiver.kill()?;
        round
    }
}

/// An empty directory in the place of what was there.
fn remake(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir(path).with_context(|| path.display().to_string())
}

/// A temporary directory that the server's user may enter.
fn temporary_directory() -> anyhow::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}
