//! GiST (PostgreSQL src/backend/access/gist/gistxlog.c, src/include/access/gistxlog.h).

use super::index_tuple::take;
use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{HEADER_BYTES, Page};
use crate::postgres::wal::WalVersion;
use crate::types::Lsn;

const PAGE_UPDATE: u8 = 0x00;
const DELETE: u8 = 0x10;
const PAGE_REUSE: u8 = 0x20;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;
const ASSIGN_LSN: u8 = 0x70;

/// Bytes of the special space: NSN (two u32, high first), right link u32, flags u16, page id u16.
const SPECIAL_BYTES: usize = 16;
const PAGE_ID: u16 = 0xFF81;
const NO_BLOCK: u32 = 0xFFFF_FFFF;
const ROOT_BLOCK: u32 = 0;
const FLAG_LEAF: u16 = 1;
const FLAG_DELETED: u16 = 2;
const FLAG_TUPLES_DELETED: u16 = 4;
const FLAG_FOLLOW_RIGHT: u16 = 8;
const FLAG_HAS_GARBAGE: u16 = 16;

fn special(page: &Page<'_>) -> Result<usize, Misfit> {
    page.special_space(SPECIAL_BYTES)
}

fn change_flags(page: &mut Page<'_>, clear: u16, set: u16) -> Result<(), Misfit> {
    let at = special(page)? + 12;
    page.put_u16(at, page.u16(at)? & !clear | set)
}

fn set_nsn(page: &mut Page<'_>, nsn: Lsn) -> Result<(), Misfit> {
    let at = special(page)?;
    page.put_u32(at, (nsn.0 >> 32) as u32)?;
    page.put_u32(at + 4, nsn.0 as u32)
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    match (record.operation(), change.block.id()) {
        (PAGE_UPDATE, 0) => update(change, page),
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => clear_follow_right(change, page),
        (DELETE, 0) => {
            page.delete_items(deleted(change)?)?;
            change_flags(page, FLAG_HAS_GARBAGE, FLAG_TUPLES_DELETED)
        }
        (PAGE_SPLIT, _) => split(change, page),
        (PAGE_DELETE, id) => {
            let mut main = Reader::new(record.main());
            let xid = main.take(8)?;
            let downlink = main.u16()?;
            match id {
                0 => {
                    change_flags(page, 0, FLAG_DELETED)?;
                    page.set_lower(HEADER_BYTES + 8);
                    page.put(HEADER_BYTES, xid)
                }
                1 => page.delete_item(downlink.into()),
                id => Err(Misfit::new("block 0 or 1", id.into())),
            }
        }
        (PAGE_REUSE | ASSIGN_LSN, _) => return Ok(Touch::Unchanged),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }?;
    Ok(Touch::Changed)
}

/// The left half of a finished split is marked even if its image was just restored.
pub(super) fn after_image(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    match (change.record.operation(), change.block.id()) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => clear_follow_right(change, page),
        _ => Ok(()),
    }
}

fn clear_follow_right(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    set_nsn(page, change.record.end)?;
    change_flags(page, FLAG_FOLLOW_RIGHT, 0)
}

fn update(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let (deleted, inserted) = (main.u16()?, main.u16()?);
    let mut data = Reader::new(change.block.data());
    let offsets = data.take(usize::from(deleted) * 2)?;
    if deleted == 1 && inserted == 1 {
        let offset = Reader::new(offsets).u16()?;
        page.overwrite_item(offset.into(), take(&mut data)?)?;
    } else if deleted > 0 {
        page.delete_items(offsets)?;
        if page.u16(special(page)? + 12)? & FLAG_LEAF != 0 {
            change_flags(page, 0, FLAG_TUPLES_DELETED)?;
        }
    }
    while !data.is_empty() {
        page.append_item(take(&mut data)?)?;
    }
    Ok(())
}

/// The offsets of a DELETE.
fn deleted<'a>(change: &Change<'a>) -> Result<&'a [u8], Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let count = main.u16()?;
    if change.record.version >= WalVersion::V16 {
        main.skip(2)?;
    }
    main.take(usize::from(count) * 2)
}

/// One of the pages that a page was split into.
fn split(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let record = change.record;
    let mut main = Reader::new(record.main());
    let original_right = main.u32()?;
    main.skip(4)?;
    let original_nsn = Lsn(main.u64()?);
    let original_is_leaf = main.u8()? != 0;
    main.skip(1)?;
    let pages = main.u16()?;
    let mark_follow_right = main.u8()? != 0;

    let block = change.block.number();
    let is_root_split = record.expect_block(1)?.number() == ROOT_BLOCK;
    let is_last = u16::from(change.block.id()) == pages;
    page.init(SPECIAL_BYTES);
    let mut data = Reader::new(change.block.data());
    for _ in 0..data.u32()? {
        page.append_item(take(&mut data)?)?;
    }
    let right = if block == ROOT_BLOCK {
        NO_BLOCK
    } else if is_last {
        original_right
    } else {
        record.expect_block(change.block.id().saturating_add(1))?.number()
    };
    let mut flags = if original_is_leaf && block != ROOT_BLOCK { FLAG_LEAF } else { 0 };
    if !is_last && !is_root_split && mark_follow_right {
        flags |= FLAG_FOLLOW_RIGHT;
    }
    let at = special(page)?;
    page.put_u32(at + 8, right)?;
    page.put_u16(at + 12, flags)?;
    page.put_u16(at + 14, PAGE_ID)?;
    set_nsn(page, original_nsn)
}
