//! `firn timeline members`: changes a timeline's acceptors while Postgres keeps committing.
//!
//! What is asked of whom, and when it is safe, is [`MembershipChange`]'s. Every step can be repeated: the command continues
//! a change that was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use firn_core::api::{AcceptorStatus, CreateTimeline, TermBump, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::membership_change::{LogEnd, MembershipChange, Standing};
use firn_core::types::{NodeId, TimelineKey};

use crate::client::NodeClient;
use crate::clock::wait_until;
use crate::commands::nodes::{KeyArguments, NodesArguments};
use crate::commands::timeline::member;

/// A timeline's acceptors.
#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// Add a node; it votes once it has everything that is committed.
    Add(ChangeArguments),
    /// Remove a node; it may be gone already.
    Remove(RemoveArguments),
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
    /// How long the added node may take to catch up, in seconds.
    #[arg(long, default_value_t = 600)]
    limit_s: u64,
    /// The membership that holds in the end as one JSON object.
    #[arg(long)]
    json: bool,
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
    /// How long the remaining nodes may take to catch up, in seconds.
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
        }
    }
}

fn add(arguments: &ChangeArguments) -> Result<()> {
    let added = arguments.nodes.client(&arguments.node);
    let mut change = Change::find(&arguments.nodes, arguments.key.key())?;
    let new_member = member(&added)?;
    let mut target = change.present.members.clone();
    if !target.iter().any(|member| member.id == new_member.id) {
        target.push(new_member);
    }
    change.clients.push(added);
    tell(&change.run(target, Duration::from_secs(arguments.limit_s))?, arguments.json)
}

fn remove(arguments: &RemoveArguments) -> Result<()> {
    let change = Change::find(&arguments.nodes, arguments.key.key())?;
    let mut target = change.present.members.clone();
    target.retain(|member| member.id != NodeId(arguments.node_id));
    ensure!(!target.is_empty(), "node {} is the only member", arguments.node_id);
    tell(&change.run(target, Duration::from_secs(arguments.limit_s))?, arguments.json)
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
struct Change {
    key: TimelineKey,
    /// The nodes that may be reached, old members and new.
    clients: Vec<NodeClient>,
    /// The membership of the highest generation that any node has.
    present: Membership,
    /// What one of the nodes knows of the timeline.
    example: TimelineStatus,
}

impl Change {
    fn find(nodes: &NodesArguments, key: TimelineKey) -> Result<Change> {
        let statuses = nodes.statuses(key)?;
        let newest = statuses.iter().max_by_key(|(_, status)| status.mconf.generation);
        let (_, example) = newest.context("no node told about the timeline")?;
        let (present, example) = (example.mconf.clone(), example.clone());
        Ok(Change { key, clients: nodes.clients(), present, example })
    }

    /// Makes `target` the members; the membership that holds in the end. Says on standard error how far it is.
    fn run(self, target: Vec<Member>, limit: Duration) -> Result<Membership> {
        let Some(change) = MembershipChange::begin(&self.present, target)? else {
            eprintln!("firn: nothing to change");
            return Ok(self.present);
        };
        self.create_where_missing(&change)?;
        let (joint, done) = (change.joint(), change.done());
        let took_joint = self.switch(joint);
        let goal = change.goal(&took_joint).with_context(|| too_few(joint, took_joint.len()))?;
        eprintln!("firn: generation {}: old and new members together", joint.generation);
        self.wait_for_catch_up(&change, goal, limit)?;
        let took_done: BTreeSet<NodeId> = self.switch(done).into_keys().collect();
        ensure!(change.is_complete(&took_done), too_few(done, took_done.len()));
        self.exclude_others(done);
        Ok(done.clone())
    }

    /// Creates the timeline on added members that do not hold it.
    fn create_where_missing(&self, change: &MembershipChange) -> Result<()> {
        let added = change.added();
        let body = CreateTimeline {
            key: self.key,
            mconf: change.joint().clone(),
            pg_version: self.example.pg_info.pg_version,
            system_id: Some(self.example.pg_info.system_id),
            wal_seg_size: Some(self.example.pg_info.wal_seg_size),
            start_lsn: self.example.timeline_start_lsn,
            commit_lsn: None,
        };
        for client in &self.clients {
            let Ok(status) = client.status() else { continue };
            if added.contains(&status.id) {
                client.create(&body)?;
            }
        }
        Ok(())
    }

    /// Switches every node of the membership that can be reached; where those stand that took it.
    fn switch(&self, membership: &Membership) -> BTreeMap<NodeId, Standing> {
        let mut took = BTreeMap::new();
        for client in &self.clients {
            let switched = client.status().and_then(|status| {
                if !membership.contains(status.id) {
                    return Ok(());
                }
                client.switch_membership(self.key, membership)?;
                took.insert(status.id, standing(&client.timeline(self.key)?));
                Ok(())
            });
            switched.unwrap_or_else(|error| eprintln!("firn: {error:#}"));
        }
        took
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
            for client in &self.clients {
                let Ok(node) = client.status() else { continue };
                if !change.done().contains(node.id) {
                    continue;
                }
                let raised = client.bump_term(self.key, TermBump { term: Some(goal.term) });
                if raised.is_ok()
                    && let Ok(status) = client.timeline(self.key)
                {
                    standings.insert(node.id, standing(&status));
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
        for client in &self.clients {
            let excluded = client.status().and_then(|status| {
                if done.contains(status.id) {
                    return Ok(());
                }
                client.exclude(self.key, done).map(|_| ())
            });
            if let Err(error) = excluded {
                eprintln!("firn: {error:#}");
            }
        }
    }
}

fn standing(status: &TimelineStatus) -> Standing {
    let AcceptorStatus { term, epoch, .. } = status.acceptor_state;
    Standing { term, log_end: LogEnd { last_log_term: epoch, lsn: status.flush_lsn } }
}

fn too_few(membership: &Membership, took: usize) -> String {
    format!(
        "generation {} was taken by {took} nodes, which is no majority of the members that it needs; run the command again",
        membership.generation
    )
}
