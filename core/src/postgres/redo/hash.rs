//! Hash indexes (PostgreSQL src/backend/access/hash/hash_xlog.c, src/include/access/hash.h).

use super::index_tuple::take_rounded;
use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{HEADER_BYTES, Page};
use crate::postgres::wal::WalVersion;

const INIT_META_PAGE: u8 = 0x00;
const INIT_BITMAP_PAGE: u8 = 0x10;
const INSERT: u8 = 0x20;
const ADD_OVERFLOW_PAGE: u8 = 0x30;
const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
const SPLIT_COMPLETE: u8 = 0x60;
const MOVE_PAGE_CONTENTS: u8 = 0x70;
const SQUEEZE_PAGE: u8 = 0x80;
const DELETE: u8 = 0x90;
const SPLIT_CLEANUP: u8 = 0xA0;
const UPDATE_META_PAGE: u8 = 0xB0;
const VACUUM_ONE_PAGE: u8 = 0xC0;

/// Bytes of the special space: previous, next, bucket (u32 each), flags, page id (u16 each).
const SPECIAL_BYTES: usize = 16;
const PAGE_ID: u16 = 0xFF80;
const NO_BLOCK: u32 = 0xFFFF_FFFF;
const FLAG_OVERFLOW: u16 = 1;
const FLAG_BITMAP: u16 = 4;
const FLAG_META: u16 = 8;
const FLAG_NEEDS_SPLIT_CLEANUP: u16 = 64;
const FLAG_HAS_DEAD_TUPLES: u16 = 128;

const META_MAGIC: u32 = 0x0644_0640;
const META_VERSION: u32 = 4;
const META_BYTES: usize = 4544;
const SPARES_MAX: u32 = 98;
const BITMAPS_MAX: u32 = 1024;
const BUCKETS_MAX: u32 = 1 << 30;
const SPLIT_META_MASKS: u8 = 1;
const SPLIT_META_SPARES: u8 = 2;

/// Fields of the meta page, from the page's start.
mod meta {
    use super::HEADER_BYTES;
    pub const MAGIC: usize = HEADER_BYTES;
    pub const VERSION: usize = HEADER_BYTES + 4;
    pub const TUPLES: usize = HEADER_BYTES + 8;
    pub const FILL_FACTOR: usize = HEADER_BYTES + 16;
    pub const BUCKET_BYTES: usize = HEADER_BYTES + 18;
    pub const BITMAP_BYTES: usize = HEADER_BYTES + 20;
    pub const BITMAP_SHIFT: usize = HEADER_BYTES + 22;
    pub const MAX_BUCKET: usize = HEADER_BYTES + 24;
    pub const HIGH_MASK: usize = HEADER_BYTES + 28;
    pub const LOW_MASK: usize = HEADER_BYTES + 32;
    pub const OVERFLOW_POINT: usize = HEADER_BYTES + 36;
    pub const FIRST_FREE: usize = HEADER_BYTES + 40;
    pub const BITMAP_COUNT: usize = HEADER_BYTES + 44;
    pub const PROCEDURE: usize = HEADER_BYTES + 48;
    pub const SPARES: usize = HEADER_BYTES + 52;
    pub const BITMAPS: usize = HEADER_BYTES + 444;
}

struct Special {
    previous: u32,
    next: u32,
    bucket: u32,
    flags: u16,
}

fn init(page: &mut Page<'_>, special: Special) -> Result<(), Misfit> {
    page.init(SPECIAL_BYTES);
    let at = page.special_space(SPECIAL_BYTES)?;
    page.put_u32(at, special.previous)?;
    page.put_u32(at + 4, special.next)?;
    page.put_u32(at + 8, special.bucket)?;
    page.put_u16(at + 12, special.flags)?;
    page.put_u16(at + 14, PAGE_ID)
}

/// A page of a bucket: its previous field says how many buckets there were, or which page is before it.
fn init_bucket(page: &mut Page<'_>, previous: u32, bucket: u32, flags: u16) -> Result<(), Misfit> {
    init(page, Special { previous, next: NO_BLOCK, bucket, flags })
}

fn set_previous(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    page.put_u32(page.special_space(SPECIAL_BYTES)?, block)
}

fn set_next(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    page.put_u32(page.special_space(SPECIAL_BYTES)? + 4, block)
}

fn set_flags(page: &mut Page<'_>, flags: u16) -> Result<(), Misfit> {
    page.put_u16(page.special_space(SPECIAL_BYTES)? + 12, flags)
}

fn clear_flag(page: &mut Page<'_>, flag: u16) -> Result<(), Misfit> {
    let at = page.special_space(SPECIAL_BYTES)? + 12;
    page.put_u16(at, page.u16(at)? & !flag)
}

fn tuples(page: &Page<'_>) -> Result<f64, Misfit> {
    let bytes = page.slice(meta::TUPLES, 8)?.first_chunk().expect("eight bytes were asked for");
    Ok(f64::from_le_bytes(*bytes))
}

fn set_tuples(page: &mut Page<'_>, tuples: f64) -> Result<(), Misfit> {
    page.put(meta::TUPLES, &tuples.to_le_bytes())
}

fn add_u32(page: &mut Page<'_>, at: usize, amount: u32) -> Result<(), Misfit> {
    page.put_u32(at, page.u32(at)?.wrapping_add(amount))
}

fn spare_at(split_point: u32) -> Result<usize, Misfit> {
    match split_point {
        0..SPARES_MAX => Ok(meta::SPARES + split_point as usize * 4),
        _ => Err(Misfit::new("a split point below 98", split_point.into())),
    }
}

fn add_bitmap_page(page: &mut Page<'_>, block: u32) -> Result<(), Misfit> {
    let count = page.u32(meta::BITMAP_COUNT)?;
    if count >= BITMAPS_MAX {
        return Err(Misfit::new("fewer than 1024 bitmap pages", count.into()));
    }
    page.put_u32(meta::BITMAPS + count as usize * 4, block)?;
    page.put_u32(meta::BITMAP_COUNT, count + 1)
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    let mut main = Reader::new(record.main());
    let mut data = Reader::new(change.block.data());
    match (record.operation(), change.block.id()) {
        (INIT_META_PAGE, 0) => init_meta(page, &mut main),
        (INIT_BITMAP_PAGE, 0) => init_bitmap(page, main.u16()?),
        (INIT_BITMAP_PAGE, 1) => {
            let block = page.u32(meta::MAX_BUCKET)?.wrapping_add(2);
            add_bitmap_page(page, block)
        }
        (INSERT, 0) => page.insert_item(main.u16()?.into(), data.rest()),
        (INSERT, 1) => set_tuples(page, tuples(page)? + 1.0),
        (ADD_OVERFLOW_PAGE, _) => add_overflow_page(change, page),
        (SPLIT_ALLOCATE_PAGE, 0) => split_old(change, page),
        (SPLIT_ALLOCATE_PAGE, 1) => {
            let (bucket, _old_flags, flags) = (main.u32()?, main.u16()?, main.u16()?);
            init_bucket(page, bucket, bucket, flags)
        }
        (SPLIT_ALLOCATE_PAGE, 2) => split_meta(page, &mut main, &mut data),
        (SPLIT_COMPLETE, 0 | 1) => split_complete(change, page),
        // Block 0 is there to be locked only.
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE | DELETE, 0) => return Ok(Touch::Unchanged),
        (MOVE_PAGE_CONTENTS, 1) => {
            let count = main.u16()?;
            add_moved(page, &mut data, count)
        }
        (MOVE_PAGE_CONTENTS, 2) => page.delete_items(data.rest()),
        (SQUEEZE_PAGE, _) => return squeeze(change, page),
        (DELETE, 1) => {
            let clear_dead = main.u8()? != 0;
            page.delete_items(data.rest())?;
            if clear_dead { clear_flag(page, FLAG_HAS_DEAD_TUPLES) } else { Ok(()) }
        }
        (SPLIT_CLEANUP, 0) => clear_flag(page, FLAG_NEEDS_SPLIT_CLEANUP),
        (UPDATE_META_PAGE, 0) => page.put(meta::TUPLES, main.take(8)?),
        (VACUUM_ONE_PAGE, id) => vacuum_one_page(change, page, id),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }?;
    Ok(Touch::Changed)
}

/// Both halves of a split get their flags even if their images were just restored.
pub(super) fn after_image(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    match (change.record.operation(), change.block.id()) {
        (SPLIT_ALLOCATE_PAGE, 0) => split_old(change, page),
        (SPLIT_COMPLETE, 0 | 1) => split_complete(change, page),
        _ => Ok(()),
    }
}

/// Which entry of the spares belongs to a number of buckets (_hash_spareindex).
fn spare_index(buckets: u32) -> u32 {
    let group = buckets.max(1).next_power_of_two().ilog2();
    if group < 10 {
        return group;
    }
    10 + 4 * (group - 10) + ((buckets - 1) >> (group - 3) & 3)
}

/// Buckets up to and with a spare entry (_hash_get_totalbuckets).
fn total_buckets(spare_index: u32) -> u32 {
    if spare_index < 10 {
        return 1 << spare_index;
    }
    let before = 1u32 << (10 + (spare_index - 10) / 4 - 1);
    before + before / 4 * ((spare_index - 10) % 4 + 1)
}

fn init_meta(page: &mut Page<'_>, main: &mut Reader<'_>) -> Result<(), Misfit> {
    let expected_tuples = f64::from_bits(main.u64()?);
    let (procedure, fill_factor) = (main.u32()?, main.u16()?);
    let wanted = expected_tuples / f64::from(fill_factor);
    let buckets = if wanted <= 2.0 {
        2
    } else if wanted >= f64::from(BUCKETS_MAX) {
        BUCKETS_MAX
    } else {
        total_buckets(spare_index(wanted as u32))
    };
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    let split_point = spare_index(buckets);
    init(page, Special { previous: NO_BLOCK, next: NO_BLOCK, bucket: NO_BLOCK, flags: FLAG_META })?;
    page.put_u32(meta::MAGIC, META_MAGIC)?;
    page.put_u32(meta::VERSION, META_VERSION)?;
    page.put_u16(meta::FILL_FACTOR, fill_factor)?;
    page.put_u16(meta::BUCKET_BYTES, 8152)?;
    page.put_u16(meta::BITMAP_BYTES, 4096)?;
    page.put_u16(meta::BITMAP_SHIFT, 15)?;
    page.put_u32(meta::MAX_BUCKET, buckets - 1)?;
    page.put_u32(meta::HIGH_MASK, high_mask)?;
    page.put_u32(meta::LOW_MASK, high_mask >> 1)?;
    page.put_u32(meta::OVERFLOW_POINT, split_point)?;
    page.put_u32(meta::PROCEDURE, procedure)?;
    page.put_u32(spare_at(split_point)?, 1)?;
    page.set_lower(HEADER_BYTES + META_BYTES);
    Ok(())
}

fn init_bitmap(page: &mut Page<'_>, bitmap_bytes: u16) -> Result<(), Misfit> {
    init(
        page,
        Special { previous: NO_BLOCK, next: NO_BLOCK, bucket: NO_BLOCK, flags: FLAG_BITMAP },
    )?;
    let len = usize::from(bitmap_bytes);
    if HEADER_BYTES + len > page.special() {
        return Err(Misfit::new("a bitmap that fits its page", len as u64));
    }
    page.slice_mut(HEADER_BYTES, len)?.fill(0xFF);
    page.set_lower(HEADER_BYTES + len);
    Ok(())
}

fn change_bit(page: &mut Page<'_>, bit: u32, on: bool) -> Result<(), Misfit> {
    let at = HEADER_BYTES + bit as usize / 8;
    if at >= page.special() {
        return Err(Misfit::new("a bit of the bitmap page", bit.into()));
    }
    let mask = 1 << (bit % 8);
    let byte = &mut page.bytes_mut()[at];
    *byte = if on { *byte | mask } else { *byte & !mask };
    Ok(())
}

fn add_overflow_page(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let record = change.record;
    let mut main = Reader::new(record.main());
    let (bitmap_bytes, bitmap_page_found) = (main.u16()?, main.u8()? != 0);
    let mut data = Reader::new(change.block.data());
    match change.block.id() {
        0 => {
            let before = record.expect_block(1)?.number();
            init_bucket(page, before, data.u32()?, FLAG_OVERFLOW)
        }
        1 => set_next(page, record.expect_block(0)?.number()),
        2 => change_bit(page, data.u32()?, true),
        3 => init_bitmap(page, bitmap_bytes),
        4 => {
            page.put_u32(meta::FIRST_FREE, data.u32()?)?;
            if bitmap_page_found {
                return Ok(());
            }
            let spare = spare_at(page.u32(meta::OVERFLOW_POINT)?)?;
            add_u32(page, spare, 1)?;
            if let Some(bitmap) = record.block(3) {
                add_bitmap_page(page, bitmap.number())?;
                add_u32(page, spare, 1)?;
            }
            Ok(())
        }
        id => Err(Misfit::new("block 0 to 4", id.into())),
    }
}

fn split_old(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let (bucket, flags) = (main.u32()?, main.u16()?);
    set_flags(page, flags)?;
    set_previous(page, bucket)
}

fn split_meta(
    page: &mut Page<'_>,
    main: &mut Reader<'_>,
    data: &mut Reader<'_>,
) -> Result<(), Misfit> {
    page.put_u32(meta::MAX_BUCKET, main.u32()?)?;
    main.skip(4)?;
    let flags = main.u8()?;
    if flags & SPLIT_META_MASKS != 0 {
        page.put_u32(meta::LOW_MASK, data.u32()?)?;
        page.put_u32(meta::HIGH_MASK, data.u32()?)?;
    }
    if flags & SPLIT_META_SPARES != 0 {
        let (split_point, pages) = (data.u32()?, data.u32()?);
        page.put_u32(spare_at(split_point)?, pages)?;
        page.put_u32(meta::OVERFLOW_POINT, split_point)?;
    }
    Ok(())
}

fn split_complete(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    let (old, new) = (main.u16()?, main.u16()?);
    set_flags(page, if change.block.id() == 0 { old } else { new })
}

/// Tuples that moved here: their offsets, then themselves.
fn add_moved(page: &mut Page<'_>, data: &mut Reader<'_>, count: u16) -> Result<(), Misfit> {
    let mut offsets = Reader::new(data.take(usize::from(count) * 2)?);
    while !offsets.is_empty() {
        page.insert_item(offsets.u16()?.into(), take_rounded(data)?)?;
    }
    Ok(())
}

fn squeeze(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    let (previous, next, count) = (main.u32()?, main.u32()?, main.u16()?);
    let (_primary_is_same, previous_is_same) = (main.u8()? != 0, main.u8()? != 0);
    let mut data = Reader::new(change.block.data());
    match change.block.id() {
        1 => {
            // 17 learnt to leave a page alone to which nothing moved.
            if count == 0 && !previous_is_same && change.record.version >= WalVersion::V17 {
                return Ok(Touch::Unchanged);
            }
            add_moved(page, &mut data, count)?;
            if previous_is_same { set_next(page, next) } else { Ok(()) }
        }
        2 => init(page, Special { previous: NO_BLOCK, next: NO_BLOCK, bucket: NO_BLOCK, flags: 0 }),
        3 => set_next(page, next),
        4 => set_previous(page, previous),
        5 => change_bit(page, data.u32()?, false),
        6 => page.put_u32(meta::FIRST_FREE, data.u32()?),
        id => Err(Misfit::new("block 0 to 6", id.into())),
    }?;
    Ok(Touch::Changed)
}

fn vacuum_one_page(change: &Change<'_>, page: &mut Page<'_>, id: u8) -> Result<(), Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let count = if change.record.version >= WalVersion::V16 {
        let count = main.u16()?;
        main.skip(2)?;
        u32::from(count)
    } else {
        main.u32()?
    };
    match id {
        0 => {
            page.delete_items(main.take((count as usize).saturating_mul(2))?)?;
            clear_flag(page, FLAG_HAS_DEAD_TUPLES)
        }
        1 => set_tuples(page, tuples(page)? - f64::from(count)),
        id => Err(Misfit::new("block 0 or 1", id.into())),
    }
}
