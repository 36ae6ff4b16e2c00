//! Looking behind a gap.

use super::super::BLOCK_BYTES;
use super::super::frame::{Frame, UseCrc};

/// What lies behind a missing frame in one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Valid frames of this use of the file, sequence at or past the missing one.
    pub(super) valid_frames: u64,
    /// One of them knew the missing frame durable.
    pub(super) witness: bool,
}

/// Looks at every block from `offset_bytes` on. A valid frame is believed alone: its CRC covers the ids of life and use.
pub(super) fn scan(bytes: &[u8], offset_bytes: u64, use_crc: UseCrc, missing: u64) -> Scan {
    let mut found = Scan::default();
    let mut at = usize::try_from(offset_bytes).unwrap_or(usize::MAX).next_multiple_of(BLOCK_BYTES);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match Frame::parse(rest, use_crc) {
            Ok(frame) => {
                if frame.header.sequence >= missing {
                    found.valid_frames += 1;
                    found.witness |= frame.header.durable_through >= missing;
                }
                at += frame.header.frame_bytes as usize;
            }
            Err(_) => at += BLOCK_BYTES,
        }
    }
    found
}
