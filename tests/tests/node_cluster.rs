//! Nodes as processes: what they acknowledged survives `kill -9`, and a fence completes and commits what a quorum holds.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::Path;

use anyhow::{Result, ensure};
use firn_core::api::CreateTimeline;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::proposer::{HandmadeProposer, RECORDED_COMMIT, RECORDED_START, recorded_wal};
use firn_tests::replay::error_text;
use firn_tools::client::NodeClient;

const SYSTEM_ID: SystemId = SystemId(7_710_948_517_785_714_850);

fn key() -> TimelineKey {
    TimelineKey {
        tenant_id: "11110000000000000000000000000009".parse().unwrap(),
        timeline_id: "22220000000000000000000000000009".parse().unwrap(),
    }
}

fn start_nodes(folder: &Path, count: u64) -> Result<Vec<NodeProcess>> {
    let start = |id: u64| {
        let arguments = ["--node-id".to_string(), id.to_string()].to_vec();
        let options = NodeOptions { shards: Some(2), volatile: true, arguments };
        let name = format!("node-{id}");
        let mut node = NodeProcess::new(&name, &folder.join(&name), options)?;
        node.start()?;
        Ok(node)
    };
    (1..=count).map(start).collect()
}

fn client(node: &NodeProcess) -> Result<NodeClient> {
    Ok(NodeClient::new(&node.url()?, None))
}

fn membership(nodes: &[NodeProcess]) -> Result<Membership> {
    let mut members = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let address = node.pg_address()?;
        let (host, port) = address.rsplit_once(':').unwrap();
        let id = NodeId(index as u64 + 1);
        members.push(Member { id, host: host.to_string(), pg_port: port.parse()? });
    }
    Ok(Membership { generation: Generation(1), members, new_members: None })
}

fn create(nodes: &[NodeProcess]) -> Result<()> {
    let create = CreateTimeline {
        key: key(),
        mconf: membership(nodes)?,
        pg_version: PostgresVersion(170_008),
        system_id: Some(SYSTEM_ID),
        wal_seg_size: None,
        start_lsn: RECORDED_START,
        commit_lsn: None,
    };
    nodes.iter().try_for_each(|node| client(node)?.create(&create))
}

/// Writes WAL to one acceptor as the elected proposer of a term, and waits until it is durable there.
fn push(node: &NodeProcess, term: u64, wal: &[u8], commit_lsn: Lsn) -> Result<HandmadeProposer> {
    let mut proposer = HandmadeProposer::connect(&node.pg_address()?, key(), Generation(1))?;
    proposer.greet(SYSTEM_ID)?;
    proposer.vote(Term(term))?;
    let history = [(Term(0), RECORDED_START), (Term(term), RECORDED_START)];
    proposer.elected(&history, RECORDED_START)?;
    let end = proposer.append_all(RECORDED_START, wal)?;
    proposer.append(end, &[], commit_lsn)?;
    proposer.wait_flushed(end.min(RECORDED_COMMIT))?;
    Ok(proposer)
}

#[test]
fn acknowledged_wal_and_votes_survive_kill_9_on_a_disk_that_forgets() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path(), 1)?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let end = start + wal.len() as u64;
    let proposer = push(&nodes[0], 3, &wal, Lsn::INVALID)?;
    let mut voted = HandmadeProposer::connect(&nodes[0].pg_address()?, key(), Generation(1))?;
    voted.greet(SYSTEM_ID)?;
    voted.vote(Term(8))?;
    nodes[0].kill()?;
    drop((proposer, voted));
    nodes[0].start()?;

    let status = client(&nodes[0])?.timeline(key())?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT && status.flush_lsn <= end, "{status:?}");
    ensure!(status.acceptor_state.term == Term(8), "the vote is kept: {status:?}");
    ensure!(status.mconf == membership(&nodes)?, "{status:?}");
    Ok(())
}

#[test]
fn a_fence_commits_the_longest_tail_of_a_quorum_and_stops_the_old_proposer() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path(), 3)?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    // Committed on 1 and 2; 1 has a tail that nobody else has; 3 has nothing and 1 is the only one that knows the commit.
    let mut old = push(&nodes[0], 3, &wal, RECORDED_COMMIT)?;
    let shorter = push(&nodes[1], 3, committed, Lsn::INVALID)?;
    drop(shorter);

    // Asked of the one that knows least.
    let fenced = client(&nodes[2])?.fence(key())?;
    ensure!(fenced.term > Term(3) && fenced.lsn >= RECORDED_COMMIT, "{fenced:?}");
    let reached = |node: &NodeProcess| -> Result<bool> {
        let status = client(node)?.timeline(key())?;
        Ok(status.flush_lsn == fenced.lsn && status.commit_lsn == fenced.lsn)
    };
    let mut count = 0;
    for node in &nodes {
        count += usize::from(reached(node)?);
    }
    ensure!(count >= 2, "a majority has committed {}: {count}", fenced.lsn);

    // The old proposer is told of the higher term, or its connection is of no use.
    old.append(start + wal.len() as u64, &[0; 8], Lsn::INVALID)?;
    let newer = |answers: &[firn_tests::replay::Answer]| {
        let term_of = |answer: &firn_tests::replay::Answer| match answer {
            firn_tests::replay::Answer::Appended { term, .. } => Some(*term),
            _ => None,
        };
        answers.iter().filter_map(term_of).any(|term| term >= fenced.term)
    };
    let version = firn_core::wire::walproposer::ProtocolVersion::V3;
    old.connection.wait_until(version, newer)?;
    ensure!(!old.connection.closed, "{:?}", error_text(&old.connection.received));

    // The WAL for a restore is the same on whoever has it, byte for byte, with zeroes behind.
    let name = "000000010000000000000001";
    let offset = (start.0 % (16 << 20)) as usize;
    let length = (fenced.lsn - start) as usize;
    for node in &nodes {
        if !reached(node)? {
            continue;
        }
        let segment = client(node)?.wal_file(key(), name)?.unwrap();
        ensure!(segment.len() == 16 << 20);
        ensure!(segment[offset..offset + length] == wal[..length], "the committed bytes");
        ensure!(segment[offset + length..].iter().all(|byte| *byte == 0), "zeroes behind them");
    }
    ensure!(client(&nodes[0])?.wal_file(key(), "000000020000000000000001")?.is_none());
    ensure!(client(&nodes[0])?.wal_file(key(), "00000002.history")?.is_none());

    // And it is still there after all of them lost power.
    for node in &mut nodes {
        node.kill()?;
    }
    for node in &mut nodes {
        node.start()?;
    }
    let again = client(&nodes[0])?.fence(key())?;
    ensure!(again.lsn == fenced.lsn && again.term > fenced.term, "{again:?}");
    Ok(())
}

#[test]
fn a_relay_s_timeline_is_never_made_on_push() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nodes = start_nodes(folder.path(), 1)?;
    let mut proposer = HandmadeProposer::connect(&nodes[0].pg_address()?, key(), Generation(0))?;
    proposer.connection.send(b"X\0\0\0\x04")?;
    drop(proposer);
    ensure!(client(&nodes[0])?.timelines()?.is_empty());
    // A fence of what is not there, and of a timeline without members, says so.
    let unknown = client(&nodes[0])?.fence(key()).unwrap_err().to_string();
    ensure!(unknown.contains("not found"), "{unknown}");
    Ok(())
}
