//! Acceptors and proposers together: a whole cluster as one value that takes one step at a time.
//!
//! [`world`] is the cluster: real acceptors and proposers, real encoded messages on ordered connections, journals that may
//! lag, crashes that lose what was not flushed. After every step it checks what must always hold. [`random`] walks
//! through it at random, long; [`exhaustive`] visits every state within small bounds.

mod exhaustive;
mod random;
mod world;
