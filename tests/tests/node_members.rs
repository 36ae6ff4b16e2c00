//! `firn timeline members` where somebody else began: every half-done change is completed, or refused with a line that says
//! what to do.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use firn_core::api::{StandingStatus, TermBump, TimelineStatus};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::membership_change::{Known, MembershipChange};
use firn_core::types::NodeId;
use firn_tests::local::process::built_program;
use firn_tests::nodes::Nodes;
use firn_tests::rot::rot_frame_with;

/// Four nodes, of which the first three are members.
fn three_of_four() -> Result<Nodes> {
    let nodes = Nodes::start(4)?;
    let mut creation = nodes.creation()?;
    creation.mconf.members.truncate(3);
    (0..3).try_for_each(|index| nodes.client(index)?.create(&creation))?;
    Ok(nodes)
}

/// Whether it succeeded, and what it said.
fn members(nodes: &Nodes, arguments: &[&str]) -> Result<(bool, String)> {
    let urls = (0..nodes.count()).filter_map(|index| nodes[index].url().ok());
    let urls: Vec<String> = urls.collect();
    let output = Command::new(built_program("firn")?)
        .args(["timeline", "members"])
        .args(arguments)
        .args(["--limit-s", "60"])
        .env("FIRN_NODES", urls.join(","))
        .env("FIRN_TENANT", nodes.key.tenant_id.to_string())
        .env("FIRN_TIMELINE", nodes.key.timeline_id.to_string())
        .output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// What an operator begins who finds the first three nodes as members, towards these.
fn begun(nodes: &Nodes, target: &[u64]) -> Result<MembershipChange> {
    let known =
        (0..3).map(|index| Ok((NodeId(index as u64 + 1), Some(nodes.status(index)?.mconf))));
    let known: Known = known.collect::<Result<_>>()?;
    let all = nodes.membership()?.members;
    let target = all.into_iter().filter(|member| target.contains(&member.id.0)).collect();
    MembershipChange::begin(&known, &BTreeSet::new(), target)?
        .context("there is something to change")
}

fn create_fourth(nodes: &Nodes, change: &MembershipChange) -> Result<()> {
    let mut creation = nodes.creation()?;
    (creation.mconf, creation.to_be_added) = (change.before(), true);
    nodes.client(3)?.create(&creation)
}

fn take(nodes: &Nodes, index: usize, membership: &Membership) -> Result<()> {
    nodes.client(index)?.switch_membership(nodes.key, membership)?;
    Ok(())
}

/// The nodes at these indices have these members and no others.
fn check_members(nodes: &Nodes, indices: &[usize], expected: &[u64]) -> Result<()> {
    for index in indices {
        let membership = nodes.status(*index)?.mconf;
        let ids: Vec<u64> = membership.members.iter().map(|member| member.id.0).collect();
        ensure!(ids == expected && membership.new_members.is_none(), "{membership:?}");
    }
    Ok(())
}

#[test]
fn a_change_found_half_done_is_finished_before_another_one() -> Result<()> {
    let nodes = three_of_four()?;
    let change = begun(&nodes, &[1, 2, 3, 4])?;
    create_fourth(&nodes, &change)?;
    take(&nodes, 1, change.joint())?;

    let (done, said) = members(&nodes, &["remove", "--node-id", "3"])?;
    ensure!(!done && said.contains("(firn timeline members finish)"), "{said}");
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 2, 3], &[1, 2, 3, 4])?;
    let (done, said) = members(&nodes, &["remove", "--node-id", "3"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 3], &[1, 2, 4])?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done && said.contains("nothing to change"), "{said}");
    Ok(())
}

/// The added node holds the timeline as one that is no member: nobody learns there of a change that was given up.
#[test]
fn a_change_that_no_member_took_does_not_stand_in_the_way() -> Result<()> {
    let nodes = three_of_four()?;
    let change = begun(&nodes, &[1, 2, 3, 4])?;
    let mut creation = nodes.creation()?;
    creation.mconf = change.before();
    let refused = nodes.client(3)?.create(&creation).unwrap_err().to_string();
    ensure!(refused.contains("node 4 is not a member in generation 1"), "{refused}");
    creation.to_be_added = true;
    nodes.client(3)?.create(&creation)?;
    let refused = nodes.client(0)?.create(&creation).unwrap_err().to_string();
    ensure!(refused.contains("node 1 is a member in generation 1 already"), "{refused}");
    ensure!(nodes.status(3)?.mconf == change.before(), "as the members have it");

    let (done, said) = members(&nodes, &["remove", "--node-id", "3"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1], &[1, 2])?;
    let added = nodes[3].url()?;
    let (done, said) = members(&nodes, &["add", "--node", &added])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 3], &[1, 2, 4])
}

/// Its disk rots before it takes part.
#[test]
fn an_added_node_that_lost_acknowledged_frames_asks_the_members_what_became_of_it() -> Result<()> {
    let mut nodes = three_of_four()?;
    let change = begun(&nodes, &[1, 2, 3, 4])?;
    create_fourth(&nodes, &change)?;
    // Later frames know that the creation was durable.
    for _ in 0..2 {
        nodes.client(3)?.bump_term(nodes.key, TermBump { term: None })?;
    }
    nodes[3].kill()?;
    rot_frame_with(&nodes[3], "create")?;
    nodes[3].start()?;
    create_fourth(&nodes, &change)?;
    let told = nodes.wait_for(3, "tried", |status| status.reseed_error.is_some())?;
    let told = told.reseed_error.unwrap_or_default();
    ensure!(told.contains("no member in generation 1"), "{told}");

    (0..3).try_for_each(|index| take(&nodes, index, change.joint()))?;
    let whole = |status: &TimelineStatus| status.standing == StandingStatus::Whole;
    nodes.wait_for(3, "whole", whole)?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 2, 3], &[1, 2, 3, 4])
}

#[test]
fn of_two_changes_begun_at_once_one_is_finished() -> Result<()> {
    let nodes = three_of_four()?;
    let (adds, removes) = (begun(&nodes, &[1, 2, 3, 4])?, begun(&nodes, &[1, 2])?);
    create_fourth(&nodes, &adds)?;
    take(&nodes, 0, adds.joint())?;
    take(&nodes, 1, adds.joint())?;
    take(&nodes, 2, removes.joint())?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 2, 3], &[1, 2, 3, 4])
}

#[test]
fn two_changes_of_which_neither_has_a_majority_give_way_to_a_third() -> Result<()> {
    let nodes = Nodes::start(4)?;
    nodes.create()?;
    // Four members: each change was taken by two.
    let known: Known = (1..=4).map(|id| (NodeId(id), nodes.membership().ok())).collect();
    let target = |ids: &[u64]| -> Result<MembershipChange> {
        let all = nodes.membership()?.members;
        let target = all.into_iter().filter(|member| ids.contains(&member.id.0)).collect();
        MembershipChange::begin(&known, &BTreeSet::new(), target)?.context("a change")
    };
    let (one, other) = (target(&[1, 2, 3])?, target(&[2, 3, 4])?);
    take(&nodes, 0, one.joint())?;
    take(&nodes, 1, one.joint())?;
    take(&nodes, 2, other.joint())?;
    take(&nodes, 3, other.joint())?;
    let (done, said) = members(&nodes, &["remove", "--node-id", "1"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[1, 2, 3], &[2, 3, 4])
}

#[test]
fn an_undecided_pair_of_changes_names_the_nodes_that_decide() -> Result<()> {
    let mut nodes = three_of_four()?;
    let (adds, removes) = (begun(&nodes, &[1, 2, 3, 4])?, begun(&nodes, &[1, 2])?);
    create_fourth(&nodes, &adds)?;
    take(&nodes, 0, adds.joint())?;
    take(&nodes, 2, removes.joint())?;
    nodes[1].kill()?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(!done && said.contains("the nodes 2 decide between them"), "{said}");
    nodes[1].start()?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done, "{said}");
    Ok(())
}

#[test]
fn an_added_node_that_lost_its_disk_is_not_created_again() -> Result<()> {
    let mut nodes = three_of_four()?;
    let change = begun(&nodes, &[1, 2, 3, 4])?;
    create_fourth(&nodes, &change)?;
    take(&nodes, 0, change.joint())?;
    nodes[3].kill()?;
    nodes[3].lose_data()?;
    nodes[3].start()?;
    let (done, said) = members(&nodes, &["finish"])?;
    ensure!(done && said.contains("node 4 has lost the timeline"), "{said}");
    check_members(&nodes, &[0, 1, 2], &[1, 2, 3, 4])?;
    ensure!(nodes.client(3)?.timelines()?.is_empty(), "nobody made it hold the timeline");
    Ok(())
}

#[test]
fn members_that_do_not_answer_are_named() -> Result<()> {
    let mut nodes = three_of_four()?;
    nodes[2].kill()?;
    let added = nodes[3].url()?;
    let (done, said) = members(&nodes, &["add", "--node", &added])?;
    ensure!(!done && said.contains("gone for good (--gone)"), "{said}");
    let (done, said) = members(&nodes, &["add", "--node", &added, "--gone", "3"])?;
    ensure!(done, "{said}");
    check_members(&nodes, &[0, 1, 3], &[1, 2, 3, 4])
}
