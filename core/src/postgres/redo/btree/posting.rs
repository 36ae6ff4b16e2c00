//! Posting lists: one key with the sorted ids of many heap tuples (PostgreSQL src/backend/access/nbtree/nbtdedup.c).
//!
//! A posting tuple has the alternative-tid flag, its id's offset is the number of ids | 0x2000, its id's block is where
//! the ids begin.

use super::{ALTERNATIVE_TID, Change, SPECIAL_BYTES, first_data_offset};
use crate::postgres::bytes::{Misfit, Reader, align8};
use crate::postgres::page::Page;
use crate::postgres::redo::index_tuple::{
    HEADER_BYTES, SIZE_MASK, TID_BYTES, block, block_bytes, size, u16_at,
};

const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0FFF;

/// A third of a page is the most that a tuple of a B-tree can be (BTMaxItemSize is 2704).
const TUPLE_BYTES_MAX: usize = 2712;

/// A tuple being made.
struct Buffer {
    bytes: [u8; TUPLE_BYTES_MAX],
    len: usize,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer { bytes: [0; TUPLE_BYTES_MAX], len: 0 }
    }
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Misfit> {
        let end = self.len + bytes.len();
        match self.bytes.get_mut(self.len..end) {
            Some(place) => place.copy_from_slice(bytes),
            None => {
                return Err(Misfit::new("a B-tree tuple of at most a third of a page", end as u64));
            }
        }
        self.len = end;
        Ok(())
    }

    fn start(key: &[u8]) -> Result<Buffer, Misfit> {
        let mut buffer = Buffer::default();
        buffer.push(key)?;
        Ok(buffer)
    }

    /// Begins another tuple, over the bytes of the last.
    fn restart(&mut self, key: &[u8]) -> Result<(), Misfit> {
        self.len = 0;
        self.push(key)
    }

    fn rounded(&self) -> &[u8] {
        // A multiple of 8 above the largest length exists in the buffer. It is zero there: from the beginning, or since
        // `finish`.
        &self.bytes[..align8(self.len)]
    }

    /// Makes what is here, a key of `key_len` bytes and then tuple ids, into a tuple: plain with one id, else a list.
    fn finish(&mut self, key_len: usize) -> Result<(), Misfit> {
        let count = (self.len - key_len) / TID_BYTES;
        let info = u16_at(&self.bytes, 6)? & !(SIZE_MASK | ALTERNATIVE_TID);
        let info = if count == 1 {
            self.bytes.copy_within(key_len..key_len + TID_BYTES, 0);
            self.len = key_len;
            self.bytes[key_len..align8(key_len)].fill(0);
            info
        } else {
            let head = block_bytes(key_len as u32);
            self.bytes[..4].copy_from_slice(&head);
            self.bytes[4..6].copy_from_slice(&(count as u16 | IS_POSTING).to_le_bytes());
            let ids_end = self.len;
            self.len = align8(ids_end);
            self.bytes[ids_end..self.len].fill(0);
            info | ALTERNATIVE_TID
        };
        self.bytes[6..8].copy_from_slice(&(info | self.len as u16).to_le_bytes());
        Ok(())
    }
}

const _: () = assert!(TUPLE_BYTES_MAX.is_multiple_of(8));

/// A tuple's key and its heap tuple ids: one for a plain tuple.
struct Parts<'a> {
    key: &'a [u8],
    ids: &'a [u8],
}

fn is_posting(tuple: &[u8]) -> Result<bool, Misfit> {
    Ok(u16_at(tuple, 6)? & ALTERNATIVE_TID != 0 && u16_at(tuple, 4)? & IS_POSTING != 0)
}

fn parts(tuple: &[u8]) -> Result<Parts<'_>, Misfit> {
    let tuple = &tuple[..size(tuple)?];
    if !is_posting(tuple)? {
        return Ok(Parts { key: tuple, ids: &tuple[..TID_BYTES] });
    }
    let key_len = block(tuple)? as usize;
    let ids_len = usize::from(u16_at(tuple, 4)? & COUNT_MASK) * TID_BYTES;
    let ids = tuple.get(key_len..).and_then(|ids| ids.get(..ids_len));
    match ids {
        Some(ids) if key_len >= HEADER_BYTES => Ok(Parts { key: &tuple[..key_len], ids }),
        _ => Err(Misfit::new("a posting list inside its tuple", key_len as u64)),
    }
}

/// A posting tuple and a new tuple after the new one's id went into the list and the last id came out.
#[derive(Default)]
pub(super) struct Swapped {
    posting: Buffer,
    new_tuple: Buffer,
}

impl Swapped {
    /// The posting tuple that replaces the old one, its length rounded up.
    pub fn posting(&self) -> &[u8] {
        self.posting.rounded()
    }

    /// The tuple to insert, its length rounded up.
    pub fn new_tuple(&self) -> &[u8] {
        self.new_tuple.rounded()
    }
}

/// Puts the id of `new_tuple` at `posting_offset` of the list in `old`; the list's last id becomes the new tuple's
/// (_bt_swap_posting).
pub(super) fn swap(old: &[u8], new_tuple: &[u8], posting_offset: u16) -> Result<Swapped, Misfit> {
    let Parts { key, ids } = parts(old)?;
    let at = usize::from(posting_offset) * TID_BYTES;
    if !is_posting(old)? || at == 0 || at >= ids.len() {
        return Err(Misfit::new("a place inside a posting list", posting_offset.into()));
    }
    let mut posting = Buffer::start(&old[..size(old)?])?;
    let new_size = size(new_tuple)?;
    let list = &mut posting.bytes[key.len()..key.len() + ids.len()];
    list.copy_within(at..ids.len() - TID_BYTES, at + TID_BYTES);
    list[at..at + TID_BYTES].copy_from_slice(&new_tuple[..TID_BYTES]);
    let mut swapped_in = Buffer::start(&new_tuple[..new_size])?;
    swapped_in.bytes[..TID_BYTES].copy_from_slice(&ids[ids.len() - TID_BYTES..]);
    Ok(Swapped { posting, new_tuple: swapped_in })
}

/// INSERT_POST: the new tuple's id belongs inside the posting list before it.
pub(super) fn insert(page: &mut Page<'_>, offset: usize, data: &[u8]) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    let posting_offset = data.u16()?;
    let posting_at = offset.wrapping_sub(1);
    let (start, len) = page.normal_item(posting_at, HEADER_BYTES)?;
    let swapped = swap(page.slice(start, len)?, data.rest(), posting_offset)?;
    page.put(start, swapped.posting())?;
    page.insert_item(offset, swapped.new_tuple())
}

/// DEDUP: tuples covered by an interval become one posting tuple, the others stay; the page is rebuilt.
pub(super) fn deduplicate(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let count = usize::from(Reader::new(change.record.main()).u16()?);
    let mut intervals = Reader::new(Reader::new(change.block.data()).take(count * 4)?);
    let mut old_bytes = *page.bytes();
    let old = Page::new(&mut old_bytes);
    let special_at = old.special_space(SPECIAL_BYTES)?;
    page.init(SPECIAL_BYTES);
    page.put(special_at, old.slice(special_at, SPECIAL_BYTES)?)?;

    let first = first_data_offset(&old)?;
    if first == 2 {
        let (start, len) = old.item(1)?;
        page.append_item(old.slice(start, len)?)?;
    }
    let mut pending = Buffer::default();
    let mut next = next_interval(&mut intervals)?;
    let mut offset = first;
    let max = old.max_offset();
    while offset <= max {
        let items = match next {
            Some((base, items)) if base == offset => {
                next = next_interval(&mut intervals)?;
                items
            }
            _ => 1,
        };
        if items == 0 || offset + items - 1 > max {
            return Err(Misfit::new("an interval of tuples on the page", items as u64));
        }
        let (start, len) = old.item(offset)?;
        let tuple = old.slice(start, len)?;
        if items == 1 {
            page.append_item(&tuple[..size(tuple)?])?;
        } else {
            let key = parts(tuple)?.key;
            pending.restart(key)?;
            for item in offset..offset + items {
                let (start, len) = old.item(item)?;
                pending.push(parts(old.slice(start, len)?)?.ids)?;
            }
            pending.finish(key.len())?;
            page.append_item(pending.rounded())?;
        }
        offset += items;
    }
    if next.is_some() {
        return Err(Misfit::new("intervals in the order of the page's tuples", offset as u64));
    }
    super::clear_flag(page, super::FLAG_HAS_GARBAGE)
}

fn next_interval(intervals: &mut Reader<'_>) -> Result<Option<(usize, usize)>, Misfit> {
    if intervals.is_empty() {
        return Ok(None);
    }
    Ok(Some((intervals.u16()?.into(), intervals.u16()?.into())))
}

/// DELETE and VACUUM: first some posting tuples lose ids, then whole tuples go.
pub(super) fn delete(
    page: &mut Page<'_>,
    deleted: u16,
    updated: u16,
    data: &[u8],
) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    let deleted = data.take(usize::from(deleted) * 2)?;
    let mut updated = Reader::new(data.take(usize::from(updated) * 2)?);
    let mut kept = Buffer::default();
    while !updated.is_empty() {
        let offset = usize::from(updated.u16()?);
        let count = usize::from(data.u16()?);
        let removed = data.take(count * 2)?.as_chunks::<2>().0;
        let (start, len) = page.item(offset)?;
        let tuple = page.slice(start, len)?;
        let Parts { key, ids } = parts(tuple)?;
        if !is_posting(tuple)? {
            return Err(Misfit::new("a posting tuple", offset as u64));
        }
        let mut removed = removed.iter().map(|index| usize::from(u16::from_le_bytes(*index)));
        let mut next_removed = removed.next();
        kept.restart(key)?;
        for (index, id) in ids.as_chunks::<TID_BYTES>().0.iter().enumerate() {
            if next_removed == Some(index) {
                next_removed = removed.next();
            } else {
                kept.push(id)?;
            }
        }
        if next_removed.is_some() || kept.len == key.len() {
            return Err(Misfit::new("ids of the posting list, not all of them", count as u64));
        }
        kept.finish(key.len())?;
        page.overwrite_item(offset, kept.rounded())?;
    }
    if !data.is_empty() {
        return Err(Misfit::new("no bytes after the last update", data.len() as u64));
    }
    page.delete_items(deleted)
}
