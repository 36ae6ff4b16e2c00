//! Which frame of a segment holds which WAL: in memory only, kept for segments that this life wrote, rebuilt by reading
//! a segment when an older one is read.
//!
//! Bounded by the ring: one range per frame and timeline, at least 4 KiB of ring each.

use std::collections::BTreeMap;
use std::ops::Range;

use firn_core::consensus::change::Change;
use firn_core::journal::entry::Entry;
use firn_core::journal::frame::Frame;
use firn_core::types::{Lsn, TimelineKey};
use rangemap::RangeMap;

/// A frame's place in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FramePlace {
    pub(super) offset_bytes: u32,
    pub(super) frame_bytes: u32,
}

impl FramePlace {
    /// Of a frame at an offset.
    pub(super) fn of(frame: &Frame<'_>, offset_bytes: u64) -> FramePlace {
        FramePlace { offset_bytes: offset_bytes as u32, frame_bytes: frame.header.frame_bytes }
    }
}

/// One segment's WAL.
#[derive(Debug, Default)]
pub(super) struct SegmentIndex(BTreeMap<TimelineKey, RangeMap<Lsn, FramePlace>>);

impl SegmentIndex {
    /// Adds a frame's WAL. Frames come in order: where ranges overlap, the log was cut between them and the later counts.
    pub(super) fn add(&mut self, frame: &Frame<'_>, offset_bytes: u64) {
        for (_, entry) in frame.entries().flatten() {
            self.add_entry(&entry, FramePlace::of(frame, offset_bytes));
        }
    }

    /// Adds the WAL of one entry of a frame: as [`Self::add`] for whoever has the entries at hand.
    pub(super) fn add_entry(&mut self, entry: &Entry<'_>, place: FramePlace) {
        if let Some((key, begin, wal)) = wal_of(entry)
            && !wal.is_empty()
        {
            let range = begin..begin + wal.len() as u64;
            self.0.entry(key).or_default().insert(range, place);
        }
    }

    /// The frame that holds the byte at `lsn`, and up to where it does.
    pub(super) fn find(&self, key: TimelineKey, lsn: Lsn) -> Option<(Range<Lsn>, FramePlace)> {
        let (range, place) = self.0.get(&key)?.get_key_value(&lsn)?;
        Some((range.clone(), *place))
    }
}

/// The WAL that an entry carries.
fn wal_of<'a>(entry: &Entry<'a>) -> Option<(TimelineKey, Lsn, &'a [u8])> {
    match entry {
        Entry::Change(key, Change::Append { begin, wal, .. }) => Some((*key, *begin, wal)),
        Entry::Forwarded(key, forwarded) => Some((*key, forwarded.begin, forwarded.wal)),
        _ => None,
    }
}

/// Copies a range of a timeline's WAL out of a frame; each entry's CRC is checked. False when a part is not there.
pub(super) fn extract(
    frame: &Frame<'_>,
    key: TimelineKey,
    range: Range<Lsn>,
    into: &mut [u8],
) -> Result<bool, firn_core::journal::FormatError> {
    let mut filled = 0;
    for entry in frame.entries() {
        let (_, entry) = entry?;
        let Some((of, begin, wal)) = wal_of(&entry) else { continue };
        let end = begin + wal.len() as u64;
        let (from, to) = (begin.max(range.start), end.min(range.end));
        if of != key || from >= to {
            continue;
        }
        let source = (from - begin) as usize..(to - begin) as usize;
        let target = (from - range.start) as usize..(to - range.start) as usize;
        // A later entry that begins further left follows a cut of the log: what was right of it is void.
        filled = if target.start <= filled { target.end } else { filled };
        into[target].copy_from_slice(&wal[source]);
    }
    Ok(filled >= into.len())
}
