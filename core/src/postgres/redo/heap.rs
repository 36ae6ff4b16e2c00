//! Heap: insert, delete, update, lock (PostgreSQL src/backend/access/heap/heapam_xlog.c, heapam_xlog.h).

use super::heap_tuple::{HEADER_BYTES, HOT_UPDATED, HeapTuple, NewTuple, TupleId, set_prunable};
use super::visibility_map::{self, ALL_BITS, ALL_FROZEN};
use super::{Change, Effect, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{ALL_VISIBLE, Page};
use crate::postgres::wal::{Fork, Record};

const OPERATION_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const TRUNCATE: u8 = 0x30;
const HOT_UPDATE: u8 = 0x40;
const CONFIRM: u8 = 0x50;
const LOCK: u8 = 0x60;
const INPLACE: u8 = 0x70;

/// In every record that has it: the all-visible bits (in LOCK: the frozen bit) of the block were cleared.
pub(super) const CLEARED: u8 = 1;
const UPDATE_NEW_CLEARED: u8 = 2;
const UPDATE_PREFIX: u8 = 0x20;
const UPDATE_SUFFIX: u8 = 0x40;
const DELETE_IS_SUPER: u8 = 8;
const DELETE_IS_PARTITION_MOVE: u8 = 16;

/// xl_heap_delete and xl_heap_lock: the same fields.
pub(super) struct Xmax {
    pub xmax: u32,
    pub offset: u16,
    pub infobits: u8,
    pub flags: u8,
}

impl Xmax {
    pub fn parse(main: &[u8]) -> Result<Xmax, Misfit> {
        let mut main = Reader::new(main);
        Ok(Xmax { xmax: main.u32()?, offset: main.u16()?, infobits: main.u8()?, flags: main.u8()? })
    }
}

/// xl_heap_update.
struct Update {
    old: Xmax,
    new_xmax: u32,
    new_offset: u16,
}

impl Update {
    fn parse(main: &[u8]) -> Result<Update, Misfit> {
        let old = Xmax::parse(main)?;
        let mut main = Reader::new(main);
        main.skip(8)?;
        Ok(Update { old, new_xmax: main.u32()?, new_offset: main.u16()? })
    }
}

/// Heap blocks whose visibility bits a record clears, with the bits: at most two.
pub(super) type Clears = [Option<(u32, u8)>; 2];

fn clears(record: &Record<'_>) -> Result<Clears, Misfit> {
    let heap_block = |id| record.expect_block(id).map(|block| block.number());
    let main = record.main();
    let if_cleared = |flags: u8, bits| {
        Ok([if flags & CLEARED != 0 { Some((heap_block(0)?, bits)) } else { None }, None])
    };
    match record.operation() & OPERATION_MASK {
        INSERT => {
            let mut main = Reader::new(main);
            main.u16()?;
            if_cleared(main.u8()?, ALL_BITS)
        }
        DELETE => if_cleared(Xmax::parse(main)?.flags, ALL_BITS),
        LOCK => if_cleared(Xmax::parse(main)?.flags, ALL_FROZEN),
        UPDATE | HOT_UPDATE => {
            let flags = Xmax::parse(main)?.flags;
            let new = heap_block(0)?;
            let old = record.block(1).map_or(new, |block| block.number());
            Ok([
                (flags & CLEARED != 0).then_some((old, ALL_BITS)),
                (flags & UPDATE_NEW_CLEARED != 0).then_some((new, ALL_BITS)),
            ])
        }
        _ => Ok([None, None]),
    }
}

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    emit_clears(record, clears(record)?, emit)
}

/// Late minors of 17 and 18 refer to the map page instead: then that reference is the effect.
pub(super) fn emit_clears<'a>(
    record: &Record<'a>,
    clears: Clears,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    if record.blocks().any(|block| block.tag().fork == Fork::VisibilityMap) {
        return Ok(());
    }
    for (heap_block, bits) in clears.into_iter().flatten() {
        let relation = record.expect_block(0)?.tag().relation;
        emit(Effect::ClearVisibility { relation, heap_block, bits });
    }
    Ok(())
}

/// Clears the bits in a map page that the record refers to.
pub(super) fn redo_clears(clears: Clears, change: &Change<'_>, page: &mut Page<'_>) -> Touch {
    if page.is_new() {
        page.init(0);
    }
    let mut changed = false;
    for (heap_block, bits) in clears.into_iter().flatten() {
        if visibility_map::map_block(heap_block) == change.block.number() {
            changed |= visibility_map::clear(page, heap_block, bits);
        }
    }
    if changed { Touch::Changed } else { Touch::Unchanged }
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    if change.block.tag().fork == Fork::VisibilityMap {
        return Ok(redo_clears(clears(record)?, change, page));
    }
    let operation = record.operation() & OPERATION_MASK;
    match (operation, change.block.id()) {
        (INSERT, 0) => insert(change, page),
        (DELETE, 0) => delete(change, page),
        (UPDATE | HOT_UPDATE, 0 | 1) => update(change, page, operation == HOT_UPDATE),
        (TRUNCATE, _) => Ok(Touch::Unchanged),
        (CONFIRM, 0) => confirm(change, page),
        (LOCK, 0) => lock(change, page),
        (INPLACE, 0) => inplace(change, page),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }
}

fn insert(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    let (offset, flags) = (main.u16()?, main.u8()?);
    if change.record.info() & INIT_PAGE != 0 {
        page.init(0);
    }
    let mut data = Reader::new(change.block.data());
    let tuple = NewTuple {
        infomask2: data.u16()?,
        infomask: data.u16()?,
        header_len: data.u8()?,
        xmin: change.record.xid(),
        xmax: 0,
        cid: 0,
        ctid: TupleId { block: change.block.number(), offset },
    };
    let start = tuple.add(page, offset, data.len())?;
    page.put(start, data.rest())?;
    if flags & CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(Touch::Changed)
}

fn delete(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let Xmax { xmax, offset, infobits, flags } = Xmax::parse(change.record.main())?;
    let tuple = HeapTuple::at(page, offset)?;
    tuple.set_xmax_state(page, infobits, Some(false))?;
    if flags & DELETE_IS_SUPER != 0 {
        tuple.set_xmin(page, 0)?;
    } else {
        tuple.set_xmax(page, xmax)?;
    }
    tuple.clear_cid(page)?;
    set_prunable(page, change.record.xid());
    if flags & CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    let ctid = if flags & DELETE_IS_PARTITION_MOVE != 0 {
        TupleId::MOVED_PARTITIONS
    } else {
        TupleId { block: change.block.number(), offset }
    };
    tuple.set_ctid(page, ctid)?;
    Ok(Touch::Changed)
}

fn update(change: &Change<'_>, page: &mut Page<'_>, hot: bool) -> Result<Touch, Misfit> {
    let record = change.record;
    let update = Update::parse(record.main())?;
    let new_block = record.expect_block(0)?;
    let new_tid = TupleId { block: new_block.number(), offset: update.new_offset };
    let same_page = record.block(1).is_none();
    if same_page || change.block.id() == 1 {
        let Xmax { xmax, offset, infobits, flags } = update.old;
        let tuple = HeapTuple::at(page, offset)?;
        tuple.set_xmax_state(page, infobits, Some(hot))?;
        tuple.set_xmax(page, xmax)?;
        tuple.clear_cid(page)?;
        tuple.set_ctid(page, new_tid)?;
        set_prunable(page, record.xid());
        if flags & CLEARED != 0 {
            page.set_flag(ALL_VISIBLE, false);
        }
    }
    if change.block.id() == 0 {
        if record.info() & INIT_PAGE != 0 && !same_page {
            page.init(0);
        }
        add_updated(change, page, &update, new_tid, same_page)?;
        if update.old.flags & UPDATE_NEW_CLEARED != 0 {
            page.set_flag(ALL_VISIBLE, false);
        }
    }
    Ok(Touch::Changed)
}

/// Adds the new tuple. Bytes that it shares with the old one, at its data's start and end, are taken from there.
fn add_updated(
    change: &Change<'_>,
    page: &mut Page<'_>,
    update: &Update,
    ctid: TupleId,
    same_page: bool,
) -> Result<(), Misfit> {
    let mut data = Reader::new(change.block.data());
    let mut shared = |flag| match update.old.flags & flag {
        0 => Ok(0),
        _ if same_page => data.u16().map(usize::from),
        flag => Err(Misfit::new("old and new tuple on one page to share bytes", flag.into())),
    };
    let (prefix, suffix) = (shared(UPDATE_PREFIX)?, shared(UPDATE_SUFFIX)?);
    let tuple = NewTuple {
        infomask2: data.u16()?,
        infomask: data.u16()?,
        header_len: data.u8()?,
        xmin: change.record.xid(),
        xmax: update.new_xmax,
        cid: 0,
        ctid,
    };
    let start = tuple.add(page, update.new_offset, data.len() + prefix + suffix)?;
    if prefix == 0 && suffix == 0 {
        return page.put(start, data.rest());
    }
    let (old_data, old_len) = HeapTuple::at(page, update.old.offset)?.data(page)?;
    if prefix > old_len || suffix > old_len {
        return Err(Misfit::new("an old tuple as long as what is shared", old_len as u64));
    }
    let mut at = start;
    if prefix > 0 {
        // What lies between the fixed header and the data comes first: the null bitmap is not shared.
        let bitmap_len = usize::from(tuple.header_len)
            .checked_sub(HEADER_BYTES)
            .ok_or(Misfit::new("a tuple header of at least 23 bytes", tuple.header_len.into()))?;
        page.put(at, data.take(bitmap_len)?)?;
        at += bitmap_len;
        page.bytes_mut().copy_within(old_data..old_data + prefix, at);
        at += prefix;
    }
    page.put(at, data.rest())?;
    at += data.len();
    page.bytes_mut().copy_within(old_data + old_len - suffix..old_data + old_len, at);
    Ok(())
}

fn confirm(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let offset = Reader::new(change.record.main()).u16()?;
    let ctid = TupleId { block: change.block.number(), offset };
    HeapTuple::at(page, offset)?.set_ctid(page, ctid)?;
    Ok(Touch::Changed)
}

fn lock(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let Xmax { xmax, offset, infobits, .. } = Xmax::parse(change.record.main())?;
    let tuple = HeapTuple::at(page, offset)?;
    tuple.set_xmax_state(page, infobits, None)?;
    if tuple.is_locked_only(page)? {
        tuple.set_infomask2(page, tuple.infomask2(page)? & !HOT_UPDATED)?;
        tuple.set_ctid(page, TupleId { block: change.block.number(), offset })?;
    }
    tuple.set_xmax(page, xmax)?;
    tuple.clear_cid(page)?;
    Ok(Touch::Changed)
}

fn inplace(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let offset = Reader::new(change.record.main()).u16()?;
    let (start, len) = HeapTuple::at(page, offset)?.data(page)?;
    let data = change.block.data();
    if data.len() != len {
        return Err(Misfit::new("data as long as the tuple's", data.len() as u64));
    }
    page.put(start, data)?;
    Ok(Touch::Changed)
}
