//! The journal's format, snapshots and recovery as pure functions; `firn-node`'s journal writes and reads them.
//!
//! One journal per shard carries all that must survive. It is a ring of segments; a segment holds chained frames, a
//! frame holds entries. `docs/formats.md` draws every format.
//!
//! Invariants: a frame of an earlier use of its file or of an earlier life of the process never passes its CRC;
//! nothing is ever written behind a cut; [`state::ShardState`] is a function of the entries in order, whether they come
//! from the device, from a snapshot or from frames that became durable just now.
//!
//! Read first: [`frame`] (what one write carries), then [`recovery`] (why nothing acknowledged is lost), [`state`] (what
//! the entries add up to), [`snapshot`] and [`layout`].

mod codec;
pub mod entry;
pub mod frame;
pub mod inspect;
pub mod layout;
pub mod recovery;
pub mod segment;
pub mod snapshot;
pub mod state;
pub mod wal_file;
pub mod wal_place;

pub use codec::FormatError;

/// Alignment of every frame, and the unit of direct I/O.
pub const BLOCK_BYTES: usize = 4096;

/// The longest frame: one write of it must not hold up the device for long, and a reader of any byte reads at most one.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The longest entry: less than half a frame, so that a frame always has room for a second tenant's.
pub const ENTRY_BYTES_MAX: usize = 384 << 10;

/// Frames that may be on their way to the device at once: durable writes in flight scale to about this depth on the
/// devices measured, and it bounds how far a torn tail can reach.
pub const INFLIGHT_MAX: usize = 8;

// An elected message's history has to fit.
const _: () = assert!(crate::consensus::term_history::TERMS_MAX * 16 + 4096 <= ENTRY_BYTES_MAX);
const _: () = assert!(frame::HEADER_BYTES + 2 * ENTRY_BYTES_MAX <= FRAME_BYTES_MAX);
