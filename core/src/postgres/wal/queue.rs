//! Some records decoded ahead: whoever replays them can fetch what the later ones will touch.

use super::decoder::Whole;
use super::{Decoder, Layout, Record, WalError, WalVersion};
use crate::types::Lsn;

/// A few decoded records, the oldest first. Their memory is used again by the next ones.
#[derive(Debug)]
pub struct RecordQueue<'i> {
    slots: Vec<Slot<'i>>,
    first: usize,
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

impl Slot<'_> {
    #[inline]
    fn record(&self) -> Record<'_> {
        let bytes = self.bytes.unwrap_or(&self.copy);
        Record::of_parsed(bytes, &self.layout, self.version, self.start, self.end)
    }
}

impl<'i> RecordQueue<'i> {
    /// Room for `records` records, at least one.
    pub fn new(records: usize) -> RecordQueue<'i> {
        let slot = || Slot {
            start: Lsn::INVALID,
            end: Lsn::INVALID,
            version: WalVersion::V18,
            layout: Layout::new(),
            bytes: None,
            copy: Vec::new(),
        };
        let slots = std::iter::repeat_with(slot).take(records.max(1)).collect();
        RecordQueue { slots, first: 0, len: 0 }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The record that so many older ones precede.
    #[inline]
    pub fn get(&self, older: usize) -> Option<Record<'_>> {
        (older < self.len).then(|| self.slots[self.index(older)].record())
    }

    /// Forgets the oldest record.
    #[inline]
    pub fn pop(&mut self) {
        if self.len > 0 {
            self.len -= 1;
            // An empty queue begins with its first slot again: WAL that is read once more finds the buffers it needs.
            self.first = if self.len == 0 { 0 } else { self.index(1) };
        }
    }

    #[inline]
    fn index(&self, older: usize) -> usize {
        let index = self.first + older;
        if index < self.slots.len() { index } else { index - self.slots.len() }
    }

    /// Adds the next record of `decoder`; none when there is no room or when `input` is used up. After an error the
    /// records before it are still there.
    #[inline]
    pub fn decode(
        &mut self,
        decoder: &mut Decoder,
        input: &mut &'i [u8],
    ) -> Result<Option<Record<'_>>, WalError> {
        if self.len == self.slots.len() {
            return Ok(None);
        }
        let index = self.index(self.len);
        let slot = &mut self.slots[index];
        if let Some(whole) = decoder.next_whole(input, &mut slot.layout)? {
            let Whole { bytes, version, start, end } = whole;
            (slot.bytes, slot.version, slot.start, slot.end) = (Some(bytes), version, start, end);
        } else {
            let Some(record) = decoder.next(input)? else { return Ok(None) };
            slot.copy.clear();
            slot.copy.extend_from_slice(record.bytes());
            slot.layout.clone_from(record.layout());
            (slot.bytes, slot.version, slot.start, slot.end) =
                (None, record.version, record.start, record.end);
        }
        self.len += 1;
        Ok(Some(slot.record()))
    }
}

#[cfg(test)]
mod tests;
