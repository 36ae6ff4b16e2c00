//! Which nodes are a timeline's acceptors.

use serde::{Deserialize, Serialize};

use crate::types::{Generation, NodeId};

/// One acceptor of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Host name or address of its Postgres-protocol port.
    pub host: String,
    /// Its Postgres-protocol port.
    pub pg_port: u16,
}

/// A membership configuration. While `new_members` is there (a joint configuration) a quorum is a majority of
/// `members` *and* a majority of `new_members`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// 0 = none: no members are listed and any acceptor that is asked takes part.
    pub generation: Generation,
    /// Not empty when `generation` is not 0; ids are distinct.
    pub members: Vec<Member>,
    /// The members to be, while a change is under way.
    pub new_members: Option<Vec<Member>>,
}

impl Membership {
    /// Whether the node is a member now or will be one.
    pub fn contains(&self, id: NodeId) -> bool {
        self.members.iter().chain(self.new_members.iter().flatten()).any(|member| member.id == id)
    }
}
