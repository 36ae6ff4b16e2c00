//! A node whose disk rots under acknowledged data makes itself whole from the other members, and says nothing before.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firn_core::api::{CreateTimeline, StandingStatus, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::reseed::is_reseed_term;
use firn_core::journal::BLOCK_BYTES;
use firn_core::journal::inspect::{Item, items};
use firn_core::journal::segment::{HeaderBlock, SegmentHeader};
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
        tenant_id: "11110000000000000000000000000007".parse().unwrap(),
        timeline_id: "22220000000000000000000000000007".parse().unwrap(),
    }
}

fn start_nodes(folder: &Path) -> Result<Vec<NodeProcess>> {
    let start = |id: u64| {
        let arguments = ["--node-id".to_string(), id.to_string()].to_vec();
        let options = NodeOptions { shards: Some(2), volatile: false, arguments };
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

fn body(nodes: &[NodeProcess]) -> Result<CreateTimeline> {
    let mut members = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let address = node.pg_address()?;
        let (host, port) = address.rsplit_once(':').unwrap();
        let id = NodeId(index as u64 + 1);
        members.push(Member { id, host: host.to_string(), pg_port: port.parse()? });
    }
    Ok(CreateTimeline {
        key: key(),
        mconf: Membership { generation: Generation(1), members, new_members: None },
        pg_version: PostgresVersion(170_008),
        system_id: Some(SYSTEM_ID),
        wal_seg_size: None,
        start_lsn: RECORDED_START,
        commit_lsn: None,
    })
}

fn create(nodes: &[NodeProcess]) -> Result<()> {
    let body = body(nodes)?;
    nodes.iter().try_for_each(|node| client(node)?.create(&body))
}

/// Writes WAL to one acceptor as the elected proposer of a term, and waits until it is durable there.
fn push(node: &NodeProcess, term: u64, wal: &[u8]) -> Result<HandmadeProposer> {
    let mut proposer = HandmadeProposer::connect(&node.pg_address()?, key(), Generation(1))?;
    proposer.greet(SYSTEM_ID)?;
    proposer.vote(Term(term))?;
    let history = [(Term(0), RECORDED_START), (Term(term), RECORDED_START)];
    proposer.elected(&history, RECORDED_START)?;
    let end = proposer.append_all(RECORDED_START, wal)?;
    proposer.append(end, &[], Lsn::INVALID)?;
    proposer.wait_flushed(end.min(RECORDED_COMMIT))?;
    Ok(proposer)
}

/// Flips a bit in the first frame with an entry of this kind. The node must not be running.
fn rot_frame_with(node: &NodeProcess, kind: &str) -> Result<()> {
    for shard in 0..2 {
        let directory = node.data().join(format!("shard-{shard:03}/journal"));
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            if !path.file_name().unwrap().to_string_lossy().starts_with("SEGMENT-") {
                continue;
            }
            let mut bytes = fs::read(&path)?;
            let header = match bytes.get(..BLOCK_BYTES).map(SegmentHeader::decode) {
                Some(Ok(HeaderBlock::Valid(header))) => header,
                _ => continue,
            };
            let is_kind = |entries: &[String]| entries.iter().any(|entry| entry.starts_with(kind));
            let found = items(&header, &bytes).find_map(|item| match item {
                Item::Frame { offset_bytes, entries, .. } if is_kind(&entries) => {
                    Some(offset_bytes as usize)
                }
                _ => None,
            });
            if let Some(offset) = found {
                bytes[offset + 100] ^= 1;
                return Ok(fs::write(&path, &bytes)?);
            }
        }
    }
    anyhow::bail!("no frame has an entry {kind}")
}

fn wait_for(
    node: &NodeProcess,
    what: &str,
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
    found.with_context(|| format!("not {what}: {last:?}"))
}

fn wait_whole(node: &NodeProcess) -> Result<TimelineStatus> {
    wait_for(node, "whole", |status| status.standing == StandingStatus::Whole)
}

#[test]
fn a_node_that_lost_acknowledged_frames_reseeds_itself_and_votes_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path())?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    // Committed by 1 and 2 in term 3; 1 also voted in a term that nobody else heard of.
    drop((push(&nodes[0], 3, committed)?, push(&nodes[1], 3, committed)?));
    let mut voted = HandmadeProposer::connect(&nodes[0].pg_address()?, key(), Generation(1))?;
    voted.greet(SYSTEM_ID)?;
    voted.vote(Term(8))?;
    nodes[0].kill()?;
    drop(voted);
    rot_frame_with(&nodes[0], "append")?;

    nodes[0].start()?;
    let status = wait_whole(&nodes[0])?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "what may be committed is back: {status:?}");
    ensure!(is_reseed_term(status.acceptor_state.term), "{status:?}");
    ensure!(status.acceptor_state.term > Term(8), "above the vote that was forgotten: {status:?}");
    let metrics = client(&nodes[0])?.metrics()?;
    ensure!(metrics.contains("firn_reseeds_total"), "{metrics}");

    // It votes above that term, and the vote survives like everything that was brought back.
    let next = Term(status.acceptor_state.term.0 + 1);
    let mut proposer = HandmadeProposer::connect(&nodes[0].pg_address()?, key(), Generation(1))?;
    proposer.greet(SYSTEM_ID)?;
    proposer.vote(next)?;
    nodes[0].kill()?;
    nodes[0].start()?;
    let again = client(&nodes[0])?.timeline(key())?;
    ensure!(again.standing == StandingStatus::Whole, "{again:?}");
    ensure!(again.acceptor_state.term == next, "{again:?}");
    ensure!(again.flush_lsn == status.flush_lsn, "{again:?}");

    // With it and the one that had nothing the timeline is whole, byte for byte.
    nodes[1].kill()?;
    let fenced = client(&nodes[0])?.fence(key())?;
    ensure!(fenced.lsn >= RECORDED_COMMIT, "{fenced:?}");
    let segment = client(&nodes[2])?.wal_file(key(), "000000010000000000000001")?.unwrap();
    let offset = (start.0 % (16 << 20)) as usize;
    ensure!(segment[offset..offset + committed.len()] == *committed, "the committed bytes");
    Ok(())
}

#[test]
fn cut_off_from_a_majority_of_the_others_it_stays_closed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path())?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    drop((push(&nodes[0], 3, committed)?, push(&nodes[1], 3, committed)?));
    nodes[0].kill()?;
    nodes[1].kill()?;
    rot_frame_with(&nodes[0], "append")?;
    nodes[0].start()?;

    let status = wait_for(&nodes[0], "tried", |status| status.reseed_error.is_some())?;
    ensure!(status.standing == StandingStatus::Suspect, "{status:?}");
    let mut proposer = HandmadeProposer::connect(&nodes[0].pg_address()?, key(), Generation(1))?;
    let refused = proposer.greet(SYSTEM_ID).unwrap_err().to_string();
    ensure!(refused.contains("may have lost acknowledged data"), "{refused}");
    // Neither an election nor a membership can count on it.
    let fence = client(&nodes[2])?.fence(key()).unwrap_err().to_string();
    ensure!(fence.contains("no quorum"), "{fence}");
    let membership = Membership { generation: Generation(2), ..body(&nodes)?.mconf };
    ensure!(client(&nodes[0])?.switch_membership(key(), &membership).is_err());

    nodes[1].start()?;
    let status = wait_whole(&nodes[0])?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "{status:?}");
    Ok(())
}

#[test]
fn a_timeline_whose_creation_was_lost_begins_as_one_to_reseed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = start_nodes(folder.path())?;
    create(&nodes)?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    drop((push(&nodes[0], 3, committed)?, push(&nodes[1], 3, committed)?));
    nodes[0].kill()?;
    rot_frame_with(&nodes[0], "create")?;
    nodes[0].start()?;
    ensure!(client(&nodes[0])?.timelines()?.is_empty());

    client(&nodes[0])?.create(&body(&nodes)?)?;
    let status = wait_whole(&nodes[0])?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "not as an empty acceptor: {status:?}");
    Ok(())
}
