//! The Postgres port: proposers push WAL, readers stream it.
//!
//! A connection is accepted and its startup message parsed on shard 0; then its socket moves to the shard that owns
//! its tenant and stays there, with one task for its life. Invariant: nothing a client sends grows memory past a named
//! bound, and a client's error ends that client's connection only.
//!
//! One append costs: no more than one receive (several appends share it), no copy but the journal's, no allocation
//! but the queue's entry, and a send that answers all appends that became durable together.
//!
//! TLS, where a certificate is configured, is inside of the stream from the first packets on (`crate::tls`, record 019).
//!
//! Read first: [`listener`] (accept, startup, hand-over), then [`session`] (authentication, commands), then [`push`]
//! (a proposer's connection), [`walsender`] and [`send`] (a reader's).

pub mod client;
pub mod command;
pub mod connections;
pub mod handover;
pub mod listener;
pub mod push;
pub mod receive;
pub mod reply_queue;
pub mod send;
pub mod session;
pub mod walsender;
