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
//! Every step can be repeated, by anyone: a change that was interrupted is gone on with, or is shown to have no majority and
//! is passed over. Therefore a change begins with what all members know, but for those that are gone for good.
//!
//! Two that begin at once take the same generation; a node keeps to the first that it hears of, so at most one of them gets
//! a majority of the old members. Whoever drives a change asks the members in the order of their ids and stops at the first
//! that knows another one: as long as the first of them can be reached, nobody else hears of the second change.
//!
//! *A node is created for a change once only*, before any old member takes the joint membership. One that does not hold the
//! timeline afterwards has lost it, and with it WAL that the second switch may have relied on: the change is completed without
//! it, and another one replaces it.
//!
//! *Nobody hears of the joint membership before the old members do.* An added node is made to hold the timeline under the
//! membership that the change leads away from, of which it is no member. It takes the joint one when a majority of the old
//! members has: otherwise a proposer could learn from it a change that is given up, and tell old members, while another
//! change of the same generation is under way.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::api::{StandingStatus, TimelineStatus};
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
    /// Where an acceptor stands by its status; `None` of one that may have forgotten what it promised: nobody relies on its
    /// log before it is re-seeded.
    pub fn of(status: &TimelineStatus) -> Option<Standing> {
        let (term, last_log_term) = (status.acceptor_state.term, status.acceptor_state.epoch);
        let log_end = LogEnd { last_log_term, lsn: status.flush_lsn };
        (status.standing == StandingStatus::Whole).then_some(Standing { term, log_end })
    }

    fn reaches(self, goal: Standing) -> bool {
        self.term >= goal.term && self.log_end >= goal.log_end
    }
}

/// Why a change does not begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipChangeError {
    /// Nobody holds the timeline.
    #[error("no node holds the timeline")]
    NobodyHoldsIt,
    /// The timeline was created on push.
    #[error("the timeline has no membership: it was created on push by a Neon compute")]
    NoMembership,
    /// Nobody would be left.
    #[error("a membership needs at least one member")]
    NoMembers,
    /// Another change was begun and not finished.
    #[error(
        "another change is under way, to the nodes {}: finish that one first (firn timeline members finish)",
        list(.target)
    )]
    AnotherUnderWay {
        /// The members that it leads to.
        target: BTreeSet<NodeId>,
    },
    /// Members did not say what they know.
    #[error(
        "the members {} do not answer, and one of them may know of a change that is under way: start them, or tell which are gone for good (--gone)",
        list(.nodes)
    )]
    Silent {
        /// Who.
        nodes: BTreeSet<NodeId>,
    },
    /// Too few of the members hold the timeline to know what they decided.
    #[error(
        "only {holding} of the members {} tell what they know, which is no majority: start more of them",
        list(.members)
    )]
    TooFew {
        /// How many do.
        holding: usize,
        /// Of these.
        members: BTreeSet<NodeId>,
    },
    /// The members to be could not decide anything.
    #[error(
        "of the members to be {} only {holding} would hold the timeline, which is no majority: replace the nodes that lost it first",
        list(.target)
    )]
    TooFewOfTarget {
        /// How many would.
        holding: usize,
        /// Of these.
        target: BTreeSet<NodeId>,
    },
    /// Two changes were begun at once, and either may have been taken by a majority.
    #[error(
        "two changes of generation {generation} were begun at once, and the nodes {} decide between them: start those with the disks that they had",
        list(.unknown)
    )]
    Undecided {
        /// The generation of both.
        generation: Generation,
        /// Whose answers are missing.
        unknown: BTreeSet<NodeId>,
    },
}

/// What nodes say of the timeline: the membership that they have it with, or that they do not hold it.
pub type Known = BTreeMap<NodeId, Option<Membership>>;

/// A change under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChange {
    joint: Membership,
    done: Membership,
    /// Added members that lost the timeline since they were made to hold it.
    lost: BTreeSet<NodeId>,
    /// Added members that follow another change of the joint membership's generation, which was not gone on with. They are
    /// not waited for, and take the second switch.
    astray: BTreeSet<NodeId>,
}

impl MembershipChange {
    /// The newest membership that anybody knows.
    pub fn newest(known: &Known) -> Result<&Membership, MembershipChangeError> {
        let newest = known.values().flatten().max_by_key(|membership| membership.generation);
        match newest {
            None => Err(MembershipChangeError::NobodyHoldsIt),
            Some(newest) if newest.generation == Generation(0) => {
                Err(MembershipChangeError::NoMembership)
            }
            Some(newest) => Ok(newest),
        }
    }

    /// The members that the change under way leads to, when it is to be gone on with; otherwise the members of now.
    pub fn under_way(known: &Known) -> Result<Vec<Member>, MembershipChangeError> {
        let newest = Self::newest(known)?;
        let present = decided(known, newest)?;
        let target = present.new_members.or_else(|| newest.new_members.clone());
        Ok(target.unwrap_or(present.members))
    }

    /// The change to the members of `target`, given what all nodes say and which members are gone for good: a new one, or that
    /// one gone on with; `None` when these are the members.
    pub fn begin(
        known: &Known,
        gone: &BTreeSet<NodeId>,
        target: Vec<Member>,
    ) -> Result<Option<MembershipChange>, MembershipChangeError> {
        let newest = Self::newest(known)?;
        if target.is_empty() {
            return Err(MembershipChangeError::NoMembers);
        }
        let present = decided(known, newest)?;
        let holding = |list: &[Member]| {
            list.iter().filter(|member| matches!(known.get(&member.id), Some(Some(_)))).count()
        };
        let (members, count) = (ids(&present.members), holding(&present.members));
        if count < majority_of(members.len()) {
            return Err(MembershipChangeError::TooFew { holding: count, members });
        }
        let joint = match &present.new_members {
            None if members == ids(&target) => return Ok(None),
            Some(under_way) if ids(under_way) == ids(&target) => present.clone(),
            Some(under_way) => {
                let target = ids(under_way);
                return Err(MembershipChangeError::AnotherUnderWay { target });
            }
            None => {
                let silent = |id: &NodeId| !known.contains_key(id) && !gone.contains(id);
                let nodes: BTreeSet<NodeId> = members.iter().copied().filter(silent).collect();
                if !nodes.is_empty() {
                    return Err(MembershipChangeError::Silent { nodes });
                }
                let added = target.iter().filter(|member| !members.contains(&member.id)).count();
                let kept: Vec<Member> =
                    target.iter().filter(|member| members.contains(&member.id)).cloned().collect();
                let holding = added + holding(&kept);
                if holding < majority_of(target.len()) {
                    let target = ids(&target);
                    return Err(MembershipChangeError::TooFewOfTarget { holding, target });
                }
                Membership {
                    generation: Generation(newest.generation.0 + 1),
                    members: present.members.clone(),
                    new_members: Some(target.clone()),
                }
            }
        };
        let generation = Generation(joint.generation.0 + 1);
        let done = Membership { generation, members: target, new_members: None };
        let mut change =
            MembershipChange { joint, done, lost: BTreeSet::new(), astray: BTreeSet::new() };
        let taken = change.joint.members.iter().any(|member| {
            let own = known.get(&member.id).and_then(Option::as_ref);
            own.is_some_and(|own| own.generation >= change.joint.generation)
        });
        if taken {
            let lacks = |id: &NodeId| known.get(id) == Some(&None) || gone.contains(id);
            change.lost = change.added().into_iter().filter(lacks).collect();
            let follows_another = |id: &NodeId| {
                let own = known.get(id).and_then(Option::as_ref);
                own.is_some_and(|own| {
                    own.generation == change.joint.generation && !own.has_members_of(&change.joint)
                })
            };
            change.astray = change.added().into_iter().filter(follows_another).collect();
        }
        Ok(Some(change))
    }

    /// What the change leads away from, and under which added nodes are made to hold the timeline. A node to be
    /// [`Self::created`] that holds it from an earlier time is no member of this one and deletes it first.
    pub fn before(&self) -> Membership {
        let generation = Generation(self.joint.generation.0 - 1);
        Membership { generation, members: self.joint.members.clone(), new_members: None }
    }

    /// Nodes that hold the timeline from an earlier time and are to be created.
    pub fn stale(&self, known: &Known) -> BTreeSet<NodeId> {
        let own = |id: &NodeId| known.get(id).and_then(Option::as_ref);
        let earliest = self.before().generation;
        let is_stale = |id: &NodeId| own(id).is_some_and(|own| own.generation < earliest);
        self.created().into_iter().filter(is_stale).collect()
    }

    /// Nodes that are to be created and do not hold the timeline, or only from an earlier time.
    pub fn missing(&self, known: &Known) -> BTreeSet<NodeId> {
        let stale = self.stale(known);
        let is_missing =
            |id: &NodeId| stale.contains(id) || !matches!(known.get(id), Some(Some(_)));
        self.created().into_iter().filter(is_missing).collect()
    }

    /// The first switch: of all [`Self::old`] members that can be reached, in the order of their ids, and when a majority of
    /// them took it of the added ones. Before, all nodes that are to be [`Self::created`] hold the timeline.
    pub fn joint(&self) -> &Membership {
        &self.joint
    }

    /// The members that the change leads away from.
    pub fn old(&self) -> BTreeSet<NodeId> {
        ids(&self.joint.members)
    }

    /// The second switch, of all its members that can be reached.
    pub fn done(&self) -> &Membership {
        &self.done
    }

    /// The members to be that are none yet.
    pub fn added(&self) -> BTreeSet<NodeId> {
        ids(&self.done.members).difference(&ids(&self.joint.members)).copied().collect()
    }

    /// The added members that are made to hold the timeline, unless they do, before anybody hears of the joint membership;
    /// without those that lost it since or follow another change.
    pub fn created(&self) -> BTreeSet<NodeId> {
        let is_left = |id: &NodeId| !self.lost.contains(id) && !self.astray.contains(id);
        self.added().into_iter().filter(is_left).collect()
    }

    /// Added members that lost the timeline while the change was under way: they are to be replaced by another one.
    pub fn lost(&self) -> &BTreeSet<NodeId> {
        &self.lost
    }

    /// What the new members need before the second switch, given where the nodes stand that took the joint membership, asked
    /// after they had taken it; `None` while too few of the old members did.
    pub fn goal(&self, took_joint: &BTreeMap<NodeId, Standing>) -> Option<Standing> {
        let old = self.old();
        let of_old = took_joint.iter().filter(|(id, _)| old.contains(id));
        let standings: Vec<Standing> = of_old.map(|(_, standing)| *standing).collect();
        let term = standings.iter().map(|standing| standing.term).max()?;
        let log_end = standings.iter().map(|standing| standing.log_end).max()?;
        (standings.len() >= majority_of(old.len())).then_some(Standing { term, log_end })
    }

    /// Whether a majority of the new members, with every added one among them that is not lost, stands at `goal` or further.
    /// Each is asked where it stands after its term was raised to the goal's: then what it says of terms is durable.
    pub fn has_caught_up(&self, goal: Standing, standings: &BTreeMap<NodeId, Standing>) -> bool {
        let reached =
            |id: &NodeId| standings.get(id).is_some_and(|standing| standing.reaches(goal));
        let target = ids(&self.done.members);
        let count = target.iter().filter(|id| reached(id)).count();
        count >= majority_of(target.len()) && self.created().iter().all(reached)
    }

    /// Whether enough nodes took the second switch: the change is complete, and what is no member any more may be deleted.
    pub fn is_complete(&self, took_done: &BTreeSet<NodeId>) -> bool {
        let target = ids(&self.done.members);
        target.intersection(took_done).count() >= majority_of(target.len())
    }
}

/// The newest membership. Of several in the newest generation the one that a majority of the old members can still take, of
/// two such the one that more of them took; when none of them ever can, what they all began from.
fn decided(known: &Known, newest: &Membership) -> Result<Membership, MembershipChangeError> {
    let generation = newest.generation;
    let mut candidates: Vec<&Membership> = Vec::new();
    for membership in known.values().flatten().filter(|known| known.generation == generation) {
        if !candidates.iter().any(|candidate| candidate.has_members_of(membership)) {
            candidates.push(membership);
        }
    }
    if candidates.len() == 1 {
        return Ok(newest.clone());
    }
    let old = ids(&newest.members);
    let answer = |id: &NodeId| known.get(id).and_then(Option::as_ref);
    let unknown: BTreeSet<NodeId> = old.iter().filter(|id| answer(id).is_none()).copied().collect();
    let free = old.iter().filter(|id| answer(id).is_some_and(|own| own.generation < generation));
    let free = free.count();
    let took = |candidate: &Membership| {
        let has_it = |id: &&NodeId| {
            let own = answer(id);
            own.is_some_and(|own| own.generation == generation && own.has_members_of(candidate))
        };
        old.iter().filter(has_it).count()
    };
    let majority = majority_of(old.len());
    let can_win = candidates.iter().filter(|candidate| took(candidate) + free >= majority);
    if let Some(winner) = can_win.max_by_key(|candidate| (took(candidate), ids_of(candidate))) {
        return Ok((*winner).clone());
    }
    if candidates.iter().all(|candidate| took(candidate) + unknown.len() < majority) {
        return Ok(Membership { generation, members: newest.members.clone(), new_members: None });
    }
    Err(MembershipChangeError::Undecided { generation, unknown })
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let ids: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    ids.join(", ")
}

fn ids_of(membership: &Membership) -> BTreeSet<NodeId> {
    membership.all().map(|member| member.id).collect()
}

fn ids(members: &[Member]) -> BTreeSet<NodeId> {
    members.iter().map(|member| member.id).collect()
}

#[cfg(test)]
mod tests;
