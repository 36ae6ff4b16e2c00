//! This node's positions, and which of them a peer has not heard yet. Pure.

use std::collections::{BTreeMap, BTreeSet};

use firn_core::api::PeerPosition;
use firn_core::consensus::membership::Member;
use firn_core::types::{NodeId, TimelineKey};

/// A timeline's position and who may hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPosition {
    /// What to tell.
    pub position: PeerPosition,
    /// All members, this node among them.
    pub members: Vec<Member>,
}

#[derive(Debug)]
struct Entry {
    change: u64,
    position: PeerPosition,
    members: Box<[NodeId]>,
}

/// The positions of all timelines of the node, in the order of their last changes.
#[derive(Debug, Default)]
pub struct PositionTable {
    last_change: u64,
    entries: BTreeMap<TimelineKey, Entry>,
    /// Where nodes are, as the membership that came last says.
    addresses: BTreeMap<NodeId, Member>,
    /// Which timeline changed last at each change: exactly the numbers in `entries`.
    changes: BTreeMap<u64, TimelineKey>,
}

impl PositionTable {
    /// Notes a position that changed.
    pub fn set(&mut self, own: OwnPosition) {
        let key = own.position.key;
        self.remove(key);
        self.last_change += 1;
        self.changes.insert(self.last_change, key);
        let members = own.members.iter().map(|member| member.id).collect();
        let entry = Entry { change: self.last_change, position: own.position, members };
        self.entries.insert(key, entry);
        self.addresses.extend(own.members.into_iter().map(|member| (member.id, member)));
    }

    /// The timeline is not here any more.
    pub fn remove(&mut self, key: TimelineKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.changes.remove(&entry.change);
        }
    }

    /// What `peer` has not heard since change `after`, at most `count_max` positions, and the change to go on after.
    pub fn news_for(&self, peer: NodeId, after: u64, count_max: usize) -> (Vec<PeerPosition>, u64) {
        let mut news = Vec::new();
        for (change, key) in self.changes.range(after + 1..) {
            let own = &self.entries[key];
            if own.members.contains(&peer) {
                if news.len() == count_max {
                    return (news, *change - 1);
                }
                news.push(own.position.clone());
            }
        }
        (news, self.last_change)
    }

    /// Where a node is.
    pub fn address(&self, node: NodeId) -> Option<&Member> {
        self.addresses.get(&node)
    }

    /// The other members of all timelines.
    pub fn peers(&self, own: NodeId) -> BTreeSet<NodeId> {
        let members = self.entries.values().flat_map(|entry| &entry.members);
        members.copied().filter(|member| *member != own).collect()
    }
}

#[cfg(test)]
mod tests {
    use firn_core::api::StandingStatus;
    use firn_core::types::{Generation, Id, Lsn, TenantId, Term, TimelineId};

    use super::*;

    fn own(timeline: u8, lsn: u64, members: &[u64]) -> OwnPosition {
        let key = TimelineKey {
            tenant_id: TenantId(Id([1; 16])),
            timeline_id: TimelineId(Id([timeline; 16])),
        };
        let member = |id: &u64| Member { id: NodeId(*id), host: "h".to_string(), pg_port: 1 };
        OwnPosition {
            position: PeerPosition {
                key,
                generation: Generation(1),
                term: Term(1),
                last_log_term: Term(1),
                flush_lsn: Lsn(lsn),
                commit_lsn: Lsn(lsn),
                standing: StandingStatus::Whole,
                hold_lsn: None,
            },
            members: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn a_peer_hears_each_change_once_and_only_of_its_own_timelines() {
        let mut table = PositionTable::default();
        table.set(own(1, 10, &[1, 2]));
        table.set(own(2, 20, &[1, 3]));
        table.set(own(1, 30, &[1, 2]));
        table.set(own(3, 40, &[1, 2]));
        let lsns = |(news, through): (Vec<PeerPosition>, u64)| {
            (news.iter().map(|position| position.flush_lsn.0).collect::<Vec<_>>(), through)
        };
        assert_eq!(lsns(table.news_for(NodeId(2), 0, 10)), (vec![30, 40], 4));
        assert_eq!(lsns(table.news_for(NodeId(2), 0, 1)), (vec![30], 3));
        assert_eq!(lsns(table.news_for(NodeId(2), 3, 10)), (vec![40], 4));
        assert_eq!(lsns(table.news_for(NodeId(3), 0, 10)), (vec![20], 4));
        assert_eq!(lsns(table.news_for(NodeId(2), 4, 10)), (vec![], 4));
        table.remove(own(3, 0, &[]).position.key);
        assert_eq!(lsns(table.news_for(NodeId(2), 0, 10)), (vec![30], 4));
        assert_eq!(table.peers(NodeId(1)), BTreeSet::from([NodeId(2), NodeId(3)]));
    }
}
