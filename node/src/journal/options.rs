//! Sizes of a journal.

use std::ops::RangeInclusive;

use firn_core::journal::entry::APPEND_ENTRY_BYTES;
use firn_core::journal::segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use firn_core::journal::{BLOCK_BYTES, ENTRY_BYTES_MAX, FRAME_BYTES_MAX};
use firn_core::wire::walproposer::APPEND_BYTES_MAX;
use thiserror::Error;

/// One segment is open, two hold what a start replays behind a snapshot, one is being freed, two are the reserve.
const SEGMENTS_MIN: u64 = 6;

/// With the longest segments, 64 TiB: what file names have digits for is more.
const SEGMENTS_MAX: u64 = 1 << 16;

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
    /// WAL that one append may carry. [`super::Journal::open`] refuses sizes in which it has no room.
    pub append_bytes_max: usize,
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
            append_bytes_max: APPEND_BYTES_MAX,
            forward_bytes_max: 256 << 10,
        }
    }
}

impl JournalOptions {
    /// Small sizes, for simulations and tests: a segment of 256 KiB wraps after a few hundred appends. A proposer's
    /// longest append does not fit.
    pub fn small() -> JournalOptions {
        JournalOptions {
            segment_bytes: 256 << 10,
            segments_max: 8,
            frame_bytes_max: 32 << 10,
            queue_bytes_max: 64 << 10,
            append_bytes_max: 10 << 10,
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

    /// A timeline that queued as much while the last two segments were filled is one of those that fill the ring.
    pub(super) fn bulk_bytes(&self) -> u64 {
        self.segment_bytes / 8
    }

    /// Room in the ring that timelines which fill it leave to others: half of what a segment has besides a frame and a
    /// full queue, because as many segments as appends and the reserve need are being freed without it.
    pub(super) fn headroom_bytes(&self) -> u64 {
        let taken = self.close_below_bytes() + self.queue_bytes_max as u64;
        self.segment_bytes.saturating_sub(taken) / 2
    }

    /// Room in the ring that only votes, terms, positions and moves may use: one segment that they fill while the other,
    /// which holds nothing that must be kept once a snapshot has its effects, is being freed.
    pub(super) fn reserve_bytes(&self) -> u64 {
        2 * self.segment_bytes
    }

    /// Refuses sizes with which appends would wait for ever or be refused one by one.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        let block = BLOCK_BYTES as u64;
        let (frame, append) = (self.frame_bytes_max as u64, self.append_bytes_max as u64);
        aligned("segment_bytes", self.segment_bytes)?;
        aligned("frame_bytes_max", frame)?;
        // Whatever is copied forward in the ring goes in entries of more than a block.
        within("frame_bytes_max", frame, 4 * block..=FRAME_BYTES_MAX as u64)?;
        let two_frames = 2 * self.close_below_bytes() + block;
        let least = two_frames.max(SEGMENT_BYTES_MIN);
        within("segment_bytes", self.segment_bytes, least..=SEGMENT_BYTES_MAX)?;
        within("segments_max", self.segments_max as u64, SEGMENTS_MIN..=SEGMENTS_MAX)?;
        // Else an idle journal would not be ready to take anything.
        let free = (self.segments_max as u64 - SEGMENTS_MIN + 1) * self.segment_bytes;
        let room = free - self.close_below_bytes();
        within("queue_bytes_max", self.queue_bytes_max as u64, block..=room)?;
        // Else an acceptor would refuse some appends again and again.
        let longest = self.entry_bytes_max() - APPEND_ENTRY_BYTES;
        within("append_bytes_max", append, 1..=longest as u64)
    }
}

fn aligned(option: &'static str, found: u64) -> Result<(), OptionsError> {
    match found.is_multiple_of(BLOCK_BYTES as u64) {
        true => Ok(()),
        false => Err(OptionsError::Unaligned { option, found }),
    }
}

fn within(
    option: &'static str,
    found: u64,
    expected: RangeInclusive<u64>,
) -> Result<(), OptionsError> {
    match expected.contains(&found) {
        true => Ok(()),
        false => {
            let (least, most) = expected.into_inner();
            Err(OptionsError::Bound { option, least, most, found })
        }
    }
}

/// Sizes that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// Not in whole blocks.
    #[error("journal option {option} is {found}, expected a multiple of {BLOCK_BYTES}")]
    Unaligned {
        /// The option.
        option: &'static str,
        /// Its value.
        found: u64,
    },
    /// Out of the bounds that the other sizes leave it.
    #[error(
        "journal option {option} is {found}, expected {least} to {most} with the journal's other sizes"
    )]
    Bound {
        /// The option.
        option: &'static str,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
        /// Its value.
        found: u64,
    },
}
