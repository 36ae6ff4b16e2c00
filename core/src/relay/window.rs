//! Recent WAL, kept once and shared by everyone who sends it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::types::Lsn;

/// A contiguous piece of recent WAL with a bound on its bytes, as long as nobody lets it grow for the sake of what is
/// needed still. What falls out at the old end is read from an acceptor
/// that has it.
///
/// Invariant: pieces are contiguous and none is empty; their lengths sum up to `end - start`.
#[derive(Debug)]
pub struct Window {
    pieces: VecDeque<Bytes>,
    start: Lsn,
    end: Lsn,
    capacity_bytes: u64,
}

impl Window {
    /// An empty window at `at` that holds up to `capacity_bytes`.
    pub fn new(at: Lsn, capacity_bytes: u64) -> Window {
        Window { pieces: VecDeque::new(), start: at, end: at, capacity_bytes }
    }

    /// Position of the oldest byte that is still here.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Position after the newest byte.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Whether `bytes` more fit without dropping anything at or past `needed`.
    pub fn has_room(&self, needed: Lsn, bytes: u64) -> bool {
        let kept_from = needed.clamp(self.start, self.end);
        self.end - kept_from + bytes <= self.capacity_bytes
    }

    /// Appends WAL that continues the window. Old pieces go once the rest fills the capacity without them, but nothing at
    /// or past `needed`: that may be nowhere else yet.
    pub fn push(&mut self, wal: Bytes, needed: Lsn) {
        if wal.is_empty() {
            return;
        }
        self.end = self.end + wal.len() as u64;
        self.pieces.push_back(wal);
        while let Some(oldest) = self.pieces.front() {
            let after = self.start + oldest.len() as u64;
            if self.end - after < self.capacity_bytes || after > needed {
                break;
            }
            self.pieces.pop_front();
            self.start = after;
        }
    }

    /// Up to `max_bytes` of WAL from `from` on, in one piece and without a copy. `None`: nothing there is in the
    /// window (yet, or any more).
    pub fn get(&self, from: Lsn, max_bytes: usize) -> Option<Bytes> {
        if from < self.start || from >= self.end {
            return None;
        }
        // Readers are near the new end, so that is where the search begins.
        let mut piece_start = self.end;
        for piece in self.pieces.iter().rev() {
            piece_start = Lsn(piece_start.0 - piece.len() as u64);
            if piece_start <= from {
                let offset = (from - piece_start) as usize;
                let length = (piece.len() - offset).min(max_bytes);
                return Some(piece.slice(offset..offset + length));
            }
        }
        unreachable!("pieces cover the window from start to end")
    }
}

#[cfg(test)]
mod tests;
