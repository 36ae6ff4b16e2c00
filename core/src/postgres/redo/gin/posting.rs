//! Leaves of posting trees: segments of delta-coded tuple ids (PostgreSQL src/backend/access/gin/ginpostinglist.c).
//!
//! A segment is its first tuple id (6 bytes), a length (2 bytes), then for each further id the difference to the one
//! before, 7 bits to a byte, low ones first, the high bit set when more follow; padded to an even length with zero. As a
//! number an id is block << 11 | offset.

use super::{
    DATA_START, FLAG_COMPRESSED, change_flags, flags, item_count, set_data_len, set_item_count,
    special,
};
use crate::postgres::bytes::{Misfit, Reader, align2};
use crate::postgres::page::{PAGE_BYTES, Page};

const OFFSET_BITS: u32 = 11;
const SEGMENT_HEADER_BYTES: usize = 8;
const ID_BYTES: usize = 6;

const DELETE: u8 = 1;
const INSERT: u8 = 2;
const REPLACE: u8 = 3;
const ADD_ITEMS: u8 = 4;

/// The new contents of a leaf as they are made.
struct Output {
    bytes: [u8; PAGE_BYTES],
    len: usize,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Misfit> {
        let end = self.len + bytes.len();
        let place = self.bytes.get_mut(self.len..end);
        place.ok_or(Misfit::new("segments that fit a page", end as u64))?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

fn id_to_number(id: &[u8; ID_BYTES]) -> u64 {
    let half = |at: usize| u64::from(u16::from_le_bytes([id[at], id[at + 1]]));
    (half(0) << 16 | half(2)) << OFFSET_BITS | half(4)
}

fn number_to_id(number: u64) -> [u8; ID_BYTES] {
    let [b0, b1, b2, b3] = super::block_bytes((number >> OFFSET_BITS) as u32);
    let [o0, o1] = ((number & ((1 << OFFSET_BITS) - 1)) as u16).to_le_bytes();
    [b0, b1, b2, b3, o0, o1]
}

/// The ids of a segment, as numbers.
struct Ids<'a> {
    first: Option<u64>,
    last: u64,
    deltas: Reader<'a>,
}

impl<'a> Ids<'a> {
    fn of(segment: &'a [u8]) -> Result<Ids<'a>, Misfit> {
        let mut reader = Reader::new(segment);
        let first =
            id_to_number(reader.take(ID_BYTES)?.first_chunk().expect("six bytes were taken"));
        let len = reader.u16()?;
        Ok(Ids { first: Some(first), last: first, deltas: Reader::new(reader.take(len.into())?) })
    }

    fn next(&mut self) -> Result<Option<u64>, Misfit> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.deltas.is_empty() {
            return Ok(None);
        }
        let mut delta = 0;
        let mut shift = 0;
        loop {
            let byte = self.deltas.u8()?;
            delta |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 42 {
                return Err(Misfit::new("a difference of at most 43 bits", delta));
            }
        }
        self.last = self.last.wrapping_add(delta);
        Ok(Some(self.last))
    }
}

/// Writes ids, ascending, as one segment.
struct Encoder<'o> {
    output: &'o mut Output,
    start: usize,
    last: Option<u64>,
}

impl<'o> Encoder<'o> {
    fn new(output: &'o mut Output) -> Encoder<'o> {
        let start = output.len;
        Encoder { output, start, last: None }
    }

    fn push(&mut self, number: u64) -> Result<(), Misfit> {
        match self.last {
            None => {
                self.output.push(&number_to_id(number))?;
                self.output.push(&[0, 0])?;
            }
            Some(last) => {
                let mut delta = number.wrapping_sub(last);
                while delta > 0x7F {
                    self.output.push(&[delta as u8 | 0x80])?;
                    delta >>= 7;
                }
                self.output.push(&[delta as u8])?;
            }
        }
        self.last = Some(number);
        Ok(())
    }

    fn finish(self) -> Result<(), Misfit> {
        if self.last.is_none() {
            return Ok(());
        }
        let len = self.output.len - self.start - SEGMENT_HEADER_BYTES;
        self.output.bytes[self.start + ID_BYTES..self.start + SEGMENT_HEADER_BYTES]
            .copy_from_slice(&(len as u16).to_le_bytes());
        if len % 2 == 1 {
            self.output.push(&[0])?;
        }
        Ok(())
    }
}

/// Takes the first segment.
fn take_segment<'a>(segments: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    let mut header = *segments;
    header.skip(ID_BYTES)?;
    segments.take(SEGMENT_HEADER_BYTES + align2(header.u16()?.into()))
}

/// Merges a segment with further ids, ascending, into one segment; an id in both is kept once.
fn merge(output: &mut Output, segment: &[u8], added: &[u8]) -> Result<(), Misfit> {
    let mut old = Ids::of(segment)?;
    let mut added = added.as_chunks::<ID_BYTES>().0.iter().map(id_to_number);
    let mut encoder = Encoder::new(output);
    let (mut next_old, mut next_added) = (old.next()?, added.next());
    loop {
        let number = match (next_old, next_added) {
            (None, None) => return encoder.finish(),
            (Some(old), None) => old,
            (None, Some(added)) => added,
            (Some(old), Some(added)) => old.min(added),
        };
        encoder.push(number)?;
        if next_old == Some(number) {
            next_old = old.next()?;
        }
        if next_added == Some(number) {
            next_added = added.next();
        }
    }
}

/// Applies a record's actions on segments: each names an old segment by its place.
pub(super) fn recompress(page: &mut Page<'_>, mut data: Reader<'_>) -> Result<(), Misfit> {
    if flags(page)? & FLAG_COMPRESSED == 0 {
        compress_old_leaf(page)?;
    }
    let lower = page.lower();
    if lower < DATA_START || lower > special(page)? {
        return Err(Misfit::new("segments inside the page", lower as u64));
    }
    let mut output = Output { bytes: [0; PAGE_BYTES], len: 0 };
    {
        let mut old = Reader::new(page.slice(DATA_START, lower - DATA_START)?);
        let mut number = 0;
        for _ in 0..data.u16()? {
            let (at, action) = (data.u8()?, data.u8()?);
            while number < at {
                output.push(take_segment(&mut old)?)?;
                number += 1;
            }
            match action {
                INSERT | REPLACE => output.push(take_segment(&mut data)?)?,
                ADD_ITEMS => {
                    let count = usize::from(data.u16()?);
                    let added = data.take(count * ID_BYTES)?;
                    let mut rest = old;
                    merge(&mut output, take_segment(&mut rest)?, added)?;
                }
                DELETE => {}
                other => return Err(Misfit::new("an action on a segment", other.into())),
            }
            if action != INSERT {
                take_segment(&mut old)?;
                number += 1;
            }
        }
        output.push(old.rest())?;
    }
    set_data_len(page, output.len)?;
    page.put(DATA_START, &output.bytes[..output.len])
}

/// A leaf from before 9.4, plain ids, as pg_upgrade leaves it: becomes one segment.
fn compress_old_leaf(page: &mut Page<'_>) -> Result<(), Misfit> {
    let count = item_count(page)?;
    let mut output = Output { bytes: [0; PAGE_BYTES], len: 0 };
    let mut encoder = Encoder::new(&mut output);
    for id in page.slice(DATA_START, count * ID_BYTES)?.as_chunks::<ID_BYTES>().0 {
        encoder.push(id_to_number(id))?;
    }
    encoder.finish()?;
    set_data_len(page, output.len)?;
    page.put(DATA_START, &output.bytes[..output.len])?;
    change_flags(page, 0, FLAG_COMPRESSED)?;
    set_item_count(page, 0)
}
