//! WAL as Postgres 14-18 write it: pages, records, and what a record says.
//!
//! Bytes arrive in any cut. [`framing`] is the one state machine that knows pages, segments, continuation and the end
//! of a record; [`RecordScanner`] asks it only where records end, [`Decoder`] makes [`Record`]s of its pieces, one at a
//! time or in a [`RecordQueue`].
//! [`names`] is what Postgres calls resource managers and records. Read `framing.rs` first, then `record.rs`.
//!
//! Invariants: nothing here panics, allocates without a bound or loops without consuming on any input, and a position
//! that is called a record's end has a CRC-valid record right before it.
//!
//! Per record: one CRC pass, its 24-byte header copied, no allocation; the bytes are copied only when the record
//! crosses a page or the caller's slice.
//!
//! Source of the format: PostgreSQL src/include/access/{xlog_internal.h,xlogrecord.h,xlogdefs.h}.

mod crc;
mod decoder;
mod error;
pub mod framing;
mod image;
pub mod names;
mod pglz;
mod queue;
mod record;
mod relation;
mod scanner;
mod segment_prefix;
#[cfg(test)]
pub(crate) mod test_wal;
mod version;

pub use decoder::Decoder;
pub use error::WalError;
pub use image::{Compression, Image, ImageScratch};
pub use queue::RecordQueue;
pub use record::{BLOCKS_MAX, Block, Layout, Record};
pub use relation::{BlockTag, Fork, RelationId};
pub use scanner::RecordScanner;
pub use segment_prefix::SegmentPrefix;
pub use version::WalVersion;
