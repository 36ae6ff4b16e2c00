//! Bytes of a file that were written and not flushed: pieces that never overlap, each with the number of its write.

use std::collections::BTreeMap;
use std::ops::Range;

/// Unflushed bytes by offset.
#[derive(Debug, Default)]
pub(super) struct Extents {
    pieces: BTreeMap<u64, Piece>,
    version: u64,
}

#[derive(Debug, Clone)]
struct Piece {
    version: u64,
    bytes: Vec<u8>,
}

impl Extents {
    /// The number of the latest write.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes held.
    pub(super) fn len_bytes(&self) -> usize {
        self.pieces.values().map(|piece| piece.bytes.len()).sum()
    }

    /// End of the last piece.
    pub(super) fn end(&self) -> u64 {
        self.pieces.last_key_value().map_or(0, |(start, piece)| start + piece.bytes.len() as u64)
    }

    /// Puts a write over what was there.
    pub(super) fn insert(&mut self, offset_bytes: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.version += 1;
        self.remove(offset_bytes..offset_bytes + bytes.len() as u64, u64::MAX);
        let piece = Piece { version: self.version, bytes: bytes.to_vec() };
        self.pieces.insert(offset_bytes, piece);
    }

    /// Forgets the bytes of a range that were written by the write `through` or before it.
    pub(super) fn remove(&mut self, range: Range<u64>, through: u64) {
        let touched: Vec<u64> = self
            .pieces
            .range(..range.end)
            .rev()
            .take_while(|(start, piece)| *start + piece.bytes.len() as u64 > range.start)
            .filter(|(_, piece)| piece.version <= through)
            .map(|(start, _)| *start)
            .collect();
        for start in touched {
            let Some(mut piece) = self.pieces.remove(&start) else { continue };
            let end = start + piece.bytes.len() as u64;
            if end > range.end {
                let bytes = piece.bytes.split_off((range.end - start) as usize);
                self.pieces.insert(range.end, Piece { version: piece.version, bytes });
            }
            if start < range.start {
                piece.bytes.truncate((range.start - start) as usize);
                self.pieces.insert(start, piece);
            }
        }
    }

    /// Copies out what lies in a range, as (offset within the range, bytes).
    pub(super) fn copy(&self, range: Range<u64>) -> Vec<(usize, Vec<u8>)> {
        let pieces = self.pieces.range(..range.end).rev();
        let pieces =
            pieces.take_while(|(start, piece)| **start + piece.bytes.len() as u64 > range.start);
        let cut = pieces.map(|(start, piece)| {
            let from = range.start.max(*start);
            let to = range.end.min(start + piece.bytes.len() as u64);
            let bytes = piece.bytes[(from - start) as usize..(to - start) as usize].to_vec();
            ((from - range.start) as usize, bytes)
        });
        cut.collect()
    }

    /// All pieces, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(start, piece)| (*start, piece.bytes.as_slice()))
    }
}
