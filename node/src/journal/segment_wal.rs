//! All WAL of a segment that is about to be emptied: read once, front to back, however many timelines share its frames.
//!
//! Holds as many bytes as the segment has frames, until the segment is empty. What the device refuses or a CRC rejects is
//! not here, and nothing behind it: `reader.rs` reads frame by frame and says what is wrong.

use std::collections::BTreeMap;
use std::ops::Range;

use firn_core::journal::FRAME_BYTES_MAX;
use firn_core::journal::frame::{Frame, UseCrc};
use firn_core::journal::segment::FRAMES_OFFSET_BYTES;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::types::{Lsn, TimelineKey};

use super::index::wal_of;
use super::shared::Shared;
use crate::runtime::Buffer;

/// Bytes per read: holds at least one whole frame behind the last whole one.
const WINDOW_BYTES: usize = 2 * FRAME_BYTES_MAX;

/// The WAL of one segment.
#[derive(Default)]
pub(super) struct SegmentWal {
    windows: Vec<Buffer>,
    /// In the order of the log: where two overlap, the later counts.
    pieces: BTreeMap<TimelineKey, Vec<Piece>>,
}

/// WAL of one entry, and where it lies.
struct Piece {
    begin: Lsn,
    end: Lsn,
    window: usize,
    offset: usize,
}

impl SegmentWal {
    /// Reads the segment, into spare windows first. The caller holds it.
    pub(super) async fn read(
        shared: &Shared,
        segment: SegmentPlace,
        spare: &mut Vec<Buffer>,
    ) -> SegmentWal {
        let mut wal = SegmentWal::default();
        let Some(used) = shared.ring.borrow().get(segment, shared.number).cloned() else {
            return wal;
        };
        let use_crc = UseCrc::new(&used.header);
        let end = used.end_offset_bytes.min(used.header.segment_bytes);
        let mut at = FRAMES_OFFSET_BYTES;
        while at < end {
            let bytes = ((end - at) as usize).min(WINDOW_BYTES);
            let fits = spare.pop().filter(|spare| spare.capacity() >= bytes);
            let mut window = fits.unwrap_or_else(|| Buffer::zeroed(bytes));
            window.set_len(bytes);
            let (result, window) = used.file.read_at(window, at).await;
            if !matches!(result, Ok(read) if read == bytes) {
                break;
            }
            let taken = wal.add(window, use_crc);
            if taken == 0 {
                break;
            }
            at += taken;
            shared.runtime.yield_now().await;
        }
        wal
    }

    /// Takes the whole frames at the window's start; returns their bytes.
    fn add(&mut self, window: Buffer, use_crc: UseCrc) -> u64 {
        let mut taken = 0;
        while let Ok(frame) = Frame::parse(&window[taken..], use_crc) {
            for entry in frame.entries().flatten() {
                let (_, entry) = entry;
                if let Some((key, begin, wal)) = wal_of(&entry) {
                    let piece = Piece {
                        begin,
                        end: begin + wal.len() as u64,
                        window: self.windows.len(),
                        offset: wal.as_ptr().addr() - window.as_ptr().addr(),
                    };
                    self.pieces.entry(key).or_default().push(piece);
                }
            }
            taken += frame.header.frame_bytes as usize;
        }
        self.windows.push(window);
        taken as u64
    }

    /// Copies a range of a timeline's WAL. False when a part is not here.
    pub(super) fn copy(&self, key: TimelineKey, range: Range<Lsn>, into: &mut [u8]) -> bool {
        let mut filled = 0;
        for piece in self.pieces.get(&key).into_iter().flatten() {
            let (from, to) = (piece.begin.max(range.start), piece.end.min(range.end));
            if from >= to {
                continue;
            }
            let source = piece.offset + (from - piece.begin) as usize;
            let target = (from - range.start) as usize..(to - range.start) as usize;
            // A later piece that begins further left follows a cut of the log: what was right of it is void.
            filled = if target.start <= filled { target.end } else { filled };
            let bytes = &self.windows[piece.window][source..source + target.len()];
            into[target].copy_from_slice(bytes);
        }
        filled >= into.len()
    }

    /// The memory, for the next segment.
    pub(super) fn into_windows(self) -> Vec<Buffer> {
        self.windows
    }
}
