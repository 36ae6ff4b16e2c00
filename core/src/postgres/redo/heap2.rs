//! Heap2: pruning, freezing, visibility, multi-insert (PostgreSQL src/backend/access/heap/heapam_xlog.c, pruneheap.c).

use super::heap::{CLEARED, Clears, emit_clears, redo_clears};
use super::heap_layout::{Layout, Xmax};
use super::heap_tuple::{HeapTuple, NewTuple, TupleId};
use super::visibility_map::{self, ALL_BITS, ALL_FROZEN};
use super::{Change, Effect, Touch};
use crate::postgres::bytes::{Misfit, Reader, align2};
use crate::postgres::page::{ALL_VISIBLE, LinePointer, Page};
use crate::postgres::wal::{Fork, Record, WalVersion};

const OPERATION_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;

const REWRITE: u8 = 0x00;
/// 17 and later: PRUNE_ON_ACCESS.
const PRUNE: u8 = 0x10;
/// 17 and later: PRUNE_VACUUM_SCAN.
const VACUUM: u8 = 0x20;
/// 17 and later: PRUNE_VACUUM_CLEANUP.
const FREEZE_PAGE: u8 = 0x30;
const VISIBLE: u8 = 0x40;
const MULTI_INSERT: u8 = 0x50;
const LOCK_UPDATED: u8 = 0x60;
const NEW_CID: u8 = 0x70;

const INSERT_ALL_FROZEN_SET: u8 = 0x20;

const PRUNE_CLEANUP_LOCK: u8 = 0x04;
const PRUNE_HAS_HORIZON: u8 = 0x08;
const PRUNE_HAS_FREEZE_PLANS: u8 = 0x10;
const PRUNE_HAS_REDIRECTIONS: u8 = 0x20;
const PRUNE_HAS_DEAD: u8 = 0x40;
const PRUNE_HAS_UNUSED: u8 = 0x80;

const FREEZE_XVAC_FROZEN: u8 = 0x02;
const FREEZE_XVAC_INVALID: u8 = 0x04;
const FROZEN_XID: u32 = 2;
const PLAN_BYTES: usize = 12;

fn clears(record: &Record<'_>) -> Result<Clears, Misfit> {
    let (flags, bits) = match record.operation() & OPERATION_MASK {
        MULTI_INSERT => (Reader::new(record.main()).u8()?, ALL_BITS),
        LOCK_UPDATED => (Layout::Stock.delete(record.main())?.flags, ALL_FROZEN),
        _ => return Ok([None, None]),
    };
    match flags & CLEARED {
        0 => Ok([None, None]),
        _ => Ok([Some((record.expect_block(0)?.number(), bits)), None]),
    }
}

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    emit_clears(record, clears(record)?, emit)
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let record = change.record;
    let operation = record.operation() & OPERATION_MASK;
    if change.block.tag().fork == Fork::VisibilityMap && operation != VISIBLE {
        return Ok(redo_clears(clears(record)?, change, page));
    }
    match (operation, change.block.id()) {
        (VISIBLE, _) => visible(change, page),
        (PRUNE | VACUUM | FREEZE_PAGE, 0) if record.version >= WalVersion::V17 => {
            prune_freeze(change, page)
        }
        (PRUNE, 0) => prune(change, page),
        (VACUUM, 0) => vacuum(change, page),
        (FREEZE_PAGE, 0) if record.version >= WalVersion::V16 => freeze_plans(change, page),
        (FREEZE_PAGE, 0) => freeze_tuples(change, page),
        (MULTI_INSERT, 0) => multi_insert(change, page, Layout::of_heap(record, change.settings)),
        (LOCK_UPDATED, 0) => lock_updated(change, page),
        (REWRITE | NEW_CID, _) => Ok(Touch::Unchanged),
        (_, id) => Err(Misfit::new("a block that the record changes", id.into())),
    }
}

/// The next `count` line-pointer offsets.
fn offsets<'a>(data: &mut Reader<'a>, count: usize) -> Result<&'a [[u8; 2]], Misfit> {
    data.take(count * 2).map(|bytes| bytes.as_chunks().0)
}

fn set_all(page: &mut Page<'_>, offsets: &[[u8; 2]], pointer: LinePointer) -> Result<(), Misfit> {
    offsets
        .iter()
        .try_for_each(|offset| page.set_pointer(u16::from_le_bytes(*offset).into(), pointer))
}

fn redirect(page: &mut Page<'_>, data: &mut Reader<'_>, count: usize) -> Result<(), Misfit> {
    for _ in 0..count {
        let (from, to) = (data.u16()?, data.u16()?);
        page.set_pointer(from.into(), LinePointer::redirect(to))?;
    }
    Ok(())
}

/// 14 to 16.
fn prune(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let (redirected, dead) = (main.u16()?, main.u16()?);
    let mut data = Reader::new(change.block.data());
    redirect(page, &mut data, redirected.into())?;
    set_all(page, offsets(&mut data, dead.into())?, LinePointer::dead())?;
    set_all(page, data.rest().as_chunks().0, LinePointer::NONE)?;
    page.repair_fragmentation()?;
    Ok(Touch::Changed)
}

/// 14 to 16.
fn vacuum(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    set_all(page, change.block.data().as_chunks().0, LinePointer::NONE)?;
    page.truncate_pointers()?;
    Ok(Touch::Changed)
}

/// What freezing does to one tuple.
struct FreezePlan {
    xmax: u32,
    infomask2: u16,
    infomask: u16,
    flags: u8,
}

impl FreezePlan {
    fn apply(&self, page: &mut Page<'_>, offset: u16) -> Result<(), Misfit> {
        let mut tuple = HeapTuple::at(page, offset)?;
        tuple.set_xmax(self.xmax);
        if self.flags & FREEZE_XVAC_FROZEN != 0 {
            tuple.set_xvac(FROZEN_XID);
        }
        if self.flags & FREEZE_XVAC_INVALID != 0 {
            tuple.set_xvac(0);
        }
        tuple.set_infomask(self.infomask);
        tuple.set_infomask2(self.infomask2);
        Ok(())
    }
}

/// 14 and 15: one plan per tuple.
fn freeze_tuples(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let count = main.u16()?;
    let mut data = Reader::new(change.block.data());
    for _ in 0..count {
        let (xmax, offset) = (data.u32()?, data.u16()?);
        let plan =
            FreezePlan { xmax, infomask2: data.u16()?, infomask: data.u16()?, flags: data.u8()? };
        data.u8()?;
        plan.apply(page, offset)?;
    }
    Ok(Touch::Changed)
}

/// 16.
fn freeze_plans(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let count = usize::from(main.u16()?);
    let mut data = Reader::new(change.block.data());
    let plans = data.take(count * PLAN_BYTES)?;
    apply_plans(page, plans, data)?;
    Ok(Touch::Changed)
}

/// Plans of 16 and later: each says for how many of the offsets that follow it stands.
fn apply_plans(page: &mut Page<'_>, plans: &[u8], mut offsets: Reader<'_>) -> Result<(), Misfit> {
    let mut plans = Reader::new(plans);
    while !plans.is_empty() {
        let plan = FreezePlan {
            xmax: plans.u32()?,
            infomask2: plans.u16()?,
            infomask: plans.u16()?,
            flags: plans.u8()?,
        };
        plans.u8()?;
        for _ in 0..plans.u16()? {
            plan.apply(page, offsets.u16()?)?;
        }
    }
    Ok(())
}

/// 17 and later: all of pruning, vacuum's second pass and freezing in one format.
fn prune_freeze(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    let (_reason, flags) = (main.u8()?, main.u8()?);
    if flags & PRUNE_HAS_HORIZON != 0 {
        main.u32()?;
    }
    let mut data = Reader::new(change.block.data());
    let mut plans: &[u8] = &[];
    if flags & PRUNE_HAS_FREEZE_PLANS != 0 {
        let count = usize::from(data.u16()?);
        data.u16()?;
        plans = data.take(count * PLAN_BYTES)?;
    }
    if flags & PRUNE_HAS_REDIRECTIONS != 0 {
        let count = data.u16()?;
        redirect(page, &mut data, count.into())?;
    }
    for (flag, pointer) in
        [(PRUNE_HAS_DEAD, LinePointer::dead()), (PRUNE_HAS_UNUSED, LinePointer::NONE)]
    {
        if flags & flag != 0 {
            let count = data.u16()?;
            set_all(page, offsets(&mut data, count.into())?, pointer)?;
        }
    }
    if flags & (PRUNE_HAS_REDIRECTIONS | PRUNE_HAS_DEAD | PRUNE_HAS_UNUSED) != 0 {
        if flags & PRUNE_CLEANUP_LOCK != 0 {
            page.repair_fragmentation()?;
        } else {
            page.truncate_pointers()?;
        }
    }
    apply_plans(page, plans, data)?;
    Ok(Touch::Changed)
}

fn visible(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    main.u32()?;
    let bits = main.u8()? & ALL_BITS;
    if change.block.id() == 0 {
        if page.is_new() {
            page.init(0);
        }
        let heap_block = change.record.expect_block(1)?.number();
        return Ok(match visibility_map::set(page, heap_block, bits) {
            true => Touch::Changed,
            false => Touch::Unchanged,
        });
    }
    page.set_flag(ALL_VISIBLE, true);
    Ok(match change.settings.visible_moves_heap_lsn {
        true => Touch::Changed,
        false => Touch::ChangedSameLsn,
    })
}

pub(super) fn multi_insert(
    change: &Change<'_>,
    page: &mut Page<'_>,
    layout: Layout,
) -> Result<Touch, Misfit> {
    let mut main = Reader::new(change.record.main());
    let flags = main.u8()?;
    main.u8()?;
    let count = main.u16()?;
    let cid = layout.multi_insert_cid(&mut main)?;
    let init = change.record.info() & INIT_PAGE != 0;
    if init {
        page.init(0);
    }
    let whole = change.block.data();
    let mut data = Reader::new(whole);
    for index in 0..count {
        let offset = if init { index.wrapping_add(1) } else { main.u16()? };
        let position = whole.len() - data.len();
        data.skip(align2(position) - position)?;
        let len = usize::from(data.u16()?);
        let tuple = NewTuple {
            header: Layout::Stock.tuple_header(&mut data)?.with_cid(cid),
            xmin: change.record.xid(),
            xmax: 0,
            ctid: TupleId { block: change.block.number(), offset },
        };
        let bytes = data.take(len)?;
        let start = tuple.add(page, offset, len)?;
        page.put(start, bytes)?;
    }
    if !data.is_empty() {
        return Err(Misfit::new("no bytes after the last tuple", data.len() as u64));
    }
    if flags & CLEARED != 0 {
        page.set_flag(ALL_VISIBLE, false);
    }
    if flags & INSERT_ALL_FROZEN_SET != 0 {
        page.set_flag(ALL_VISIBLE, true);
    }
    Ok(Touch::Changed)
}

fn lock_updated(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let Xmax { xmax, offset, infobits, .. } = Layout::Stock.delete(change.record.main())?;
    let mut tuple = HeapTuple::at(page, offset)?;
    tuple.set_xmax_state(infobits, None);
    tuple.set_xmax(xmax);
    Ok(Touch::Changed)
}
