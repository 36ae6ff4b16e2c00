//! Figures of a node that holds many timelines and does nothing.

use std::time::Duration;

use anyhow::Context;
use firn_core::wire::walproposer::ProtocolVersion;
use firn_tools::clock;
use firn_tools::local::node::{NodeOptions, NodeProcess};
use firn_tools::local::process::resident_bytes;

use super::figure::{Figure, Goal};
use super::runs::median;
use crate::cpu_time::cpu_s_of_tree;
use crate::wal::generator::{self, Place};
use crate::wal::options::Load;
use crate::wal::usage::Probe;

/// Measures them all: `firn-node` must have been built beside this program.
pub fn figures(quick: bool) -> anyhow::Result<Vec<Figure>> {
    let (timelines, watched) = match quick {
        true => (200, Duration::from_millis(500)),
        false => (10_000, Duration::from_secs(10)),
    };
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let options = NodeOptions { shards: Some(1), ..NodeOptions::default() };
    let mut node = NodeProcess::new("the node", &directory.path().join("node"), options)?;
    node.start()?;
    make_timelines(&node.pg_address()?, timelines)?;
    // The checkpoints of the connections' ends are over when nothing more is written.
    clock::sleep(Duration::from_secs(1));
    let pid = node.pid().context("the node runs")?;
    let before_s = cpu_s_of_tree(pid)?;
    clock::sleep(watched);
    let cpu_percent = (cpu_s_of_tree(pid)? - before_s) / watched.as_secs_f64() * 100.0;
    let mut restarts_s = Vec::new();
    let mut resident = resident_bytes(pid)?;
    for _ in 0..if quick { 1 } else { 5 } {
        node.kill()?;
        let killed = clock::now();
        node.start()?;
        restarts_s.push(killed.elapsed().as_secs_f64());
        resident = resident.max(resident_bytes(node.pid().context("the node runs")?)?);
    }
    node.stop()?;
    let figure =
        |name: String, unit, measured, goal| Figure { name, unit, measured, baseline: None, goal };
    let name = format!("{timelines} timelines without connections");
    Ok(vec![
        figure(format!("{name}: memory"), "MB", resident as f64 / 1e6, Goal::AtMost(300.0)),
        figure(format!("{name}: CPU of a core"), "%", cpu_percent, Goal::AtMost(1.0)),
        figure(
            format!("{name}: restart after kill -9"),
            "s",
            median(restarts_s),
            Goal::AtMost(2.0),
        ),
    ])
}

/// Makes timelines with an elected proposer each, and a little WAL in one of them.
fn make_timelines(target: &str, timelines: usize) -> anyhow::Result<()> {
    let load = Load {
        timelines,
        connections: 1,
        outstanding: 1,
        size_bytes: 512,
        rate_per_s: None,
        duration: Duration::from_millis(100),
        warm_up: Duration::ZERO,
        beside_bytes: None,
        protocol: ProtocolVersion::V3,
    };
    let place = Place {
        targets: vec![target.to_string()],
        auth_token: None,
        threads: 1,
        cores: Vec::new(),
        spin: Duration::ZERO,
        probe: Probe::Nothing,
    };
    generator::run(&load, &place).map(drop)
}
