//! An operator who changes the members, and operators after that one: each may walk away in the middle, reach only some of
//! the nodes, and begin from what those say.

use std::collections::{BTreeMap, BTreeSet};

use firn_core::consensus::change::Create;
use firn_core::consensus::membership::{Member, Membership, majority_of};
use firn_core::consensus::membership_change::{
    Known, MembershipChange, MembershipChangeError, Standing,
};
use firn_core::marks;
use firn_core::types::NodeId;

use super::network::NodeIndex;
use super::node::Node;
use super::world::World;
use crate::simulation::checks::Violation;

/// Fewest and most members that a change leads to.
const MEMBERS: std::ops::RangeInclusive<usize> = 3..=6;
/// How many of a hundred attempts to reach a node succeed.
const REACHED_PERCENT: u64 = 80;
/// Once in so many steps the operator goes home; another one begins from what the nodes say.
const STEPS_PER_OPERATOR: u64 = 25;

/// Whoever changes the members at the moment.
#[derive(Debug, Default)]
pub struct Operator {
    work: Option<Work>,
}

#[derive(Debug)]
struct Work {
    change: MembershipChange,
    /// Added nodes that hold the timeline from an earlier time.
    stale: BTreeSet<NodeId>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Added nodes are made to hold the timeline.
    Create,
    /// The first switch.
    Joint,
    /// The new members must get so far.
    CatchUp(Standing),
    /// The second switch.
    Done,
}

impl Operator {
    /// One thing that an operator does. With `only_finish` no new change is begun.
    pub fn step(&mut self, world: &mut World, only_finish: bool) -> Result<(), Violation> {
        let Some(work) = &mut self.work else {
            self.work = begin(world, only_finish);
            return Ok(());
        };
        if world.random.once_in(STEPS_PER_OPERATOR) {
            marks::hit("operator.left");
            self.work = None;
            return Ok(());
        }
        match &work.phase {
            Phase::Create => match create_added(world, &work.change, &mut work.stale) {
                Created::All => work.phase = Phase::Joint,
                Created::Some => {}
                Created::Refused => {
                    marks::hit("operator.refused_other_members");
                    self.work = None;
                }
            },
            Phase::Joint => {
                if !is_of_use(world, &work.change) {
                    // Disks were lost since it was thought of. Nobody heard of it.
                    self.work = None;
                    return Ok(());
                }
                let (joint, old) = (work.change.joint(), work.change.old());
                let Some(took) = switch(world, joint, &old, true)? else {
                    self.work = None;
                    return Ok(());
                };
                if let Some(goal) = work.change.goal(&took) {
                    marks::hit("operator.joint_taken");
                    switch(world, joint, &work.change.created(), false)?;
                    work.phase = Phase::CatchUp(goal);
                }
            }
            Phase::CatchUp(goal) => {
                let standings = stand(world, &work.change, *goal)?;
                if work.change.has_caught_up(*goal, &standings) {
                    work.phase = Phase::Done;
                }
            }
            Phase::Done => {
                let done = work.change.done();
                let target = done.members.iter().map(|member| member.id).collect();
                let took = switch(world, done, &target, false)?.unwrap_or_default();
                if work.change.is_complete(&took.into_keys().collect()) {
                    finish(world, &work.change);
                    self.work = None;
                }
            }
        }
        Ok(())
    }

    /// Whether nobody works on a change, and the newest membership that a node knows is none in between.
    pub fn is_idle(&self, world: &World) -> bool {
        let memberships = world.nodes.iter().filter_map(|node| node.membership());
        let newest = memberships.max_by_key(|membership| membership.generation);
        self.work.is_none() && newest.is_some_and(|newest| newest.new_members.is_none())
    }
}

fn reached(world: &mut World) -> Vec<NodeIndex> {
    let all = 0..world.nodes.len();
    all.filter(|_| world.random.percent(REACHED_PERCENT)).collect()
}

/// Finds out what the members are, and what they shall be. Of nodes without a disk it is known that they have none.
fn begin(world: &mut World, only_finish: bool) -> Option<Work> {
    let mut known = Known::new();
    for index in reached(world) {
        let node = &world.nodes[index];
        if node.is_running() || !node.has_disk() {
            known.insert(node.id, node.membership().cloned());
        }
    }
    let newest = MembershipChange::newest(&known).ok()?.clone();
    let target = match &newest.new_members {
        Some(under_way) => {
            marks::hit("operator.goes_on");
            under_way.clone()
        }
        None if only_finish => return None,
        None => draw_target(world, &newest)?,
    };
    match MembershipChange::begin(&known, &BTreeSet::new(), target) {
        Ok(change) => {
            let change = change?;
            if !change.lost().is_empty() {
                marks::hit("operator.goes_on_without_lost");
            }
            let stale = change.stale(&known);
            Some(Work { change, stale, phase: Phase::Create })
        }
        Err(MembershipChangeError::Silent { .. }) => {
            marks::hit("operator.waits_for_silent_members");
            None
        }
        Err(_) => None,
    }
}

/// Whether the change is under way already, or its members could decide something.
fn is_of_use(world: &World, change: &MembershipChange) -> bool {
    let target = &change.done().members;
    let holds =
        |member: &&Member| world.nodes.iter().any(|node| node.id == member.id && node.is_whole());
    let taken = |node: &Node| {
        let own = node.view().map(|view| view.state.membership.generation);
        own >= Some(change.joint().generation)
    };
    let old = |node: &&Node| change.joint().members.iter().any(|member| member.id == node.id);
    world.nodes.iter().filter(old).any(taken)
        || target.iter().filter(holds).count() >= majority_of(target.len())
}

/// Adds, removes or replaces a member. Somebody who lost a disk goes first.
fn draw_target(world: &mut World, present: &Membership) -> Option<Vec<Member>> {
    let random = &mut world.random;
    let mut target = present.members.clone();
    let strangers: Vec<NodeId> =
        world.nodes.iter().map(|node| node.id).filter(|id| !present.contains(*id)).collect();
    let lost = target
        .iter()
        .position(|member| world.nodes.iter().any(|node| node.id == member.id && !node.has_disk()));
    let (adds, removes) = match random.below(3) {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    if removes || lost.is_some() {
        target.remove(lost.unwrap_or_else(|| random.index(target.len())));
    }
    if adds && !strangers.is_empty() {
        target.push(super::world::member(strangers[random.index(strangers.len())]));
    }
    // Who asks for a membership that could not even hold a log of its own?
    let keeps_log = |member: &&Member| {
        let node = world.nodes.iter().find(|node| node.id == member.id);
        !present.contains(member.id) || node.is_some_and(|node| node.has_disk())
    };
    let useful = target.iter().filter(keeps_log).count();
    (MEMBERS.contains(&target.len()) && useful >= majority_of(target.len())).then_some(target)
}

/// How far the creation on added nodes is.
enum Created {
    All,
    Some,
    /// A node holds the timeline for another change, which nobody else may have heard of.
    Refused,
}

fn create_added(
    world: &mut World,
    change: &MembershipChange,
    stale: &mut BTreeSet<NodeId>,
) -> Created {
    let create = Create { membership: change.before(), ..world.create.clone() };
    let mut missing = change.created();
    for index in reached(world) {
        let node = &world.nodes[index];
        if !missing.contains(&node.id) || node.has_disk() && !node.is_running() {
            continue;
        }
        if stale.remove(&node.id) {
            marks::hit("operator.deleted_stale");
            world.exclude(index, &change.before());
        }
        let node = &mut world.nodes[index];
        match node.membership() {
            None => {
                node.create(&create);
                world.checks.log_cut(node.id, firn_core::types::Lsn::INVALID);
            }
            Some(own) if own.generation == change.before().generation => {}
            Some(own) if own.has_members_of(change.joint()) => {}
            Some(_) => return Created::Refused,
        }
        missing.remove(&world.nodes[index].id);
    }
    match missing.is_empty() {
        true => Created::All,
        false => Created::Some,
    }
}

/// Switches those of the nodes that can be reached, the lowest id first; where those stand that took it. `None`: the operator
/// is `alone` to change the members, and one of them follows another change.
fn switch(
    world: &mut World,
    membership: &Membership,
    nodes: &BTreeSet<NodeId>,
    alone: bool,
) -> Result<Option<BTreeMap<NodeId, Standing>>, Violation> {
    world.issue(membership)?;
    let mut took = BTreeMap::new();
    for index in reached(world) {
        let node = &mut world.nodes[index];
        if !nodes.contains(&node.id) {
            continue;
        }
        match node.switch_membership(membership) {
            Ok(cuts) => {
                took.extend(node.standing().map(|standing| (node.id, standing)));
                world.node_changed(index, &cuts)?;
            }
            Err(reason) if reason.contains("other members") => {
                marks::hit("operator.refused_other_members");
                if alone {
                    return Ok(None);
                }
            }
            Err(_) => {}
        }
    }
    Ok(Some(took))
}

/// Raises the terms of the members to be; where they stand then.
fn stand(
    world: &mut World,
    change: &MembershipChange,
    goal: Standing,
) -> Result<BTreeMap<NodeId, Standing>, Violation> {
    let mut standings = BTreeMap::new();
    for index in reached(world) {
        let node = &mut world.nodes[index];
        if !change.done().contains(node.id) {
            continue;
        }
        if let Some(cuts) = node.bump_term(Some(goal.term)) {
            standings.extend(node.standing().map(|standing| (node.id, standing)));
            world.node_changed(index, &cuts)?;
        }
    }
    Ok(standings)
}

fn finish(world: &mut World, change: &MembershipChange) {
    let (old, new) = (&change.joint().members, &change.done().members);
    let is_in = |list: &[Member], id: NodeId| list.iter().any(|member| member.id == id);
    let gone: Vec<NodeId> =
        old.iter().map(|member| member.id).filter(|id| !is_in(new, *id)).collect();
    match (change.added().is_empty(), gone.is_empty()) {
        (false, true) => marks::hit("members.added"),
        (true, _) => marks::hit("members.removed"),
        (false, false) => marks::hit("members.replaced"),
    }
    let lost = |id: &NodeId| world.nodes.iter().any(|node| node.id == *id && !node.has_disk());
    if !change.added().is_empty() && gone.iter().any(lost) {
        marks::hit("members.lost_disk_replaced");
    }
    for node in reached(world) {
        world.exclude(node, change.done());
    }
}
