//! BRIN: block ranges (PostgreSQL src/backend/access/brin/brin_xlog.c, src/include/access/brin_page.h).

use super::heap_tuple::TupleId;
use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{HEADER_BYTES, Page};

const OPERATION_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAME_PAGE_UPDATE: u8 = 0x30;
const REVMAP_EXTEND: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;

/// Bytes of the special space; flags are at 4, the page's type at 6.
const SPECIAL_BYTES: usize = 8;
const TYPE_META: u16 = 0xF091;
const TYPE_REVMAP: u16 = 0xF092;
const TYPE_REGULAR: u16 = 0xF093;

const META_MAGIC: u32 = 0xA810_9CFA;
const META_LOWER: usize = 40;
const META_LAST_REVMAP_PAGE: usize = HEADER_BYTES + 12;
const TUPLE_IDS_PER_REVMAP_PAGE: u32 = 1360;
const TUPLE_ID_BYTES: usize = 6;

fn init(page: &mut Page<'_>, page_type: u16) -> Result<(), Misfit> {
    page.init(SPECIAL_BYTES);
    page.put_u16(page.special_space(SPECIAL_BYTES)? + 6, page_type)
}

/// xl_brin_insert: which heap block's range, and where its summary is.
struct Insert {
    heap_block: u32,
    pages_per_range: u32,
    offset: u16,
}

impl Insert {
    fn parse(main: &mut Reader<'_>) -> Result<Insert, Misfit> {
        Ok(Insert { heap_block: main.u32()?, pages_per_range: main.u32()?, offset: main.u16()? })
    }
}

fn set_revmap(
    page: &mut Page<'_>,
    heap_block: u32,
    pages_per_range: u32,
    tid: TupleId,
) -> Result<(), Misfit> {
    let range = heap_block
        .checked_div(pages_per_range)
        .ok_or(Misfit::new("at least one page to a range", 0))?;
    let index = (range % TUPLE_IDS_PER_REVMAP_PAGE) as usize;
    page.put(HEADER_BYTES + index * TUPLE_ID_BYTES, &tid.to_bytes())
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    let mut main = Reader::new(record.main());
    match (record.operation() & OPERATION_MASK, change.block.id()) {
        (CREATE_INDEX, 0) => {
            let (pages_per_range, version) = (main.u32()?, main.u16()?);
            init(page, TYPE_META)?;
            page.put_u32(HEADER_BYTES, META_MAGIC)?;
            page.put_u32(HEADER_BYTES + 4, version.into())?;
            page.put_u32(HEADER_BYTES + 8, pages_per_range)?;
            page.set_lower(META_LOWER);
            Ok(())
        }
        (INSERT, id @ (0 | 1)) => insert(change, page, &Insert::parse(&mut main)?, id),
        (UPDATE, id) => {
            let old_offset = main.u16()?;
            main.skip(2)?;
            match id {
                0 | 1 => insert(change, page, &Insert::parse(&mut main)?, id),
                2 => page.delete_item_in_place(old_offset.into()),
                id => Err(Misfit::new("block 0 to 2", id.into())),
            }
        }
        (SAME_PAGE_UPDATE, 0) => page.overwrite_item(main.u16()?.into(), change.block.data()),
        (REVMAP_EXTEND, 0) => {
            page.put_u32(META_LAST_REVMAP_PAGE, main.u32()?)?;
            page.set_lower(META_LOWER);
            Ok(())
        }
        (REVMAP_EXTEND, 1) => init(page, TYPE_REVMAP),
        (DESUMMARIZE, id) => {
            let (pages_per_range, heap_block) = (main.u32()?, main.u32()?);
            let offset = main.u16()?;
            match id {
                0 => {
                    let none = TupleId { block: 0xFFFF_FFFF, offset: 0 };
                    set_revmap(page, heap_block, pages_per_range, none)
                }
                1 => page.delete_item_in_place(offset.into()),
                id => Err(Misfit::new("block 0 or 1", id.into())),
            }
        }
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }?;
    Ok(Touch::Changed)
}

fn insert(change: &Change<'_>, page: &mut Page<'_>, insert: &Insert, id: u8) -> Result<(), Misfit> {
    let record = change.record;
    if id == 1 {
        let tid = TupleId { block: record.expect_block(0)?.number(), offset: insert.offset };
        return set_revmap(page, insert.heap_block, insert.pages_per_range, tid);
    }
    if record.info() & INIT_PAGE != 0 {
        init(page, TYPE_REGULAR)?;
    }
    let tuple = change.block.data();
    let start = page.add_item_overwriting(insert.offset.into(), tuple.len())?;
    page.put(start, tuple)
}
