//! Comparing two WAL streams byte for byte while they arrive.

use thiserror::Error;

use crate::types::Lsn;

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The Postgres that wants to be followed.
    Primary,
    /// What the acceptors hold.
    Quorum,
}

/// The two streams differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("WAL differs at {at}: the primary has byte {primary:#04x}, the quorum {quorum:#04x}")]
pub struct Difference {
    /// Position of the first byte that differs.
    pub at: Lsn,
    /// The primary's byte.
    pub primary: u8,
    /// The quorum's byte.
    pub quorum: u8,
}

/// Compares `[start, end)` of two streams, fed in any order and in pieces of any length. Holds at most what one side
/// is ahead; [`Comparison::behind`] says which side to read so that this stays one piece.
///
/// No byte before a switch of Postgres' timeline may differ: the segment is copied up to the switch, page headers
/// included, and only pages begun later carry the new timeline.
#[derive(Debug)]
pub struct Comparison {
    compared_to: Lsn,
    end: Lsn,
    ahead: Vec<u8>,
    ahead_side: Side,
}

impl Comparison {
    /// Nothing is compared yet.
    pub fn new(start: Lsn, end: Lsn) -> Comparison {
        Comparison {
            compared_to: start,
            end: end.max(start),
            ahead: Vec::new(),
            ahead_side: Side::Primary,
        }
    }

    /// Whether every byte was compared.
    pub fn is_complete(&self) -> bool {
        self.compared_to == self.end
    }

    /// The position up to which `side` was read: its next bytes begin here.
    pub fn position(&self, side: Side) -> Lsn {
        let ahead = if side == self.ahead_side { self.ahead.len() as u64 } else { 0 };
        self.compared_to + ahead
    }

    /// The side to read next; `None` when the comparison is complete.
    pub fn behind(&self) -> Option<Side> {
        if self.is_complete() {
            return None;
        }
        match (self.ahead.is_empty(), self.ahead_side) {
            (false, Side::Primary) => Some(Side::Quorum),
            _ => Some(Side::Primary),
        }
    }

    /// Takes the next bytes of one side; bytes past the end are not looked at.
    pub fn push(&mut self, side: Side, bytes: &[u8]) -> Result<(), Difference> {
        let wanted = self.end - self.position(side);
        let bytes = &bytes[..bytes.len().min(usize::try_from(wanted).unwrap_or(usize::MAX))];
        if side == self.ahead_side || self.ahead.is_empty() {
            self.ahead_side = side;
            self.ahead.extend_from_slice(bytes);
            return Ok(());
        }
        let common = bytes.len().min(self.ahead.len());
        if bytes[..common] != self.ahead[..common] {
            let differs = |index: &usize| bytes[*index] != self.ahead[*index];
            let index = (0..common).find(differs).expect("the slices differ");
            let (primary, quorum) = match side {
                Side::Primary => (bytes[index], self.ahead[index]),
                Side::Quorum => (self.ahead[index], bytes[index]),
            };
            return Err(Difference { at: self.compared_to + index as u64, primary, quorum });
        }
        self.compared_to = self.compared_to + common as u64;
        self.ahead.drain(..common);
        if common < bytes.len() {
            self.ahead_side = side;
            self.ahead.extend_from_slice(&bytes[common..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
