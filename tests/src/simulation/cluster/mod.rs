//! Whole clusters: the node's and the relay's own code on simulated machines, from one seed.
//!
//! Fault model: that of `firn_node::runtime::sim` (disks, networks, clocks) plus what the primary does (crash, lost tail,
//! half records, an older disk, promotion) and an operator who changes the members. At most a minority of the members
//! loses its disk or has rot in it before it is replaced: that much is promised.
//!
//! Read first: [`world`] (one run), then [`nodes`], [`postgres`], [`faults`], [`operator`], [`audit`].

pub mod audit;
pub mod faults;
pub mod follower;
pub mod nodes;
pub mod operator;
pub mod postgres;
pub mod world;
