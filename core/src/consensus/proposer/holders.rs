//! Who can give which part of the elected log: a lagging acceptor, and a comparison, need WAL that the caller has not.
//!
//! More than one member has most of it, so a member that cannot read its own WAL any more need not hold up anything.

use crate::consensus::proposer::Proposer;
use crate::types::{Lsn, NodeId};

/// A member that has WAL of the elected log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The member.
    pub node: NodeId,
    /// Its log is the elected one up to here; what follows may be cut off.
    pub end: Lsn,
}

impl Proposer {
    /// Members that, by what they said, have the byte of the elected log at `at`; who has most comes first. Nobody before
    /// the election.
    pub fn holders(&self, at: Lsn) -> Vec<Holder> {
        let Some(elected) = self.elected_state() else { return Vec::new() };
        let end = |node: &NodeId| {
            let peer = &self.peers[node];
            let told = peer.log.as_ref().and_then(|log| {
                log.history.common_prefix_end(log.flush_lsn, &elected.history).ok().flatten()
            });
            told.unwrap_or(Lsn::INVALID).max(peer.flush_lsn)
        };
        let all = self.peers.keys().map(|node| Holder { node: *node, end: end(node) });
        let mut holders: Vec<Holder> = all.filter(|holder| holder.end > at).collect();
        // Of several that have as much the one whose log was elected.
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.end), holder.node != elected.donor));
        holders
    }
}
