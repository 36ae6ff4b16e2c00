//! The simulator: whole clusters in one thread, on virtual time, from one seed.
//!
//! A [`Simulation`] has machines; each has a disk, a clock and at most one process of several shards, which runs the
//! same code as under `uring`. Everything drawn by chance - which ready task runs, how long an operation takes, what a
//! crash leaves - comes from the seed, so a seed and a program give the same events again; [`Simulation::trace`] is
//! their hash. Faults are asked for between steps, see the methods of [`Simulation`].
//!
//! The fault models stand at the heads of `disk/mod.rs` and `network.rs`, zone by zone.
//!
//! Read first: `simulation.rs` (the public face and the loop), `world.rs` (events), then `disk/` and `network.rs`.

mod disk;
mod network;
mod random;
mod reactor;
mod simulation;
mod world;

pub use disk::DiskFaults;
pub(in crate::runtime) use disk::Inode;
pub(super) use network::Socket;
pub use network::{LinkFaults, TCP_TIMEOUT};
pub use random::Random;
pub(super) use reactor::{Reactor, SimulatedLock};
pub use simulation::{MachineId, Simulation};
pub use world::Trace;

#[cfg(test)]
mod tests;
