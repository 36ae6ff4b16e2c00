//! Postgres' frontend/backend protocol 3.0, as far as nodes, their readers and their proposers speak it
//! (PostgreSQL documentation, "Message Formats").
//!
//! Invariant: every decoder takes the bytes received so far, says `None` when a message is not complete yet, and
//! refuses a length over its named bound before anything is allocated for it. Decoded messages borrow from the
//! receive buffer: the WAL inside a CopyData is not copied here.
//!
//! Read first: [`startup`] (the first bytes of a connection), then [`message`] (everything after it), then
//! [`replication`] (what the CopyData messages of a WAL stream carry).

pub mod message;
pub mod replication;
pub mod startup;
