//! Nodes that no proposer talks to bring each other up to what is committed.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firn_core::api::{CreateTimeline, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::proposer::{HandmadeProposer, RECORDED_COMMIT, RECORDED_START, recorded_wal};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

const SYSTEM_ID: SystemId = SystemId(7_710_948_517_785_714_850);
/// How long anything that must happen may take; only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(90);

fn key() -> TimelineKey {
    TimelineKey {
        tenant_id: "11110000000000000000000000000006".parse().unwrap(),
        timeline_id: "22220000000000000000000000000006".parse().unwrap(),
    }
}

fn start_nodes(folder: &Path) -> Result<Vec<NodeProcess>> {
    let start = |id: u64| {
        let arguments = ["--node-id".to_string(), id.to_string()].to_vec();
        let options = NodeOptions { shards: Some(2), volatile: true, arguments };
        let name = format!("node-{id}");
        let mut node = NodeProcess::new(&name, &folder.join(&name), options)?;
        node.start()?;
        Ok(node)
    };
    (1..=3).map(start).collect()
}

fn client(node: &NodeProcess) -> Result<NodeClient> {
    Ok(NodeClient::new(&node.url()?, None))
}

fn create(nodes: &[NodeProcess]) -> Result<()> {
    let mut members = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let address = node.pg_address()?;
        let (host, port) = address.rsplit_once(':').unwrap();
        let id = NodeId(index as u64 + 1);
        members.push(Member { id, host: host.to_string(), pg_port: port.parse()? });
    }
    let create = CreateTimeline {
        key: key(),
        mconf: Membership { generation: Generation(1), members, new_members: None },
        pg_version: PostgresVersion(170_008),
        system_id: Some(SYSTEM_ID),
        wal_seg_size: None,
        start_lsn: RECORDED_START,
        commit_lsn: None,
    };
    nodes.iter().try_for_each(|node| client(node)?.create(&create))
}

/// Writes WAL to one acceptor as the elected proposer of a term, waits until it is durable there, and leaves.
fn push(node: &NodeProcess, term: u64, wal: &[u8], commit_lsn: Lsn) -> Result<()> {
    let mut proposer = HandmadeProposer::connect(&node.pg_address()?, key(), Generation(1))?;
    proposer.greet(SYSTEM_ID)?;
    proposer.vote(Term(term))?;
    let history = [(Term(0), RECORDED_START), (Term(term), RECORDED_START)];
    proposer.elected(&history, RECORDED_START)?;
    let end = proposer.append_all(RECORDED_START, wal)?;
    proposer.append(end, &[], commit_lsn)?;
    proposer.wait_flushed(commit_lsn)
}

fn wait_for(
    node: &NodeProcess,
    wanted: impl Fn(&TimelineStatus) -> bool,
) -> Result<TimelineStatus> {
    let client = client(node)?;
    let mut last = None;
    let found = wait_until(LIMIT, || {
        let status = client.timeline(key())?;
        let matches = wanted(&status);
        last = Some(status.clone());
        Ok(matches.then_some(status))
    })?;
    found.with_context(|| format!("never as wanted: {last:?}"))
}

#[test]
fn a_lagging_node_catches_up_with_no_proposer_connected() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path())?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    // Node 3 took a tail in term 2 that nobody else has, and voted in a later term since.
    push(&nodes[2], 2, &wal, Lsn::INVALID)?;
    HandmadeProposer::connect(&nodes[2].pg_address()?, key(), Generation(1)).and_then(
        |mut proposer| {
            proposer.greet(SYSTEM_ID)?;
            proposer.vote(Term(9))
        },
    )?;
    // Term 3 committed on 1 and 2; 1 has a further tail that is not committed, and alone knows the commit LSN.
    push(&nodes[1], 3, committed, Lsn::INVALID)?;
    push(&nodes[0], 3, &wal, RECORDED_COMMIT)?;

    let knows = |status: &TimelineStatus| status.commit_lsn == RECORDED_COMMIT;
    wait_for(&nodes[1], knows)?;
    let status = wait_for(&nodes[2], knows)?;
    ensure!(status.flush_lsn == RECORDED_COMMIT, "the tail of term 2 is cut: {status:?}");
    ensure!(status.acceptor_state.term == Term(9), "the vote stays: {status:?}");
    ensure!(status.acceptor_state.epoch == Term(3), "{status:?}");
    ensure!(status.peers.len() == 2, "both peers are heard: {status:?}");
    let tail = client(&nodes[0])?.timeline(key())?;
    ensure!(tail.flush_lsn > RECORDED_COMMIT, "{tail:?}");

    // Durable, and the same bytes.
    for node in &mut nodes {
        node.kill()?;
    }
    nodes[2].start()?;
    let segment = client(&nodes[2])?.wal_file(key(), "000000010000000000000001")?.unwrap();
    let offset = (start.0 % (16 << 20)) as usize;
    ensure!(segment[offset..offset + committed.len()] == *committed, "the committed bytes");
    Ok(())
}
