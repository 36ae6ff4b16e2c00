//! Index tuples (PostgreSQL src/include/access/itup.h): tuple id (6 bytes), then size and flags (2 bytes).

use crate::postgres::bytes::{Misfit, Reader, align8};
use crate::postgres::page::{LinePointer, Page};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 8;
/// Bytes of a tuple id.
pub(super) const TID_BYTES: usize = 6;
pub(super) const SIZE_MASK: u16 = 0x1FFF;

/// The u16 at `offset` of a tuple.
pub(super) fn u16_at(tuple: &[u8], offset: usize) -> Result<u16, Misfit> {
    match tuple.get(offset..).and_then(|bytes| bytes.first_chunk()) {
        Some(bytes) => Ok(u16::from_le_bytes(*bytes)),
        None => Err(Misfit::new("a longer index tuple", tuple.len() as u64)),
    }
}

/// A tuple's own length, as its header says: at least the header, at most what is there.
pub(super) fn size(tuple: &[u8]) -> Result<usize, Misfit> {
    let size = usize::from(u16_at(tuple, 6)? & SIZE_MASK);
    if size < HEADER_BYTES || size > tuple.len() {
        return Err(Misfit::new("an index tuple's size", size as u64));
    }
    Ok(size)
}

/// The block number of the tuple id at the start of `tuple`: high half first.
pub(super) fn block(tuple: &[u8]) -> Result<u32, Misfit> {
    Ok(u32::from(u16_at(tuple, 0)?) << 16 | u32::from(u16_at(tuple, 2)?))
}

/// A block number as tuple ids store it.
pub(super) fn block_bytes(block: u32) -> [u8; 4] {
    let [h0, h1] = ((block >> 16) as u16).to_le_bytes();
    let [l0, l1] = (block as u16).to_le_bytes();
    [h0, h1, l0, l1]
}

/// Fills an empty page with tuples that each take their size rounded up to 8. In `data` the highest offset comes first
/// and 1 last, which is how they lie on the page: they are copied at once.
pub(super) fn restore_reversed(page: &mut Page<'_>, data: &[u8]) -> Result<(), Misfit> {
    let mut count = 0;
    let mut rest = data;
    while !rest.is_empty() {
        let (_, after) = split(rest)?;
        rest = after;
        count += 1;
    }
    page.add_item_area(data, count)?;
    let start = page.upper();
    let mut position = 0;
    for offset in (1..=count).rev() {
        let len = align8(size(&data[position..])?);
        page.set_pointer(offset, LinePointer::normal(start + position, len))?;
        position += len;
    }
    Ok(())
}

/// The first tuple, rounded up, and what follows.
fn split(data: &[u8]) -> Result<(&[u8], &[u8]), Misfit> {
    data.split_at_checked(align8(size(data)?))
        .ok_or(Misfit::new("whole index tuples", data.len() as u64))
}

/// Takes the next tuple, which occupies exactly its size.
pub(super) fn take<'a>(data: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    data.take(size(data.rest())?)
}

/// Takes the next tuple, which occupies its size rounded up to 8.
pub(super) fn take_rounded<'a>(data: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    data.take(align8(size(data.rest())?))
}
