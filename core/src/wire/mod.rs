//! Bytes to messages and back: the walproposer protocol and the parts of Postgres' protocol around it.
//!
//! Everything that comes in is hostile: a decoder never panics, never allocates more than a constant times the bytes it
//! was given, and names what it expected and found. Payloads (WAL) stay borrowed slices of the receive buffer: decoding
//! an append costs no copy and no allocation. Encoders append to the caller's buffer, which a connection reuses.
//!
//! Read first: [`postgres`] (messages and their framing), then [`walproposer`] (what proposer and acceptor tell each
//! other inside CopyData).

mod bytes;
pub mod postgres;
pub mod walproposer;

pub use bytes::WireError;
