//! Which nodes are a timeline's acceptors, and how many of them make a quorum.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Generation, Lsn, NodeId};

/// Most members in one of a membership's lists: Neon's computes know no more acceptors.
pub const MEMBERS_MAX: usize = 32;
/// Longest host name, in bytes: the bound of DNS.
pub const HOST_BYTES_MAX: usize = 255;

/// One acceptor of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Host name or address of its Postgres-protocol port.
    pub host: String,
    /// Its Postgres-protocol port.
    pub pg_port: u16,
}

impl Member {
    /// Where its Postgres-protocol port is reached: `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.pg_port),
            false => format!("{}:{}", self.host, self.pg_port),
        }
    }
}

/// A membership configuration. While `new_members` is there (a joint configuration) a quorum is a majority of
/// `members` *and* a majority of `new_members`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// 0 = none: no members are listed and any acceptor that is asked takes part.
    pub generation: Generation,
    /// Not empty when `generation` is not 0; ids are distinct.
    pub members: Vec<Member>,
    /// The members to be, while a change is under way. Never an empty list.
    pub new_members: Option<Vec<Member>>,
}

/// A membership that no one may adopt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// A generation other than 0 names its members.
    #[error("membership of generation {generation} lists no members")]
    NoMembers {
        /// The generation.
        generation: Generation,
    },
    /// More members than a list may hold.
    #[error("membership lists {found} members, expected at most {MEMBERS_MAX}")]
    TooManyMembers {
        /// How many.
        found: usize,
    },
    /// One node stands twice in a list.
    #[error("membership lists node {id} twice")]
    Duplicate {
        /// The node.
        id: NodeId,
    },
    /// Ids are never 0.
    #[error("membership lists node id 0")]
    ZeroId,
    /// A host name that cannot be one.
    #[error(
        "membership lists a host name of {found} bytes or with a zero byte, expected at most {HOST_BYTES_MAX}"
    )]
    Host {
        /// Its length in bytes.
        found: usize,
    },
    /// `new_members` is there but empty.
    #[error("joint membership of generation {generation} lists no new members")]
    NoNewMembers {
        /// The generation.
        generation: Generation,
    },
}

impl Membership {
    /// Whether the node is a member now or will be one.
    pub fn contains(&self, id: NodeId) -> bool {
        self.all().any(|member| member.id == id)
    }

    /// Every member, then every new member: a node in both lists comes twice.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(self.new_members.iter().flatten())
    }

    /// Whether it counts quorums of the same members as another one; where they are reached may differ.
    pub fn has_members_of(&self, other: &Membership) -> bool {
        let same = |own: &[Member], others: &[Member]| {
            own.len() == others.len()
                && own.iter().all(|member| others.iter().any(|other| other.id == member.id))
        };
        same(&self.members, &other.members)
            && match (&self.new_members, &other.new_members) {
                (Some(own), Some(others)) => same(own, others),
                (own, others) => own.is_none() && others.is_none(),
            }
    }

    /// Checks what the fields promise.
    pub fn validate(&self) -> Result<(), MembershipError> {
        if self.generation != Generation(0) && self.members.is_empty() {
            return Err(MembershipError::NoMembers { generation: self.generation });
        }
        if self.new_members.as_ref().is_some_and(Vec::is_empty) {
            return Err(MembershipError::NoNewMembers { generation: self.generation });
        }
        validate_list(&self.members)?;
        validate_list(self.new_members.as_deref().unwrap_or(&[]))
    }

    /// Whether the nodes for which `holds` says yes are a quorum: a majority of each list.
    pub fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        let majority = |list: &[Member]| {
            list.iter().filter(|member| holds(member.id)).count() >= majority_of(list.len())
        };
        majority(&self.members) && self.new_members.as_deref().is_none_or(majority)
    }

    /// Whether the nodes for which `holds` says yes meet every quorum in a node other than `absent`, whatever `absent`
    /// says: a majority of each list without it. Nobody does when `absent` is a list's only member.
    ///
    /// Of a list of n a quorum has q = n/2 + 1. One that counts `absent` has q - 1 of the n - 1 others, one that does not
    /// has q of them. A majority of the others is (n - 1)/2 + 1 = n - q + 1 of n - 1 (rounded down each), so together with
    /// q - 1 of them it is n, one more than there are: they share a node.
    pub fn is_quorum_of_others(&self, absent: NodeId, holds: impl Fn(NodeId) -> bool) -> bool {
        let majority = |list: &[Member]| {
            let others = || list.iter().filter(|member| member.id != absent);
            others().filter(|member| holds(member.id)).count() >= majority_of(others().count())
        };
        majority(&self.members) && self.new_members.as_deref().is_none_or(majority)
    }

    /// The highest position that a quorum has reached, given each node's own; invalid when there is none. Of a
    /// membership that is valid.
    pub fn quorum_lsn(&self, reached: impl Fn(NodeId) -> Lsn) -> Lsn {
        let of_list = |list: &[Member]| {
            let mut lsns = [Lsn::INVALID; MEMBERS_MAX];
            let lsns = &mut lsns[..list.len()];
            lsns.iter_mut().zip(list).for_each(|(lsn, member)| *lsn = reached(member.id));
            lsns.sort_unstable_by(|a, b| b.cmp(a));
            lsns.get(majority_of(list.len()) - 1).copied().unwrap_or(Lsn::INVALID)
        };
        let old = of_list(&self.members);
        self.new_members.as_deref().map_or(old, |new| old.min(of_list(new)))
    }
}

/// How many of `count` members are a majority.
pub fn majority_of(count: usize) -> usize {
    count / 2 + 1
}

fn validate_list(list: &[Member]) -> Result<(), MembershipError> {
    if list.len() > MEMBERS_MAX {
        return Err(MembershipError::TooManyMembers { found: list.len() });
    }
    for (index, member) in list.iter().enumerate() {
        if member.id == NodeId(0) {
            return Err(MembershipError::ZeroId);
        }
        if list[..index].iter().any(|other| other.id == member.id) {
            return Err(MembershipError::Duplicate { id: member.id });
        }
        if member.host.len() > HOST_BYTES_MAX || member.host.contains('\0') {
            return Err(MembershipError::Host { found: member.host.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
