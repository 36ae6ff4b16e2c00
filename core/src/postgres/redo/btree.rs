//! B-tree (PostgreSQL src/backend/access/nbtree/nbtxlog.c, src/include/access/nbtxlog.h).
//!
//! Inserts and deletions are here, splits, deduplication and posting lists in [`posting`] and [`split`].

mod posting;
mod split;

use super::index_tuple::{block, block_bytes, restore_reversed};
use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{HEADER_BYTES, Page};
use crate::postgres::wal::WalVersion;

const INSERT_LEAF: u8 = 0x00;
const INSERT_UPPER: u8 = 0x10;
const INSERT_META: u8 = 0x20;
const SPLIT_L: u8 = 0x30;
const SPLIT_R: u8 = 0x40;
const INSERT_POST: u8 = 0x50;
const DEDUP: u8 = 0x60;
const DELETE: u8 = 0x70;
const UNLINK_PAGE: u8 = 0x80;
const UNLINK_PAGE_META: u8 = 0x90;
const NEW_ROOT: u8 = 0xA0;
const MARK_PAGE_HALF_DEAD: u8 = 0xB0;
const VACUUM: u8 = 0xC0;
const REUSE_PAGE: u8 = 0xD0;
const META_CLEANUP: u8 = 0xE0;

/// Bytes of the special space: prev, next, level (u32 each), flags, cycle id (u16 each).
const SPECIAL_BYTES: usize = 16;
const FLAG_LEAF: u16 = 1;
const FLAG_ROOT: u16 = 2;
const FLAG_DELETED: u16 = 4;
const FLAG_META: u16 = 8;
const FLAG_HALF_DEAD: u16 = 16;
const FLAG_HAS_GARBAGE: u16 = 64;
const FLAG_INCOMPLETE_SPLIT: u16 = 128;
const FLAG_HAS_FULL_XID: u16 = 256;

const META_MAGIC: u32 = 0x0005_3162;
const META_LOWER: usize = 72;
const ALTERNATIVE_TID: u16 = 0x2000;

/// What a page's special space says.
struct Special {
    previous: u32,
    next: u32,
    level: u32,
    flags: u16,
}

impl Special {
    fn put(&self, page: &mut Page<'_>) -> Result<(), Misfit> {
        let at = page.special_space(SPECIAL_BYTES)?;
        page.put_u32(at, self.previous)?;
        page.put_u32(at + 4, self.next)?;
        page.put_u32(at + 8, self.level)?;
        page.put_u16(at + 12, self.flags)?;
        page.put_u16(at + 14, 0)
    }
}

/// An empty page with this special space.
fn init(page: &mut Page<'_>, special: Special) -> Result<(), Misfit> {
    page.init(SPECIAL_BYTES);
    special.put(page)
}

fn clear_flag(page: &mut Page<'_>, flag: u16) -> Result<(), Misfit> {
    let at = page.special_space(SPECIAL_BYTES)? + 12;
    page.put_u16(at, page.u16(at)? & !flag)
}

fn set_previous(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    page.put_u32(page.special_space(SPECIAL_BYTES)?, block)
}

fn set_next(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    page.put_u32(page.special_space(SPECIAL_BYTES)? + 4, block)
}

fn is_rightmost(page: &Page<'_>) -> Result<bool, Misfit> {
    Ok(page.u32(page.special_space(SPECIAL_BYTES)? + 4)? == 0)
}

/// The first line pointer that is no high key.
fn first_data_offset(page: &Page<'_>) -> Result<usize, Misfit> {
    Ok(if is_rightmost(page)? { 1 } else { 2 })
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    let data = change.block.data();
    match (record.operation(), change.block.id()) {
        (INSERT_LEAF | INSERT_UPPER | INSERT_META, 0) => {
            let offset = Reader::new(record.main()).u16()?;
            page.insert_item(offset.into(), data)
        }
        (INSERT_UPPER | INSERT_META | NEW_ROOT, 1) | (SPLIT_L | SPLIT_R, 3) => {
            clear_flag(page, FLAG_INCOMPLETE_SPLIT)
        }
        (INSERT_META | NEW_ROOT, 2) | (UNLINK_PAGE_META, 4) | (META_CLEANUP, 0) => {
            restore_meta(page, data)
        }
        (INSERT_POST, 0) => {
            let offset = Reader::new(record.main()).u16()?;
            posting::insert(page, offset.into(), data)
        }
        (SPLIT_L | SPLIT_R, 0) => split::left(change, page, record.operation() == SPLIT_L),
        (SPLIT_L | SPLIT_R, 1) => split::right(change, page),
        (SPLIT_L | SPLIT_R, 2) => set_previous(page, record.expect_block(1)?.number()),
        (DEDUP, 0) => posting::deduplicate(change, page),
        (DELETE, 0) => {
            let mut main = Reader::new(record.main());
            main.u32()?;
            posting::delete(page, main.u16()?, main.u16()?, data)?;
            clear_flag(page, FLAG_HAS_GARBAGE)
        }
        (VACUUM, 0) => {
            let mut main = Reader::new(record.main());
            posting::delete(page, main.u16()?, main.u16()?, data)?;
            if record.version >= WalVersion::V18 {
                page.put_u16(page.special_space(SPECIAL_BYTES)? + 14, 0)?;
            }
            clear_flag(page, FLAG_HAS_GARBAGE)
        }
        (MARK_PAGE_HALF_DEAD, id) => mark_half_dead(change, page, id),
        (UNLINK_PAGE | UNLINK_PAGE_META, id) => unlink(change, page, id),
        (NEW_ROOT, 0) => new_root(change, page),
        (REUSE_PAGE, _) => return Ok(Touch::Unchanged),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }?;
    Ok(Touch::Changed)
}

/// xl_btree_metadata into the meta page.
fn restore_meta(page: &mut Page<'_>, data: &[u8]) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    init(page, Special { previous: 0, next: 0, level: 0, flags: FLAG_META })?;
    page.put_u32(HEADER_BYTES, META_MAGIC)?;
    // Version, root, level, fast root, fast level, deleted pages at the last cleanup.
    page.put(HEADER_BYTES + 4, data.take(24)?)?;
    page.put(HEADER_BYTES + 32, &(-1f64).to_le_bytes())?;
    page.put(HEADER_BYTES + 40, &[u8::from(data.u8()? != 0)])?;
    page.set_lower(META_LOWER);
    Ok(())
}

fn new_root(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let (_root, level) = (main.u32()?, main.u32()?);
    let flags = if level == 0 { FLAG_ROOT | FLAG_LEAF } else { FLAG_ROOT };
    init(page, Special { previous: 0, next: 0, level, flags })?;
    if level > 0 { restore_reversed(page, change.block.data()) } else { Ok(()) }
}

/// A half-dead leaf holds one tuple: the block of the topmost page of the subtree that goes with it.
fn init_half_dead(page: &mut Page<'_>, left: u32, right: u32, top: u32) -> Result<(), Misfit> {
    let flags = FLAG_HALF_DEAD | FLAG_LEAF;
    init(page, Special { previous: left, next: right, level: 0, flags })?;
    let [b0, b1, b2, b3] = block_bytes(top);
    let [s0, s1] = (8 | ALTERNATIVE_TID).to_le_bytes();
    page.append_item(&[b0, b1, b2, b3, 0, 0, s0, s1])
}

fn mark_half_dead(change: &Change<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let parent_offset = usize::from(main.u16()?);
    main.u16()?;
    let (_leaf, left, right, top) = (main.u32()?, main.u32()?, main.u32()?, main.u32()?);
    match id {
        0 => init_half_dead(page, left, right, top),
        1 => {
            let (next, next_len) = page.normal_item(parent_offset + 1, 8)?;
            let downlink = block(page.slice(next, next_len)?)?;
            let (start, _) = page.normal_item(parent_offset, 8)?;
            page.put(start, &block_bytes(downlink))?;
            page.delete_item(parent_offset + 1)
        }
        id => Err(Misfit::new("block 0 or 1", id.into())),
    }
}

fn unlink(change: &Change<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let (left, right, level) = (main.u32()?, main.u32()?, main.u32()?);
    main.u32()?;
    let safe_xid = main.u64()?;
    match id {
        0 => {
            let leaf = if level == 0 { FLAG_LEAF } else { 0 };
            let flags = FLAG_DELETED | FLAG_HAS_FULL_XID | leaf;
            init(page, Special { previous: left, next: right, level, flags })?;
            page.put(HEADER_BYTES, &safe_xid.to_le_bytes())?;
            page.set_lower(HEADER_BYTES + 8);
            Ok(())
        }
        1 => set_next(page, right),
        2 => set_previous(page, left),
        3 => {
            let (leaf_left, leaf_right, top) = (main.u32()?, main.u32()?, main.u32()?);
            init_half_dead(page, leaf_left, leaf_right, top)
        }
        id => Err(Misfit::new("block 0 to 4", id.into())),
    }
}
