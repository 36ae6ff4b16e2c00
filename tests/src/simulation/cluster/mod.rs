//! Whole clusters: the node's and the relay's own code on simulated machines, from one seed.
//!
//! Fault model: that of `firn_node::runtime::sim` (disks, networks, clocks) plus what the primary does (crash, lost tail,
//! half records, an older disk, promotion). At most a minority of the nodes loses its disk or has rot in it: that much is
//! promised.
//!
//! Read first: [`world`] (one run), then [`nodes`], [`postgres`], [`faults`], [`audit`].

pub mod audit;
pub mod faults;
pub mod nodes;
pub mod postgres;
pub mod world;
