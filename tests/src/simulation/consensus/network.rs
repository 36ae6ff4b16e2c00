//! Connections between proposers and nodes, as TCP gives them: in order within one, in any order between two, for any
//! time under way, and gone at once with all that was in flight when one is cut.
//!
//! A partition holds bytes back in one direction or both until it heals or a connection is cut: silence, not an error.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::simulation::random::Random;

/// Which proposer, by number; never used twice in a run.
pub type ProposerNumber = usize;
/// Which node, by its place in the cluster.
pub type NodeIndex = usize;

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the proposer to the node.
    ToNode,
    /// From the node to the proposer.
    ToProposer,
}

/// Names a connection: a proposer has at most one to each node.
pub type ConnectionName = (ProposerNumber, NodeIndex);

#[derive(Debug, Default)]
struct Connection {
    to_node: VecDeque<Vec<u8>>,
    to_proposer: VecDeque<Vec<u8>>,
    /// Tells this connection from an earlier one of the same name.
    number: u64,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<ConnectionName, Connection>,
    blocked: BTreeSet<(ConnectionName, Direction)>,
    opened: u64,
}

impl Network {
    /// Opens a connection; an earlier one of the same name is cut.
    pub fn open(&mut self, name: ConnectionName) -> u64 {
        self.opened += 1;
        let connection = Connection { number: self.opened, ..Connection::default() };
        self.connections.insert(name, connection);
        self.opened
    }

    /// The number of the connection, if it is open.
    pub fn number(&self, name: ConnectionName) -> Option<u64> {
        self.connections.get(&name).map(|connection| connection.number)
    }

    /// Cuts a connection: what was in flight is lost. Whether there was one.
    pub fn cut(&mut self, name: ConnectionName) -> bool {
        self.connections.remove(&name).is_some()
    }

    /// The open connections.
    pub fn names(&self) -> Vec<ConnectionName> {
        self.connections.keys().copied().collect()
    }

    /// Sends a message; into nothing when the connection is no longer open.
    pub fn send(&mut self, name: ConnectionName, direction: Direction, message: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(&name) {
            match direction {
                Direction::ToNode => connection.to_node.push_back(message),
                Direction::ToProposer => connection.to_proposer.push_back(message),
            }
        }
    }

    /// Takes the next message of any connection that is not blocked.
    pub fn deliver(&mut self, random: &mut Random) -> Option<(ConnectionName, Direction, Vec<u8>)> {
        let mut ready = Vec::new();
        for (name, connection) in &self.connections {
            let queues = [
                (Direction::ToNode, &connection.to_node),
                (Direction::ToProposer, &connection.to_proposer),
            ];
            for (direction, queue) in queues {
                if !queue.is_empty() && !self.blocked.contains(&(*name, direction)) {
                    ready.push((*name, direction));
                }
            }
        }
        if ready.is_empty() {
            return None;
        }
        let (name, direction) = ready[random.index(ready.len())];
        let connection = self.connections.get_mut(&name)?;
        let queue = match direction {
            Direction::ToNode => &mut connection.to_node,
            Direction::ToProposer => &mut connection.to_proposer,
        };
        Some((name, direction, queue.pop_front()?))
    }

    /// Holds back what flows in that direction of that connection and its successors.
    pub fn block(&mut self, name: ConnectionName, direction: Direction) {
        self.blocked.insert((name, direction));
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.blocked.clear();
    }
}
