//! Where records end, and nothing else: what an acceptor needs to acknowledge only whole records.

use super::WalError;
use super::framing::{Framing, Step};
use crate::types::Lsn;

/// Follows contiguous WAL and knows the end of its last complete, CRC-valid record. Copies nothing: about 250 bytes of
/// state whatever the records' size. Bytes that are no valid record are not an error for the caller: they are counted
/// in [`position`](Self::position) and never in [`record_end`](Self::record_end).
#[derive(Debug, Clone)]
pub struct RecordScanner {
    framing: Framing,
    record_end: Lsn,
    /// End of the last complete record; past `position` while its padding has not arrived.
    complete_end: Lsn,
}

impl RecordScanner {
    /// A scanner whose first byte will be the one at `start`: a record's start, or a page's start, whose header says
    /// whether the rest of a record comes first. A `segment_size_bytes` that Postgres does not allow gives a
    /// scanner with an error.
    pub fn new(start: Lsn, segment_size_bytes: u32) -> RecordScanner {
        RecordScanner {
            framing: Framing::new(start, segment_size_bytes),
            record_end: start,
            complete_end: start,
        }
    }

    /// Takes the bytes at [`position`](Self::position). They may be cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        loop {
            match self.framing.step(&mut input) {
                Step::Starved => break,
                Step::Bytes { end: Some(end), .. } | Step::Skipped { end } => {
                    // Whatever comes after a record lies past its padding.
                    self.record_end = self.complete_end;
                    self.complete_end = end;
                }
                Step::Bytes { end: None, .. } | Step::Overwritten { .. } | Step::Failed => {}
            }
        }
        if self.complete_end <= self.framing.position() {
            self.record_end = self.complete_end;
        }
    }

    /// The position of the next byte to push.
    pub fn position(&self) -> Lsn {
        self.framing.position()
    }

    /// End of the last complete, CRC-valid record, at most [`position`](Self::position): 8-aligned, so it waits for
    /// the record's padding; after XLOG_SWITCH the next segment's start, once the bytes up to it have come. The
    /// `start` while there is none.
    pub fn record_end(&self) -> Lsn {
        self.record_end
    }

    /// Why the bytes after [`record_end`](Self::record_end) are not valid WAL, if they are not.
    pub fn error(&self) -> Option<&WalError> {
        self.framing.error()
    }
}

#[cfg(test)]
mod tests;
