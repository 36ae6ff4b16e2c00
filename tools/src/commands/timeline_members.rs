//! `firn timeline members`: changes a timeline's acceptors while Postgres keeps committing.
//!
//! Two switches. First a joint configuration, in which a quorum needs a majority of the old members and one of the new:
//! the relay brings the added member up while the old ones carry the commits. Then, when a majority of the new members
//! has everything that the old ones can have committed alone, the new members alone. That is more than what nodes know
//! to be committed: a majority of the old members had it in their logs when they took the joint configuration. Each switch counts once a majority of its members took it,
//! and every step can be repeated: the command continues a change that was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use firn_core::api::{CreateTimeline, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership, majority_of};
use firn_core::types::{Generation, Lsn, NodeId, Term, TimelineKey};

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
    let new_member = member(&added)?;
    let mut change = Change::find(&arguments.nodes, arguments.key.key())?;
    let mut target = change.present.members.clone();
    if !target.iter().any(|member| member.id == new_member.id) {
        target.push(new_member);
    }
    change.clients.push(added);
    change.run(target, Duration::from_secs(arguments.limit_s))
}

fn remove(arguments: &RemoveArguments) -> Result<()> {
    let change = Change::find(&arguments.nodes, arguments.key.key())?;
    let mut target = change.present.members.clone();
    target.retain(|member| member.id != NodeId(arguments.node_id));
    ensure!(!target.is_empty(), "node {} is the only member", arguments.node_id);
    change.run(target, Duration::from_secs(arguments.limit_s))
}

/// The last term and the end of a log: of two logs the one with the greater pair has everything that the other one can
/// have committed.
type LogEnd = (Term, Lsn);

/// A membership change under way.
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
        let present = example.mconf.clone();
        ensure!(
            present.generation > Generation(0),
            "the timeline has no membership: it was created on push by a Neon compute"
        );
        let example = example.clone();
        Ok(Change { key, clients: nodes.clients(), present, example })
    }

    fn run(mut self, target: Vec<Member>, limit: Duration) -> Result<()> {
        let target_ids = ids(&target);
        if self.present.new_members.is_none() && ids(&self.present.members) == target_ids {
            println!("nothing to change (generation {})", self.present.generation);
            return Ok(());
        }
        let joint = match &self.present.new_members {
            Some(under_way) => {
                ensure!(
                    ids(under_way) == target_ids,
                    "another change is under way, to the nodes {:?}: finish that one first",
                    ids(under_way)
                );
                self.present.clone()
            }
            None => Membership {
                generation: Generation(self.present.generation.0 + 1),
                members: self.present.members.clone(),
                new_members: Some(target.clone()),
            },
        };
        self.create_where_missing(&joint)?;
        let goal = self.switch(&joint, &joint.members)?;
        println!("generation {}: old and new members together", joint.generation);
        self.wait_for_catch_up(&target, goal, limit)?;
        let done = Membership {
            generation: Generation(joint.generation.0 + 1),
            members: target.clone(),
            new_members: None,
        };
        self.switch(&done, &target)?;
        println!("generation {}: the nodes {:?}", done.generation, target_ids);
        self.exclude_others(&done);
        self.present = done;
        Ok(())
    }

    /// Creates the timeline on new members that do not hold it.
    fn create_where_missing(&self, joint: &Membership) -> Result<()> {
        let old = ids(&self.present.members);
        let body = CreateTimeline {
            key: self.key,
            mconf: joint.clone(),
            pg_version: self.example.pg_info.pg_version,
            system_id: Some(self.example.pg_info.system_id),
            wal_seg_size: Some(self.example.pg_info.wal_seg_size),
            start_lsn: self.example.timeline_start_lsn,
            commit_lsn: None,
        };
        for client in &self.clients {
            let Ok(status) = client.status() else { continue };
            if joint.contains(status.id) && !old.contains(&status.id) {
                client.create(&body)?;
            }
        }
        Ok(())
    }

    /// Switches every node of the membership that can be reached; a majority of `needed` must take it. The end of the most
    /// advanced log among these: nothing past it was committed before.
    fn switch(&self, membership: &Membership, needed: &[Member]) -> Result<LogEnd> {
        let mut ends = BTreeMap::new();
        for client in &self.clients {
            let switched = client.status().and_then(|status| {
                if !membership.contains(status.id) {
                    return Ok(());
                }
                let switched = client.switch_membership(self.key, membership)?;
                let is_there = switched.current_conf.generation >= membership.generation;
                if is_there && needed.iter().any(|member| member.id == status.id) {
                    ends.insert(status.id, (switched.last_log_term, switched.flush_lsn));
                }
                Ok(())
            });
            switched.unwrap_or_else(|error| eprintln!("firn: {error:#}"));
        }
        ensure!(
            ends.len() >= majority_of(needed.len()),
            "generation {} was taken by {} of {} nodes, which is no majority; run the command again",
            membership.generation,
            ends.len(),
            needed.len()
        );
        Ok(ends.into_values().max().unwrap_or_default())
    }

    /// Waits until a majority of `target`, with every added node among them, has a log that reaches `goal`.
    fn wait_for_catch_up(&self, target: &[Member], goal: LogEnd, limit: Duration) -> Result<()> {
        println!("waiting until the members have everything up to {} of term {}", goal.1, goal.0);
        let old = ids(&self.present.members);
        let caught_up = || {
            let mut behind: BTreeSet<NodeId> = ids(target);
            for client in &self.clients {
                if let (Ok(node), Ok(status)) = (client.status(), client.timeline(self.key))
                    && (status.acceptor_state.epoch, status.flush_lsn) >= goal
                {
                    behind.remove(&node.id);
                }
            }
            let added_is_behind = behind.iter().any(|id| !old.contains(id));
            let has_majority = target.len() - behind.len() >= majority_of(target.len());
            Ok((has_majority && !added_is_behind).then_some(()))
        };
        wait_until(limit, caught_up)?.with_context(|| {
            format!(
                "the new members do not have {} after {limit:?}; is the relay running? Run the command again",
                goal.1
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

fn ids(members: &[Member]) -> BTreeSet<NodeId> {
    members.iter().map(|member| member.id).collect()
}
