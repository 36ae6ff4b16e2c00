//! Nodes as processes: what they acknowledged survives `kill -9`, and a fence completes and commits what a quorum holds.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use anyhow::{Result, ensure};
use firn_core::types::{Generation, Lsn, Term};
use firn_core::wire::walproposer::ProtocolVersion;
use firn_tests::nodes::Nodes;
use firn_tests::proposer::{HandmadeProposer, RECORDED_COMMIT, recorded_wal};
use firn_tests::replay::{Answer, error_text};

#[test]
fn acknowledged_wal_and_votes_survive_kill_9_on_a_disk_that_forgets() -> Result<()> {
    let mut nodes = Nodes::start_volatile(1)?;
    nodes.create()?;
    let (start, wal) = recorded_wal()?;
    let end = start + wal.len() as u64;
    let proposer = nodes.push(0, 3, &wal, Lsn::INVALID)?;
    let voted = nodes.vote(0, 8)?;
    nodes[0].kill()?;
    drop((proposer, voted));
    nodes[0].start()?;

    let status = nodes.status(0)?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT && status.flush_lsn <= end, "{status:?}");
    ensure!(status.acceptor_state.term == Term(8), "the vote is kept: {status:?}");
    ensure!(status.mconf == nodes.membership()?, "{status:?}");
    Ok(())
}

#[test]
fn a_fence_commits_the_longest_tail_of_a_quorum_and_stops_the_old_proposer() -> Result<()> {
    let mut nodes = Nodes::start_volatile(3)?;
    nodes.create()?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    // Committed on 1 and 2; 1 has a tail that nobody else has; 3 has nothing and 1 is the only one that knows the commit.
    let mut old = nodes.push(0, 3, &wal, RECORDED_COMMIT)?;
    drop(nodes.push(1, 3, committed, Lsn::INVALID)?);

    // Asked of the one that knows least.
    let fenced = nodes.client(2)?.fence(nodes.key)?;
    ensure!(fenced.term > Term(3) && fenced.lsn >= RECORDED_COMMIT, "{fenced:?}");
    let mut reached = Vec::new();
    for index in 0..nodes.count() {
        let status = nodes.status(index)?;
        if status.flush_lsn == fenced.lsn && status.commit_lsn == fenced.lsn {
            reached.push(index);
        }
    }
    ensure!(reached.len() >= 2, "a majority has committed {}: {reached:?}", fenced.lsn);

    // The old proposer is told of the higher term, or its connection is of no use.
    old.append(start + wal.len() as u64, &[0; 8], Lsn::INVALID)?;
    let newer = |answers: &[Answer]| {
        let term_of = |answer: &Answer| match answer {
            Answer::Appended { term, .. } => Some(*term),
            _ => None,
        };
        answers.iter().filter_map(term_of).any(|term| term >= fenced.term)
    };
    old.connection.wait_until(ProtocolVersion::V3, newer)?;
    ensure!(!old.connection.closed, "{:?}", error_text(&old.connection.received));

    // The WAL for a restore is the same on whoever has it, byte for byte, with zeroes behind.
    let length = (fenced.lsn - start) as usize;
    for index in reached {
        let behind = nodes.check_wal(index, &wal[..length])?;
        ensure!(behind.iter().all(|byte| *byte == 0), "zeroes behind them");
    }
    ensure!(nodes.client(0)?.wal_file(nodes.key, "000000020000000000000001")?.is_none());
    ensure!(nodes.client(0)?.wal_file(nodes.key, "00000002.history")?.is_none());

    // And it is still there after all of them lost power.
    nodes.kill_all()?;
    for index in 0..nodes.count() {
        nodes[index].start()?;
    }
    let again = nodes.client(0)?.fence(nodes.key)?;
    ensure!(again.lsn == fenced.lsn && again.term > fenced.term, "{again:?}");
    Ok(())
}

#[test]
fn a_relay_s_timeline_is_never_made_on_push() -> Result<()> {
    let nodes = Nodes::start_volatile(1)?;
    let mut proposer =
        HandmadeProposer::connect(&nodes[0].pg_address()?, nodes.key, Generation(0))?;
    proposer.connection.send(b"X\0\0\0\x04")?;
    drop(proposer);
    ensure!(nodes.client(0)?.timelines()?.is_empty());
    // A fence of what is not there, and of a timeline without members, says so.
    let unknown = nodes.client(0)?.fence(nodes.key).unwrap_err().to_string();
    ensure!(unknown.contains("not found"), "{unknown}");
    Ok(())
}
