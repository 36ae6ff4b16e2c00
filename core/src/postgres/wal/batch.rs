//! Several records at once: whoever replays them can look ahead of the one at hand.

use super::decoder::Whole;
use super::{Decoder, Layout, Record, WalError, WalVersion};
use crate::types::Lsn;

/// A few decoded records. Its memory is used again by the next ones.
#[derive(Debug)]
pub struct RecordBatch<'i> {
    slots: Vec<Slot<'i>>,
    len: usize,
}

#[derive(Debug)]
struct Slot<'i> {
    start: Lsn,
    end: Lsn,
    version: WalVersion,
    layout: Layout,
    /// Where the record lies in the input, if it lies there in one piece; else it is in `copy`.
    bytes: Option<&'i [u8]>,
    copy: Vec<u8>,
}

impl<'i> RecordBatch<'i> {
    /// Room for `records` records, at least one.
    pub fn new(records: usize) -> RecordBatch<'i> {
        let slot = || Slot {
            start: Lsn::INVALID,
            end: Lsn::INVALID,
            version: WalVersion::V18,
            layout: Layout::new(),
            bytes: None,
            copy: Vec::new(),
        };
        RecordBatch { slots: std::iter::repeat_with(slot).take(records.max(1)).collect(), len: 0 }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records, in order.
    #[inline]
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.slots[..self.len].iter().map(|slot| {
            let bytes = slot.bytes.unwrap_or(&slot.copy);
            Record::of_parsed(bytes, &slot.layout, slot.version, slot.start, slot.end)
        })
    }

    /// Takes the next records from `decoder`, up to as many as there is room for; none when `input` is used up. An
    /// error that follows good records is told by the next call.
    pub fn fill(&mut self, decoder: &mut Decoder, input: &mut &'i [u8]) -> Result<(), WalError> {
        self.len = 0;
        for slot in &mut self.slots {
            let whole = decoder.next_whole(input, &mut slot.layout);
            let found = whole.and_then(|found| match found {
                Some(Whole { bytes, version, start, end }) => {
                    (slot.bytes, slot.version, slot.start, slot.end) =
                        (Some(bytes), version, start, end);
                    Ok(true)
                }
                None => match decoder.next(input)? {
                    Some(record) => {
                        slot.copy.clear();
                        slot.copy.extend_from_slice(record.bytes());
                        slot.layout.clone_from(record.layout());
                        (slot.bytes, slot.version, slot.start, slot.end) =
                            (None, record.version, record.start, record.end);
                        Ok(true)
                    }
                    None => Ok(false),
                },
            });
            match found {
                Ok(true) => self.len += 1,
                Ok(false) => break,
                Err(_) if self.len > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
