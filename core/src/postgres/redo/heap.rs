//! Heap: insert, delete, update, lock (PostgreSQL src/backend/access/heap/heapam_xlog.c, heapam_xlog.h).

use super::heap_layout::{Layout, Update, Xmax};
use super::heap_tuple::{HEADER_BYTES, HOT_UPDATED, HeapTuple, NewTuple, TupleId, set_prunable};
use super::visibility_map::{self, ALL_BITS, ALL_FROZEN};
use super::{Change, Effect, Settings, Touch};
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

/// Heap blocks whose visibility bits a record clears, with the bits: at most two.
pub(super) type Clears = [Option<(u32, u8)>; 2];

/// What a record of this or Neon's resource manager does, whatever its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Delete,
    Update { hot: bool },
    Lock,
}

#[inline]
pub(super) fn clears(
    record: &Record<'_>,
    operation: Operation,
    layout: Layout,
) -> Result<Clears, Misfit> {
    let heap_block = |id| record.expect_block(id).map(|block| block.number());
    let main = record.main();
    let if_cleared = |flags: u8, bits| {
        Ok([if flags & CLEARED != 0 { Some((heap_block(0)?, bits)) } else { None }, None])
    };
    match operation {
        Operation::Insert => {
            let mut main = Reader::new(main);
            main.u16()?;
            if_cleared(main.u8()?, ALL_BITS)
        }
        Operation::Delete => if_cleared(layout.delete(main)?.flags, ALL_BITS),
        Operation::Lock => if_cleared(layout.lock(main)?.flags, ALL_FROZEN),
        Operation::Update { .. } => {
            let flags = layout.update(main)?.old.flags;
            if flags & (CLEARED | UPDATE_NEW_CLEARED) == 0 {
                return Ok([None, None]);
            }
            let new = heap_block(0)?;
            let old = record.block(1).map_or(new, |block| block.number());
            Ok([
                (flags & CLEARED != 0).then_some((old, ALL_BITS)),
                (flags & UPDATE_NEW_CLEARED != 0).then_some((new, ALL_BITS)),
            ])
        }
    }
}

#[inline]
fn operation(record: &Record<'_>) -> Option<Operation> {
    match record.operation() & OPERATION_MASK {
        INSERT => Some(Operation::Insert),
        DELETE => Some(Operation::Delete),
        UPDATE => Some(Operation::Update { hot: false }),
        HOT_UPDATE => Some(Operation::Update { hot: true }),
        LOCK => Some(Operation::Lock),
        _ => None,
    }
}

pub(super) fn effects<'a>(
    record: &Record<'a>,
    settings: Settings,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    match operation(record) {
        Some(operation) => {
            let clears = clears(record, operation, Layout::of_heap(record, settings))?;
            emit_clears(record, clears, emit)
        }
        None => Ok(()),
    }
}

/// Late minors of 17 and 18 refer to the map page instead: then that reference is the effect.
#[inline]
pub(super) fn emit_clears<'a>(
    record: &Record<'a>,
    clears: Clears,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let refers_to_map = || record.blocks().any(|block| block.tag().fork == Fork::VisibilityMap);
    if matches!(clears, [None, None]) || refers_to_map() {
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
    if let Some(operation) = operation(record) {
        let layout = Layout::of_heap(record, change.settings);
        return redo_operation(change, page, operation, layout);
    }
    match (record.operation() & OPERATION_MASK, change.block.id()) {
        (TRUNCATE, _) => Ok(Touch::Unchanged),
        (CONFIRM, 0) => confirm(change, page),
        (INPLACE, 0) => inplace(change, page),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }
}

pub(super) fn redo_operation(
    change: &Change<'_>,
    page: &mut Page<'_>,
    operation: Operation,
    layout: Layout,
) -> Result<Touch, Misfit> {
    let record = change.record;
    if change.block.tag().fork == Fork::VisibilityMap {
        return Ok(redo_clears(clears(record, operation, layout)?, change, page));
    }
    match (operation, change.block.id()) {
        (Operation::Insert, 0) => insert(change, page, layout),
        (Operation::Delete, 0) => delete(change, page, layout.delete(record.main())?),
        (Operation::Update { hot }, 0 | 1) => update(change, page, hot, layout),
        (Operation::Lock, 0) => lock(change, page, layout.lock(record.main())?),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }
}

fn insert(change: &Change<'_>, page: &mut Page<'_>, layout: Layout) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    let (offset, flags) = (main.u16()?, main.u8()?);
    if change.record.info() & INIT_PAGE != 0 {
        page.init(0);
    }
    let mut data = Reader::new(change.block.data());
    let header = layout.tuple_header(&mut data)?;
    let tuple = NewTuple {
        header,
        xmin: change.record.xid(),
        xmax: 0,
        ctid: TupleId { block: change.block.number(), offset },
    };
    let start = tuple.add(page, offset, data.len())?;
    page.put(start, data.rest())?;
    if flags & CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(Touch::Changed)
}

fn delete(change: &Change<'_>, page: &mut Page<'_>, xmax: Xmax) -> Result<Touch, Misfit> {
    let Xmax { xmax, offset, infobits, flags, cid } = xmax;
    let mut tuple = HeapTuple::at(page, offset)?;
    tuple.set_xmax_state(infobits, Some(false));
    if flags & DELETE_IS_SUPER != 0 {
        tuple.set_xmin(0);
    } else {
        tuple.set_xmax(xmax);
    }
    tuple.set_cid(cid);
    tuple.set_ctid(if flags & DELETE_IS_PARTITION_MOVE != 0 {
        TupleId::MOVED_PARTITIONS
    } else {
        TupleId { block: change.block.number(), offset }
    });
    set_prunable(page, change.record.xid());
    if flags & CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    Ok(Touch::Changed)
}

fn update(
    change: &Change<'_>,
    page: &mut Page<'_>,
    hot: bool,
    layout: Layout,
) -> Result<Touch, Misfit> {
    let record = change.record;
    let update = layout.update(record.main())?;
    let new_block = record.expect_block(0)?;
    let new_tid = TupleId { block: new_block.number(), offset: update.new_offset };
    let same_page = record.block(1).is_none();
    if same_page || change.block.id() == 1 {
        let Xmax { xmax, offset, infobits, flags, cid } = update.old;
        let mut tuple = HeapTuple::at(page, offset)?;
        tuple.set_xmax_state(infobits, Some(hot));
        tuple.set_xmax(xmax);
        tuple.set_cid(cid);
        tuple.set_ctid(new_tid);
        set_prunable(page, record.xid());
        if flags & CLEARED != 0 {
            page.set_flag(ALL_VISIBLE, false);
        }
    }
    if change.block.id() == 0 {
        if record.info() & INIT_PAGE != 0 && !same_page {
            page.init(0);
        }
        add_updated(change, page, &update, same_page, layout)?;
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
    same_page: bool,
    layout: Layout,
) -> Result<(), Misfit> {
    let mut data = Reader::new(change.block.data());
    let mut shared = |flag| match update.old.flags & flag {
        0 => Ok(0),
        _ if same_page => data.u16().map(usize::from),
        flag => Err(Misfit::new("old and new tuple on one page to share bytes", flag.into())),
    };
    let (prefix, suffix) = (shared(UPDATE_PREFIX)?, shared(UPDATE_SUFFIX)?);
    let header = layout.tuple_header(&mut data)?;
    let ctid = TupleId { block: change.block.number(), offset: update.new_offset };
    let tuple = NewTuple { header, xmin: change.record.xid(), xmax: update.new_xmax, ctid };
    let start = tuple.add(page, update.new_offset, data.len() + prefix + suffix)?;
    if prefix == 0 && suffix == 0 {
        return page.put(start, data.rest());
    }
    let (old_data, old_len) = HeapTuple::at(page, update.old.offset)?.data()?;
    if prefix > old_len || suffix > old_len {
        return Err(Misfit::new("an old tuple as long as what is shared", old_len as u64));
    }
    let mut at = start;
    if prefix > 0 {
        // What lies between the fixed header and the data comes first: the null bitmap is not shared.
        let bitmap_len = usize::from(header.header_len)
            .checked_sub(HEADER_BYTES)
            .ok_or(Misfit::new("a tuple header of at least 23 bytes", header.header_len.into()))?;
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
    HeapTuple::at(page, offset)?.set_ctid(ctid);
    Ok(Touch::Changed)
}

fn lock(change: &Change<'_>, page: &mut Page<'_>, xmax: Xmax) -> Result<Touch, Misfit> {
    let Xmax { xmax, offset, infobits, cid, .. } = xmax;
    let mut tuple = HeapTuple::at(page, offset)?;
    tuple.set_xmax_state(infobits, None);
    if tuple.is_locked_only() {
        tuple.set_infomask2(tuple.infomask2() & !HOT_UPDATED);
        tuple.set_ctid(TupleId { block: change.block.number(), offset });
    }
    tuple.set_xmax(xmax);
    tuple.set_cid(cid);
    Ok(Touch::Changed)
}

fn inplace(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let offset = Reader::new(change.record.main()).u16()?;
    let (start, len) = HeapTuple::at(page, offset)?.data()?;
    let data = change.block.data();
    if data.len() != len {
        return Err(Misfit::new("data as long as the tuple's", data.len() as u64));
    }
    page.put(start, data)?;
    Ok(Touch::Changed)
}
