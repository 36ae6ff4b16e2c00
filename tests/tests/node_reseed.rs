//! A node whose disk rots under acknowledged data makes itself whole from the other members, and says nothing before.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use firn_core::api::{StandingStatus, TimelineStatus};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::reseed::is_reseed_term;
use firn_core::types::{Generation, Lsn, Term};
use firn_tests::local::process::built_program;
use firn_tests::nodes::{Nodes, SYSTEM_ID};
use firn_tests::proposer::{RECORDED_COMMIT, recorded_wal};
use firn_tests::rot::rot_frame_with;

/// Three nodes; what is returned is committed by 1 and 2 in term 3, and is not on 3.
fn nodes_with_committed_wal() -> Result<(Nodes, Vec<u8>)> {
    let nodes = Nodes::start(3)?;
    nodes.create()?;
    let (start, mut wal) = recorded_wal()?;
    wal.truncate((RECORDED_COMMIT - start) as usize);
    // Both were connected at once, so that neither brought the other up before.
    drop((nodes.push(0, 3, &wal, Lsn::INVALID)?, nodes.push(1, 3, &wal, Lsn::INVALID)?));
    Ok((nodes, wal))
}

fn wait_whole(nodes: &Nodes, index: usize) -> Result<TimelineStatus> {
    nodes.wait_for(index, "whole", |status| status.standing == StandingStatus::Whole)
}

#[test]
fn a_node_that_lost_acknowledged_frames_reseeds_itself_and_votes_again() -> Result<()> {
    let (mut nodes, committed) = nodes_with_committed_wal()?;
    // 1 also voted in a term that nobody else heard of.
    let voted = nodes.vote(0, 8)?;
    nodes[0].kill()?;
    drop(voted);
    rot_frame_with(&nodes[0], "append")?;

    nodes[0].start()?;
    let status = wait_whole(&nodes, 0)?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "what may be committed is back: {status:?}");
    ensure!(is_reseed_term(status.acceptor_state.term), "{status:?}");
    ensure!(status.acceptor_state.term > Term(8), "above the vote that was forgotten: {status:?}");
    let metrics = nodes.client(0)?.metrics()?;
    let reseeds: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("firn_reseeds_total")).collect();
    ensure!(reseeds.iter().any(|line| !line.ends_with(" 0")), "{reseeds:?}");

    // It votes above that term, and the vote survives like everything that was brought back.
    let next = Term(status.acceptor_state.term.0 + 1);
    let proposer = nodes.vote(0, next.0)?;
    nodes[0].kill()?;
    drop(proposer);
    nodes[0].start()?;
    let again = nodes.status(0)?;
    ensure!(again.standing == StandingStatus::Whole, "{again:?}");
    ensure!(again.acceptor_state.term == next, "{again:?}");
    ensure!(again.flush_lsn == status.flush_lsn, "{again:?}");

    // With it and the one that had nothing the timeline is whole, byte for byte.
    nodes[1].kill()?;
    let fenced = nodes.client(0)?.fence(nodes.key)?;
    ensure!(fenced.lsn >= RECORDED_COMMIT, "{fenced:?}");
    nodes.check_wal(2, &committed)?;
    Ok(())
}

#[test]
fn cut_off_from_a_majority_of_the_others_it_stays_closed() -> Result<()> {
    let (mut nodes, _) = nodes_with_committed_wal()?;
    nodes[0].kill()?;
    nodes[1].kill()?;
    rot_frame_with(&nodes[0], "append")?;
    nodes[0].start()?;

    let status = nodes.wait_for(0, "tried", |status| status.reseed_error.is_some())?;
    ensure!(status.standing == StandingStatus::Suspect, "{status:?}");
    let refused = nodes.connect(0)?.greet(SYSTEM_ID).unwrap_err().to_string();
    ensure!(refused.contains("may have lost acknowledged data"), "{refused}");
    // Neither an election nor a membership can count on it.
    let fence = nodes.client(2)?.fence(nodes.key).unwrap_err().to_string();
    ensure!(fence.contains("no quorum"), "{fence}");
    let membership = Membership { generation: Generation(2), ..nodes.membership()? };
    ensure!(nodes.client(0)?.switch_membership(nodes.key, &membership).is_err());

    nodes[1].start()?;
    let status = wait_whole(&nodes, 0)?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "{status:?}");
    Ok(())
}

#[test]
fn a_timeline_whose_creation_was_lost_begins_as_one_to_reseed() -> Result<()> {
    let (mut nodes, _) = nodes_with_committed_wal()?;
    nodes[0].kill()?;
    rot_frame_with(&nodes[0], "create")?;
    nodes[0].start()?;
    ensure!(nodes.client(0)?.timelines()?.is_empty());

    nodes.client(0)?.create(&nodes.creation()?)?;
    let status = wait_whole(&nodes, 0)?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "not as an empty acceptor: {status:?}");
    Ok(())
}

/// Nothing of it is left, not even its term: an election that nobody won must not open it.
#[test]
fn a_timeline_whose_creation_was_lost_stays_closed_while_the_others_cannot_be_asked() -> Result<()>
{
    let (mut nodes, _) = nodes_with_committed_wal()?;
    let creation = nodes.creation()?;
    nodes[0].kill()?;
    nodes[1].kill()?;
    rot_frame_with(&nodes[0], "create")?;
    nodes[0].start()?;
    nodes.client(0)?.create(&creation)?;

    let status = nodes.wait_for(0, "tried", |status| status.reseed_error.is_some())?;
    ensure!(status.standing == StandingStatus::Suspect, "{status:?}");
    let refused = nodes.connect(0)?.greet(SYSTEM_ID).unwrap_err().to_string();
    ensure!(refused.contains("may have lost acknowledged data"), "{refused}");

    nodes[1].start()?;
    let status = wait_whole(&nodes, 0)?;
    ensure!(status.flush_lsn >= RECORDED_COMMIT, "not as an empty acceptor: {status:?}");
    Ok(())
}

/// `firn journal repair` of one node; whether it succeeded, and what it said.
fn repair(nodes: &Nodes, index: usize, arguments: &[&str]) -> Result<(bool, String)> {
    let url = nodes[index].url()?;
    let mut command = Command::new(built_program("firn")?);
    command.args(["journal", "repair", "--nodes", &url]).args(arguments);
    let Output { status, stdout, stderr } = command.output()?;
    Ok((status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()))
}

#[test]
fn repair_says_what_is_missing_and_gives_up_only_what_it_is_told_to() -> Result<()> {
    let (mut nodes, _) = nodes_with_committed_wal()?;
    nodes[0].kill()?;
    nodes[1].kill()?;
    rot_frame_with(&nodes[0], "append")?;
    nodes[0].start()?;
    let (done, said) = repair(&nodes, 0, &["--limit-s", "1"])?;
    ensure!(!done && said.contains("votes and acknowledges nothing"), "{said}");
    ensure!(nodes.status(0)?.standing == StandingStatus::Suspect);

    let (tenant, timeline) = (nodes.key.tenant_id.to_string(), nodes.key.timeline_id.to_string());
    let accept = ["--accept-loss", "--tenant", &tenant, "--timeline", &timeline];
    let (done, said) = repair(&nodes, 0, &accept)?;
    ensure!(done && said.contains("goes on with what is left"), "{said}");
    let status = nodes.status(0)?;
    ensure!(status.standing == StandingStatus::Whole, "{status:?}");
    ensure!(is_reseed_term(status.acceptor_state.term), "no vote of before counts: {status:?}");
    // With the third node it is a quorum. What was committed was on the other two: it is given up.
    let fenced = nodes.client(2)?.fence(nodes.key)?;
    ensure!(fenced.lsn < RECORDED_COMMIT, "{fenced:?}");
    let (done, said) = repair(&nodes, 0, &accept)?;
    ensure!(!done && said.contains("has lost nothing there"), "{said}");
    let (done, said) = repair(&nodes, 0, &[])?;
    ensure!(done && said.contains("nothing to repair"), "{said}");
    Ok(())
}
