//! GIN (PostgreSQL src/backend/access/gin/ginxlog.c, src/include/access/ginblock.h).
//!
//! Entry trees hold tuples, posting trees hold heap tuple ids: inner pages as fixed items, leaves as compressed
//! segments ([`posting`]). New entries wait in a list of pages first.

mod posting;

use super::index_tuple::{block_bytes, take};
use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{HEADER_BYTES, Page};

const CREATE_POSTING_TREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const DELETE_PAGE: u8 = 0x50;
const UPDATE_META_PAGE: u8 = 0x60;
const INSERT_LIST_PAGE: u8 = 0x70;
const DELETE_LIST_PAGE: u8 = 0x80;
const VACUUM_DATA_LEAF_PAGE: u8 = 0x90;

const INSERT_IS_DATA: u16 = 1;
const INSERT_IS_LEAF: u16 = 2;

/// Bytes of the special space: right link u32, item count u16, flags u16.
const SPECIAL_BYTES: usize = 8;
const FLAG_DATA: u16 = 1;
const FLAG_LEAF: u16 = 2;
const FLAG_DELETED: u16 = 4;
const FLAG_META: u16 = 8;
const FLAG_LIST: u16 = 16;
const FLAG_LIST_FULL_ROW: u16 = 32;
const FLAG_INCOMPLETE_SPLIT: u16 = 64;
const FLAG_COMPRESSED: u16 = 128;
const NO_BLOCK: u32 = 0xFFFF_FFFF;

const META_BYTES: usize = 56;
/// Data pages begin with their right bound, a tuple id rounded up to 8.
const DATA_START: usize = HEADER_BYTES + 8;
/// An item of an inner data page: child block, then a tuple id.
const ITEM_BYTES: usize = 10;

fn special(page: &Page<'_>) -> Result<usize, Misfit> {
    page.special_space(SPECIAL_BYTES)
}

fn init(page: &mut Page<'_>, flags: u16) -> Result<(), Misfit> {
    page.init(SPECIAL_BYTES);
    set_right_link(page, NO_BLOCK)?;
    page.put_u16(special(page)? + 6, flags)
}

fn set_right_link(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    page.put_u32(special(page)?, block)
}

fn item_count(page: &Page<'_>) -> Result<usize, Misfit> {
    page.u16(special(page)? + 4).map(usize::from)
}

fn set_item_count(page: &mut Page<'_>, count: usize) -> Result<(), Misfit> {
    page.put_u16(special(page)? + 4, count as u16)
}

fn flags(page: &Page<'_>) -> Result<u16, Misfit> {
    page.u16(special(page)? + 6)
}

fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Result<(), Misfit> {
    page.put_u16(special(page)? + 6, flags(page)? & !clear | set)
}

/// Says how long a data page's contents are.
fn set_data_len(page: &mut Page<'_>, len: usize) -> Result<(), Misfit> {
    if DATA_START + len > special(page)? {
        return Err(Misfit::new("contents that fit a data page", len as u64));
    }
    page.set_lower(DATA_START + len);
    Ok(())
}

fn init_meta(page: &mut Page<'_>, meta: &[u8]) -> Result<(), Misfit> {
    init(page, FLAG_META)?;
    page.put(HEADER_BYTES, meta)?;
    page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(())
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    let mut main = Reader::new(record.main());
    let mut data = Reader::new(change.block.data());
    match (record.operation(), change.block.id()) {
        (CREATE_POSTING_TREE, 0) => {
            let len = main.count(1)?;
            init(page, FLAG_DATA | FLAG_LEAF | FLAG_COMPRESSED)?;
            set_data_len(page, len)?;
            page.put(DATA_START, main.take(len)?)
        }
        (INSERT, 1) | (SPLIT, 3) => change_flags(page, FLAG_INCOMPLETE_SPLIT, 0),
        (INSERT, 0) => insert(page, &mut main, data),
        (VACUUM_DATA_LEAF_PAGE, 0) => posting::recompress(page, data),
        (DELETE_PAGE, id) => {
            let parent_offset = main.u16()?;
            main.skip(2)?;
            let (right_link, xid) = (main.u32()?, main.u32()?);
            match id {
                0 => {
                    change_flags(page, 0, FLAG_DELETED)?;
                    page.set_prune_xid(xid);
                    Ok(())
                }
                1 => delete_posting_item(page, parent_offset.into()),
                2 => set_right_link(page, right_link),
                id => Err(Misfit::new("block 0 to 2", id.into())),
            }
        }
        (UPDATE_META_PAGE, id) => {
            main.skip(16)?;
            let meta = main.take(META_BYTES)?;
            let (_previous_tail, new_right, count) = (main.u32()?, main.u32()?, main.i32()?);
            match id {
                0 => init_meta(page, meta),
                1 if count > 0 => {
                    append(page, &mut data)?;
                    let items = item_count(page)?;
                    set_item_count(page, items.wrapping_add(1))
                }
                1 => set_right_link(page, new_right),
                id => Err(Misfit::new("block 0 or 1", id.into())),
            }
        }
        (INSERT_LIST_PAGE, 0) => {
            let right_link = main.u32()?;
            let is_full_row = right_link == NO_BLOCK;
            init(page, if is_full_row { FLAG_LIST | FLAG_LIST_FULL_ROW } else { FLAG_LIST })?;
            set_right_link(page, right_link)?;
            set_item_count(page, is_full_row.into())?;
            append(page, &mut data)
        }
        (DELETE_LIST_PAGE, 0) => init_meta(page, main.take(META_BYTES)?),
        (DELETE_LIST_PAGE, _) => init(page, FLAG_DELETED),
        (_, id) => Err(Misfit::new("an image, or a block that the record changes", id.into())),
    }?;
    Ok(Touch::Changed)
}

fn append(page: &mut Page<'_>, data: &mut Reader<'_>) -> Result<(), Misfit> {
    while !data.is_empty() {
        page.append_item(take(data)?)?;
    }
    Ok(())
}

fn insert(page: &mut Page<'_>, main: &mut Reader<'_>, mut data: Reader<'_>) -> Result<(), Misfit> {
    let flags = main.u16()?;
    let right_child = if flags & INSERT_IS_LEAF == 0 {
        main.skip(4)?;
        let (high, low) = (main.u16()?, main.u16()?);
        Some(u32::from(high) << 16 | u32::from(low))
    } else {
        None
    };
    match (flags & INSERT_IS_DATA != 0, right_child) {
        (true, None) => posting::recompress(page, data),
        (true, Some(right_child)) => {
            let offset = usize::from(data.u16()?);
            let at = posting_item(page, offset)?;
            page.put(at, &block_bytes(right_child))?;
            add_posting_item(page, offset, data.take(ITEM_BYTES)?)
        }
        (false, right_child) => {
            let (offset, delete) = (usize::from(data.u16()?), data.u8()? != 0);
            data.u8()?;
            if let Some(right_child) = right_child {
                let (start, _) = page.normal_item(offset, 8)?;
                page.put(start, &block_bytes(right_child))?;
                page.put_u16(start + 4, 0)?;
            }
            if delete {
                page.delete_item(offset)?;
            }
            page.insert_item(offset, take(&mut data)?)
        }
    }
}

/// Where an existing item of an inner data page lies.
fn posting_item(page: &Page<'_>, offset: usize) -> Result<usize, Misfit> {
    let count = item_count(page)?;
    if offset == 0 || offset > count || DATA_START + count * ITEM_BYTES > special(page)? {
        return Err(Misfit::new("an item of the data page", offset as u64));
    }
    Ok(DATA_START + (offset - 1) * ITEM_BYTES)
}

fn add_posting_item(page: &mut Page<'_>, offset: usize, item: &[u8]) -> Result<(), Misfit> {
    let at = posting_item(page, offset)?;
    let count = item_count(page)?;
    set_data_len(page, (count + 1) * ITEM_BYTES)?;
    page.bytes_mut().copy_within(at..DATA_START + count * ITEM_BYTES, at + ITEM_BYTES);
    page.put(at, item)?;
    set_item_count(page, count + 1)
}

fn delete_posting_item(page: &mut Page<'_>, offset: usize) -> Result<(), Misfit> {
    let at = posting_item(page, offset)?;
    let count = item_count(page)?;
    page.bytes_mut().copy_within(at + ITEM_BYTES..DATA_START + count * ITEM_BYTES, at);
    set_data_len(page, (count - 1) * ITEM_BYTES)?;
    set_item_count(page, count - 1)
}
