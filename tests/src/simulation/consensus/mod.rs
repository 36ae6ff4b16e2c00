//! Clusters of pure acceptors and proposers.
pub mod network;
