//! `firn timeline members`: changes a timeline's acceptors while Postgres keeps committing.
//!
//! What is asked of whom, and when it is safe, is [`MembershipChange`]'s. Every step can be repeated: the command continues
//! a change that was interrupted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use firn_core::api::{CreateTimeline, StandingStatus, TermBump, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::membership_change::{Known, LogEnd, MembershipChange, Standing};
use firn_core::types::{NodeId, TimelineKey};

use crate::client::{NodeClient, Refusal};
use crate::clock::wait_until;
use crate::commands::nodes::{KeyArguments, NodesArguments};
use crate::commands::timeline::member;

/// HTTP status of a node that does not hold the timeline.
const NOT_FOUND: u16 = 404;

/// A timeline's acceptors.
#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// Add a node; it votes once it has everything that is committed.
    Add(ChangeArguments),
    /// Remove a node; it may be gone already.
    Remove(RemoveArguments),
    /// Bring a change that was interrupted to its end.
    Finish(FinishArguments),
}

/// `firn timeline members add`.
#[derive(Debug, Args)]
pub struct ChangeArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// HTTP address of the node to add.
    #[arg(long)]
    node: String,
    #[command(flatten)]
    how: HowArguments,
}

/// `firn timeline members remove`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// Id of the node to remove.
    #[arg(long)]
    node_id: u64,
    #[command(flatten)]
    how: HowArguments,
}

/// `firn timeline members finish`.
#[derive(Debug, Args)]
pub struct FinishArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    how: HowArguments,
}

/// How a change is made.
#[derive(Debug, Args)]
pub struct HowArguments {
    /// Id of a member that is gone for good, disk and all; may be repeated.
    #[arg(long, value_name = "NODE_ID")]
    gone: Vec<u64>,
    /// How long the members to be may take to catch up, in seconds.
    #[arg(long, default_value_t = 600)]
    limit_s: u64,
    /// The membership that holds in the end as one JSON object.
    #[arg(long)]
    json: bool,
}

impl MembersCommand {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            MembersCommand::Add(arguments) => add(&arguments),
            MembersCommand::Remove(arguments) => remove(&arguments),
            MembersCommand::Finish(arguments) => finish(&arguments),
        }
    }
}

fn add(arguments: &ChangeArguments) -> Result<()> {
    let added = arguments.nodes.client(&arguments.node);
    let clients = arguments.nodes.clients();
    let mut change = Change::find(clients, arguments.key.key(), &arguments.how)?;
    let new_member = member(&added)?;
    change.ask(added)?;
    let mut target = change.newest()?.members.clone();
    if !target.iter().any(|member| member.id == new_member.id) {
        target.push(new_member);
    }
    change.run(target)
}

fn remove(arguments: &RemoveArguments) -> Result<()> {
    let clients = arguments.nodes.clients();
    let change = Change::find(clients, arguments.key.key(), &arguments.how)?;
    let mut target = change.newest()?.members.clone();
    target.retain(|member| member.id != NodeId(arguments.node_id));
    ensure!(!target.is_empty(), "node {} is the only member", arguments.node_id);
    change.run(target)
}

fn finish(arguments: &FinishArguments) -> Result<()> {
    let clients = arguments.nodes.clients();
    let change = Change::find(clients, arguments.key.key(), &arguments.how)?;
    let target = MembershipChange::under_way(&change.known())?;
    change.run(target)
}

fn tell(membership: &Membership, as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(membership)?);
    } else {
        let ids: Vec<String> =
            membership.members.iter().map(|member| member.id.to_string()).collect();
        println!("generation {}: the nodes {}", membership.generation, ids.join(", "));
    }
    Ok(())
}

/// A membership change driven over HTTP.
struct Change<'a> {
    key: TimelineKey,
    how: &'a HowArguments,
    /// The nodes that answer, old members and new, by their ids.
    clients: BTreeMap<NodeId, NodeClient>,
    /// What they know of the timeline.
    statuses: BTreeMap<NodeId, Option<TimelineStatus>>,
}

impl Change<'_> {
    /// Asks all nodes what they know; one of them holds the timeline.
    fn find(asked: Vec<NodeClient>, key: TimelineKey, how: &HowArguments) -> Result<Change<'_>> {
        let mut change = Change { key, how, clients: BTreeMap::new(), statuses: BTreeMap::new() };
        for client in asked {
            if let Err(error) = change.ask(client) {
                eprintln!("firn: {error:#}");
            }
        }
        let holds = change.statuses.values().any(Option::is_some);
        ensure!(holds, "no node told about timeline {key}");
        Ok(change)
    }

    fn ask(&mut self, client: NodeClient) -> Result<()> {
        let node = client.status()?;
        let status = match client.timeline(self.key) {
            Ok(status) => Some(status),
            Err(error) if holds_none(&error) => {
                eprintln!("firn: {error:#}");
                None
            }
            Err(error) => return Err(error),
        };
        self.statuses.insert(node.id, status);
        self.clients.insert(node.id, client);
        Ok(())
    }

    fn known(&self) -> Known {
        let membership =
            |status: &Option<TimelineStatus>| status.as_ref().map(|status| status.mconf.clone());
        self.statuses.iter().map(|(id, status)| (*id, membership(status))).collect()
    }

    fn newest(&self) -> Result<Membership> {
        Ok(MembershipChange::newest(&self.known())?.clone())
    }

    /// Makes `target` the members, and tells the membership that holds in the end. Says on standard error how far it is.
    fn run(mut self, target: Vec<Member>) -> Result<()> {
        let gone = self.how.gone.iter().map(|id| NodeId(*id)).collect();
        let held = match MembershipChange::begin(&self.known(), &gone, target)? {
            Some(change) => self.make(&change)?,
            None => {
                eprintln!("firn: nothing to change");
                let newest = self.newest()?;
                // Somebody may have gone away between the last switch's nodes.
                let all = newest.all().map(|member| member.id).collect();
                self.switch(&newest, &all, false)?;
                newest
            }
        };
        self.exclude_others(&held);
        tell(&held, self.how.json)
    }

    fn make(&mut self, change: &MembershipChange) -> Result<Membership> {
        for id in change.lost() {
            eprintln!(
                "firn: node {id} has lost the timeline; the change goes on without it. Replace it afterwards"
            );
        }
        self.create_where_missing(change)?;
        let (joint, done) = (change.joint(), change.done());
        let took_joint = self.switch(joint, &change.old(), true)?;
        let goal = change.goal(&took_joint).with_context(|| too_few(joint, took_joint.len()))?;
        self.switch(joint, &change.created(), false)?;
        eprintln!("firn: generation {}: old and new members together", joint.generation);
        self.wait_for_catch_up(change, goal, Duration::from_secs(self.how.limit_s))?;
        let target: BTreeSet<NodeId> = done.members.iter().map(|member| member.id).collect();
        let took_done: BTreeSet<NodeId> = self.switch(done, &target, false)?.into_keys().collect();
        ensure!(change.is_complete(&took_done), too_few(done, took_done.len()));
        Ok(done.clone())
    }

    /// Creates the timeline on added members that do not hold it. Nobody hears of the change before all of them do.
    fn create_where_missing(&mut self, change: &MembershipChange) -> Result<()> {
        let example = self.statuses.values().flatten().max_by_key(|status| status.mconf.generation);
        let example = example.context("no node told about the timeline")?;
        let body = CreateTimeline::added_to(example, change.before());
        let stale = change.stale(&self.known());
        for id in change.missing(&self.known()) {
            let client = self.clients.get(&id).with_context(|| {
                format!("node {id} does not answer; if it is gone for good, say --gone {id}")
            })?;
            if stale.contains(&id) {
                eprintln!(
                    "firn: node {id} holds the timeline from an earlier time: deleting it there"
                );
                client.exclude(self.key, &change.before())?;
            }
            client.create(&body)?;
            self.statuses.insert(id, Some(client.timeline(self.key)?));
        }
        Ok(())
    }

    /// Switches those of the nodes that answer, the lowest id first; where those stand that took it and can be relied on.
    /// With `alone` it ends at the first that refuses: another change has begun there.
    fn switch(
        &self,
        membership: &Membership,
        nodes: &BTreeSet<NodeId>,
        alone: bool,
    ) -> Result<BTreeMap<NodeId, Standing>> {
        let mut took = BTreeMap::new();
        for (id, client) in self.clients.iter().filter(|(id, _)| nodes.contains(id)) {
            if !self.may_take(*id, membership) {
                continue;
            }
            if let Err(error) = client.switch_membership(self.key, membership) {
                if alone && error.is::<Refusal>() {
                    return Err(error.context(format!(
                        "node {id} does not take generation {}; run the command again",
                        membership.generation
                    )));
                }
                eprintln!("firn: {error:#}");
                continue;
            }
            match client.timeline(self.key) {
                Ok(status) => took.extend(Standing::of(&status).map(|standing| (*id, standing))),
                Err(error) => eprintln!("firn: {error:#}"),
            }
        }
        Ok(took)
    }

    /// Whether a node, by what it said at first, can be relied on and does not know better already.
    fn may_take(&self, id: NodeId, membership: &Membership) -> bool {
        let Some(Some(status)) = self.statuses.get(&id) else { return false };
        let known = &status.mconf;
        if status.standing != StandingStatus::Whole {
            return false;
        }
        match known.generation.cmp(&membership.generation) {
            Ordering::Less => true,
            Ordering::Equal => known.has_members_of(membership),
            Ordering::Greater => false,
        }
    }

    fn wait_for_catch_up(
        &self,
        change: &MembershipChange,
        goal: Standing,
        limit: Duration,
    ) -> Result<()> {
        let LogEnd { last_log_term, lsn } = goal.log_end;
        eprintln!(
            "firn: waiting until the members have everything up to {lsn} of term {last_log_term}"
        );
        let caught_up = || {
            let mut standings = BTreeMap::new();
            for (id, client) in self.clients.iter().filter(|(id, _)| change.done().contains(**id)) {
                let raised = client.bump_term(self.key, TermBump { term: Some(goal.term) });
                if raised.is_ok()
                    && let Ok(status) = client.timeline(self.key)
                {
                    standings.extend(Standing::of(&status).map(|standing| (*id, standing)));
                }
            }
            Ok(change.has_caught_up(goal, &standings).then_some(()))
        };
        wait_until(limit, caught_up)?.with_context(|| {
            format!(
                "the new members do not have {lsn} after {limit:?}; is the relay running? Run the command again"
            )
        })
    }

    /// Removes the timeline from nodes that are no members any more, where they can be reached.
    fn exclude_others(&self, done: &Membership) {
        for client in self.clients.iter().filter(|(id, _)| !done.contains(**id)).map(|(_, c)| c) {
            if let Err(error) = client.exclude(self.key, done) {
                eprintln!("firn: {error:#}");
            }
        }
    }
}

fn holds_none(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == NOT_FOUND)
}

fn too_few(membership: &Membership, took: usize) -> String {
    format!(
        "generation {} was taken by {took} nodes, which is no majority of the members that it needs; run the command again",
        membership.generation
    )
}
