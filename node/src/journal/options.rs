//! Sizes of a journal.

use firn_core::journal::segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use firn_core::journal::{BLOCK_BYTES, ENTRY_BYTES_MAX, FRAME_BYTES_MAX};

/// How big a journal and its parts are. The defaults are for production; simulations shrink them so that every rare
/// branch is near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes of a segment file that is made from now on.
    pub segment_bytes: u64,
    /// Segment files that the ring may have.
    pub segments_max: usize,
    /// Longest frame.
    pub frame_bytes_max: usize,
    /// Bytes that may wait for a frame before appends are held back.
    pub queue_bytes_max: usize,
    /// Shorter tails of WAL are copied forward in the ring, longer ones into raw files.
    pub forward_bytes_max: u64,
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions {
            segment_bytes: 64 << 20,
            // 1 GiB: some seconds of a saturated device, so that a slow reader still finds its WAL in the ring.
            segments_max: 16,
            frame_bytes_max: FRAME_BYTES_MAX,
            // As much as all frames in flight.
            queue_bytes_max: 8 << 20,
            forward_bytes_max: 256 << 10,
        }
    }
}

impl JournalOptions {
    /// Small sizes, for simulations and tests: a segment of 256 KiB wraps after a few hundred appends.
    pub fn small() -> JournalOptions {
        JournalOptions {
            segment_bytes: 256 << 10,
            segments_max: 8,
            frame_bytes_max: 32 << 10,
            queue_bytes_max: 64 << 10,
            forward_bytes_max: 2 << 10,
        }
    }

    /// The longest entry: less than half a frame, so that a frame has room for a second tenant's.
    pub fn entry_bytes_max(&self) -> usize {
        (self.frame_bytes_max * 3 / 8).min(ENTRY_BYTES_MAX)
    }

    /// Bytes that one timeline may put into a frame before others had their turn.
    pub(super) fn share_bytes(&self) -> usize {
        self.frame_bytes_max / 4
    }

    /// A segment with less left is closed: any frame and the closing one fit into what is left of an open one.
    pub(super) fn close_below_bytes(&self) -> u64 {
        (self.frame_bytes_max + BLOCK_BYTES) as u64
    }

    /// Room in the ring that only votes, terms, positions and moves may use: one segment that they fill while the other,
    /// which holds nothing that must be kept once a snapshot has its effects, is being freed.
    pub(super) fn reserve_bytes(&self) -> u64 {
        2 * self.segment_bytes
    }

    /// Panics when the sizes do not fit together.
    pub(super) fn check(&self) {
        assert!((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes));
        assert!(self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64));
        assert!(self.frame_bytes_max.is_multiple_of(BLOCK_BYTES));
        assert!((BLOCK_BYTES..=FRAME_BYTES_MAX).contains(&self.frame_bytes_max));
        assert!(self.segment_bytes >= 2 * self.close_below_bytes() + BLOCK_BYTES as u64);
        // One that is open, two that replay may need behind a snapshot, one being freed, two in reserve.
        assert!(self.segments_max >= 6, "a ring has at least six segments");
    }
}
