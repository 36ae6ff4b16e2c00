//! A small client of Postgres' protocol over the runtime's streams: enough to follow a primary's WAL and to talk to
//! acceptors.
//!
//! Invariant: nothing is trusted before authentication ended, and no answer of a server can make the client allocate
//! more than [`message::MESSAGE_BYTES_MAX`](firn_core::wire::postgres::message::MESSAGE_BYTES_MAX) for a message.
//!
//! Read first: [`connection`] (sessions and queries); below it [`transport`] (bytes, plain or TLS), [`tls`] and
//! [`authentication`] (both without I/O), and [`conninfo`] (connection strings).

pub mod authentication;
pub mod connection;
pub mod conninfo;
pub mod tls;
pub mod transport;
