//! Clusters of pure acceptors and proposers under a network and disks that fail: consensus alone, fast enough for
//! thousands of seeds.
//!
//! Fault model: messages are delayed without bound and reordered between connections; connections are cut with all in
//! flight; links are silent in one direction or both; a node dies and keeps any prefix of its unanswered writes; a
//! disk is full or emptied, or forgets answered writes, after which its node is re-seeded; members are added, removed and
//! replaced by operators who walk away; a proposer dies, several compete; the primary dies, loses its unflushed tail, leaves
//! half a record, comes back as an older copy of itself, is promoted, is rebuilt from what is committed.
//!
//! Read first: [`world`] (one run), then [`faults`], [`node`], [`actor`], [`operator`].

pub mod actor;
pub mod faults;
pub mod network;
pub mod node;
pub mod operator;
pub mod walproposer;
pub mod world;
