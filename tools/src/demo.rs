//! `firn demo`: shows on this machine that no acknowledged commit is lost.
//!
//! A temporary cluster of three nodes, a relay and a Postgres; clients write each transaction's id into a ledger outside
//! Postgres, only after COMMIT returned without a warning. A node, the relay and Postgres are killed (`kill -9`) while
//! they work; then the primary's disk and one node's disk are removed, and Postgres is rebuilt from what is left. Every id
//! in the ledger must be there. Read first: [`DemoArguments::run`], the plot.

mod clients;
mod cluster;
mod ledger;
mod progress;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::clock::{now, sleep};
use crate::demo::clients::Clients;
use crate::demo::ledger::{Check, Ledger};
use crate::demo::progress::Progress;
use crate::demo::report::Report;
use crate::local::cluster::{Cluster, ClusterOptions};
use crate::local::node::NodeOptions;
use crate::local::postgres_install::PostgresInstall;

/// `firn demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Major version of Postgres; without it Debian's, or what FIRN_POSTGRES_HOME names.
    #[arg(long)]
    postgres_version: Option<u32>,
    /// Concurrent clients.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Length of each part of the load, in seconds: before, between and after the kills.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    part_s: u64,
    /// Run the nodes on a device that loses with `kill -9` whatever was not flushed, and kill all of them in the end.
    #[arg(long)]
    volatile: bool,
    /// How the nodes reach disks and sockets: --runtime of `firn-node run`.
    #[arg(long, value_name = "NAME", default_value = "uring")]
    runtime: String,
    /// One JSON object on standard output instead of the report.
    #[arg(long)]
    json: bool,
    /// Make the temporary cluster below this directory; its device is the one measured.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Leave the cluster's files, with all logs, where they are.
    #[arg(long)]
    keep: bool,
}

impl DemoArguments {
    /// The plot.
    pub fn run(&self) -> Result<()> {
        let start = now();
        let progress = Progress::start();
        let install = PostgresInstall::find(self.postgres_version)?;
        let options = ClusterOptions {
            install: install.clone(),
            parent: self.directory.clone(),
            keep: self.keep,
            nodes: NodeOptions {
                volatile: self.volatile,
                arguments: vec!["--runtime".to_string(), self.runtime.clone()],
                ..NodeOptions::default()
            },
            initdb: &[],
        };
        progress.say(&format!("three nodes, Postgres {}, a relay", install.major));
        let mut cluster = Cluster::start(&options, cluster::TABLE)?;
        if self.keep {
            progress.say(&format!("files stay in {}", cluster.path("").display()));
        }
        progress.say("base backup");
        cluster::base_backup(&cluster)?;

        let ledger = Ledger::create(&cluster.path("ledger"))?;
        let clients = Clients::start(self.clients, cluster.postgres.conninfo(), ledger);
        progress.watch(clients.counters());
        let part = || {
            sleep(Duration::from_secs(self.part_s));
            clients.check()
        };
        progress.say(&format!("{} clients commit", self.clients));
        part()?;
        let undisturbed = clients.undisturbed();

        progress.say("kill -9 node 2");
        cluster.nodes[1].kill()?;
        part()?;
        progress.say("node 2 starts again");
        cluster.nodes[1].start()?;
        part()?;

        progress.say("kill -9 the relay");
        cluster.relay.kill()?;
        sleep(Duration::from_secs(1));
        progress.say("the relay starts again");
        cluster.relay.start()?;
        part()?;
        cluster.relay.check_running()?;

        progress.say("kill -9 Postgres");
        cluster.postgres.kill()?;
        progress.say("Postgres starts again in place");
        cluster.postgres.start()?;
        part()?;

        progress.say("kill -9 Postgres under load; its disk and node 1's are lost");
        cluster::lose_primary_and_node(&mut cluster)?;
        let load = clients.stop()?;
        ensure!(load.committed > 0, "no client committed anything");
        if self.volatile {
            progress.say("kill -9 the other nodes: what they had not flushed is gone");
            cluster::restart_survivors(&mut cluster)?;
        }

        progress.say("fence, then rebuild from the two nodes left");
        let rebuilt = cluster::rebuild(&mut cluster)?;
        progress.say("checking every id of the ledger");
        let check = Check::run(&load.ledger, &mut cluster.postgres)?;
        progress.say("the relay follows the rebuilt primary");
        cluster::attach_rebuilt(&mut cluster)?;
        progress.stop();

        let report = Report {
            install,
            clients: self.clients,
            volatile: self.volatile,
            runtime: self.runtime.clone(),
            device: cluster::device(&cluster),
            duration: start.elapsed(),
            undisturbed,
            load,
            check,
            rebuilt,
        };
        report.print(self.json);
        report.verdict()
    }
}
