//! A change of a timeline's acceptors while its proposer goes on: what whoever drives it asks of which node, and when the
//! next step is safe. `firn timeline members` drives it over HTTP, the simulations in their own ways.
//!
//! Two switches. First a *joint* membership, in which a quorum is a majority of the old members and one of the new: the
//! added nodes are brought up while the old ones carry the commits. Then, once a majority of the new members has
//! everything that the old ones can have committed alone, the new members alone. That is more than what nodes know to be
//! committed: it is the most advanced log among a majority of the old members when these took the joint membership, from
//! which on they take nothing of a proposer that counts the old way. The highest term among them goes along: a proposer
//! of the new members must not win a term that was won before.
//!
//! Every step can be repeated, by anyone: a change that was interrupted is gone on with. Two that begin at once take the
//! same generation; a node keeps to the first that it hears of, so at most one of them gets a majority.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::consensus::membership::{Member, Membership, majority_of};
use crate::types::{Generation, Lsn, NodeId, Term};

/// How far an acceptor is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Highest term voted for or learned.
    pub term: Term,
    /// Where its durable log ends.
    pub log_end: LogEnd,
}

/// Where a log ends: of two, the one with the greater has everything that the other one's quorums can have committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// Term of the log's last record.
    pub last_log_term: Term,
    /// End of the log.
    pub lsn: Lsn,
}

impl Standing {
    fn reaches(self, goal: Standing) -> bool {
        self.term >= goal.term && self.log_end >= goal.log_end
    }
}

/// Why a change does not begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipChangeError {
    /// The timeline was created on push.
    #[error("the timeline has no membership: it was created on push by a Neon compute")]
    NoMembership,
    /// Nobody would be left.
    #[error("a membership needs at least one member")]
    NoMembers,
    /// Another change was begun and not finished.
    #[error("another change is under way, to the nodes {target:?}: finish that one first")]
    AnotherUnderWay {
        /// The members that it leads to.
        target: BTreeSet<NodeId>,
    },
}

/// A change under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChange {
    joint: Membership,
    done: Membership,
}

impl MembershipChange {
    /// From the newest membership that any node has to the members of `target`; `None` when these are its members.
    pub fn begin(
        present: &Membership,
        target: Vec<Member>,
    ) -> Result<Option<MembershipChange>, MembershipChangeError> {
        if present.generation == Generation(0) {
            return Err(MembershipChangeError::NoMembership);
        }
        if target.is_empty() {
            return Err(MembershipChangeError::NoMembers);
        }
        let joint = match &present.new_members {
            None if ids(&present.members) == ids(&target) => return Ok(None),
            None => Membership {
                generation: Generation(present.generation.0 + 1),
                members: present.members.clone(),
                new_members: Some(target.clone()),
            },
            Some(under_way) if ids(under_way) == ids(&target) => present.clone(),
            Some(under_way) => {
                let target = ids(under_way);
                return Err(MembershipChangeError::AnotherUnderWay { target });
            }
        };
        let done = Membership {
            generation: Generation(joint.generation.0 + 1),
            members: target,
            new_members: None,
        };
        Ok(Some(MembershipChange { joint, done }))
    }

    /// The first switch: of all its members that can be reached. Nodes that are [`Self::added`] and do not hold the timeline
    /// are made to hold it under this membership before.
    pub fn joint(&self) -> &Membership {
        &self.joint
    }

    /// The second switch, of all its members that can be reached.
    pub fn done(&self) -> &Membership {
        &self.done
    }

    /// The members to be that are none yet.
    pub fn added(&self) -> BTreeSet<NodeId> {
        ids(&self.done.members).difference(&ids(&self.joint.members)).copied().collect()
    }

    /// What the new members need before the second switch, given where the nodes stand that took the joint membership, asked
    /// after they had taken it; `None` while too few of the old members did.
    pub fn goal(&self, took_joint: &BTreeMap<NodeId, Standing>) -> Option<Standing> {
        let old = ids(&self.joint.members);
        let of_old = took_joint.iter().filter(|(id, _)| old.contains(id));
        let standings: Vec<Standing> = of_old.map(|(_, standing)| *standing).collect();
        let term = standings.iter().map(|standing| standing.term).max()?;
        let log_end = standings.iter().map(|standing| standing.log_end).max()?;
        (standings.len() >= majority_of(old.len())).then_some(Standing { term, log_end })
    }

    /// Whether a majority of the new members, with every added one among them, stands at `goal` or further. Each is asked
    /// where it stands after its term was raised to the goal's: then what it says of terms is durable.
    pub fn has_caught_up(&self, goal: Standing, standings: &BTreeMap<NodeId, Standing>) -> bool {
        let reached =
            |id: &NodeId| standings.get(id).is_some_and(|standing| standing.reaches(goal));
        let target = ids(&self.done.members);
        let count = target.iter().filter(|id| reached(id)).count();
        count >= majority_of(target.len()) && self.added().iter().all(reached)
    }

    /// Whether enough nodes took the second switch: the change is complete, and what is no member any more may be deleted.
    pub fn is_complete(&self, took_done: &BTreeSet<NodeId>) -> bool {
        let target = ids(&self.done.members);
        target.intersection(took_done).count() >= majority_of(target.len())
    }
}

fn ids(members: &[Member]) -> BTreeSet<NodeId> {
    members.iter().map(|member| member.id).collect()
}

#[cfg(test)]
mod tests;
