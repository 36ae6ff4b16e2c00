//! Nodes that no proposer talks to bring each other up to what is committed.

use anyhow::{Result, ensure};
use firn_core::api::TimelineStatus;
use firn_core::types::{Lsn, Term};
use firn_tests::nodes::Nodes;
use firn_tests::proposer::{RECORDED_COMMIT, recorded_wal};

#[test]
fn a_lagging_node_catches_up_with_no_proposer_connected() -> Result<()> {
    let mut nodes = Nodes::start_volatile(3)?;
    nodes.create()?;
    let (start, wal) = recorded_wal()?;
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    // Node 3 took a tail in term 2 that nobody else has, and voted in a later term since.
    drop(nodes.push(2, 2, &wal, Lsn::INVALID)?);
    drop(nodes.vote(2, 9)?);
    // Term 3 committed on 1 and 2; 1 has a further tail that is not committed, and alone knows the commit LSN.
    drop(nodes.push(1, 3, committed, Lsn::INVALID)?);
    drop(nodes.push(0, 3, &wal, RECORDED_COMMIT)?);

    let knows =
        |status: &TimelineStatus| status.commit_lsn == RECORDED_COMMIT && status.peers.len() == 2;
    nodes.wait_for(1, "told of the commit, with two peers", knows)?;
    let status = nodes.wait_for(2, "told of the commit, with two peers", knows)?;
    ensure!(status.flush_lsn == RECORDED_COMMIT, "the tail of term 2 is cut: {status:?}");
    ensure!(status.acceptor_state.term == Term(9), "the vote stays: {status:?}");
    ensure!(status.acceptor_state.epoch == Term(3), "{status:?}");
    let tail = nodes.status(0)?;
    ensure!(tail.flush_lsn > RECORDED_COMMIT, "{tail:?}");

    // Durable, and the same bytes.
    nodes.kill_all()?;
    nodes[2].start()?;
    nodes.check_wal(2, committed)?;
    Ok(())
}
