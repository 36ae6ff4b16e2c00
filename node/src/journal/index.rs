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
pub(super) struct SegmentIndex(BTreeMap<TimelineKey, Pieces>);

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
            let end = begin + wal.len() as u64;
            self.0.entry(key).or_default().insert(Piece { begin, end, place });
        }
    }

    /// The frame that holds the byte at `lsn`, and up to where it does.
    pub(super) fn find(&self, key: TimelineKey, lsn: Lsn) -> Option<(Range<Lsn>, FramePlace)> {
        let Piece { begin, end, place } = self.0.get(&key)?.find(lsn)?;
        Some((begin..end, place))
    }
}

/// A range of a timeline's WAL in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    begin: Lsn,
    end: Lsn,
    place: FramePlace,
}

/// A timeline's pieces in order; none overlaps another. Nearly every piece is the new last one: a vector takes it without
/// allocating, where a map would take a node for every few.
#[derive(Debug, Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn insert(&mut self, piece: Piece) {
        match self.0.last_mut() {
            Some(last) if last.place == piece.place && last.end == piece.begin => {
                last.end = piece.end;
            }
            Some(last) if last.end > piece.begin => self.insert_within(piece),
            _ => self.0.push(piece),
        }
    }

    /// Of the pieces that the new one overlaps only what is left and right of it stays.
    fn insert_within(&mut self, piece: Piece) {
        let from = self.0.partition_point(|old| old.end <= piece.begin);
        let to = self.0.partition_point(|old| old.begin < piece.end);
        let left = self.0[from..to].first().filter(|old| old.begin < piece.begin).copied();
        let right = self.0[from..to].last().filter(|old| old.end > piece.end).copied();
        let left = left.map(|old| Piece { end: piece.begin, ..old });
        let right = right.map(|old| Piece { begin: piece.end, ..old });
        let new = left.into_iter().chain([piece]).chain(right);
        self.0.splice(from..to, new);
    }

    fn find(&self, lsn: Lsn) -> Option<Piece> {
        let at = self.0.partition_point(|piece| piece.end <= lsn);
        self.0.get(at).filter(|piece| piece.begin <= lsn).copied()
    }
}

/// The WAL that an entry carries.
pub(super) fn wal_of<'a>(entry: &Entry<'a>) -> Option<(TimelineKey, Lsn, &'a [u8])> {
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

#[cfg(test)]
mod tests;
