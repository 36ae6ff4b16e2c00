//! WAL as Postgres 14-18 write it: pages, records, and what a record says.
//!
//! Bytes arrive in any cut. [`framing`] is the one state machine that knows pages, segments, continuation and the end
//! of a record; [`RecordScanner`] asks it only where records end. Read `framing.rs` first.
//!
//! Invariants: nothing here panics, allocates without a bound or loops without consuming on any input, and a position
//! that is called a record's end has a CRC-valid record right before it.
//!
//! Source of the format: PostgreSQL src/include/access/{xlog_internal.h,xlogrecord.h,xlogdefs.h}.

mod error;
pub mod framing;
mod scanner;
mod segment_prefix;
#[cfg(test)]
pub(crate) mod test_wal;
mod version;

pub use error::WalError;
pub use scanner::RecordScanner;
pub use segment_prefix::SegmentPrefix;
pub use version::WalVersion;
