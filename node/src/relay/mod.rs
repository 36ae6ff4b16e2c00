//! The proposer for stock Postgres: follows a primary by physical replication and proposes its WAL to a quorum.
//!
//! Invariant: the primary is told that WAL is flushed only when a majority of acceptors has it on disk, and nothing that a
//! majority may have committed is ever proposed differently: before a relay writes anything, the primary's WAL is
//! compared, byte for byte, with what the quorum holds.
//!
//! Decisions are pure and live in `firn_core::relay` and `firn_core::consensus`; here is I/O only. Read first:
//! [`primary`] (who is followed), [`check`] (whether it may be), [`wal_stream`] (where WAL comes from), [`postgres`] (the
//! client of Postgres' protocol).

pub mod acceptor;
pub mod check;
pub mod postgres;
pub mod primary;
pub mod wal_stream;
