//! Neon's resource manager of its Postgres 16 and 17: heap records that carry the command id.

use super::heap::{self, Operation};
use super::heap_layout::Layout;
use super::visibility_map::ALL_BITS;
use super::{Change, Effect, Touch, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;
use crate::postgres::wal::{Fork, Record};

const OPERATION_MASK: u8 = 0x70;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const HOT_UPDATE: u8 = 0x30;
const LOCK: u8 = 0x40;
const MULTI_INSERT: u8 = 0x50;

/// None for MULTI_INSERT, which is one of Heap2's.
fn operation(record: &Record<'_>) -> Result<Option<Operation>, Misfit> {
    match record.operation() & OPERATION_MASK {
        INSERT => Ok(Some(Operation::Insert)),
        DELETE => Ok(Some(Operation::Delete)),
        UPDATE => Ok(Some(Operation::Update { hot: false })),
        HOT_UPDATE => Ok(Some(Operation::Update { hot: true })),
        LOCK => Ok(Some(Operation::Lock)),
        MULTI_INSERT => Ok(None),
        _ => Err(unknown(record)),
    }
}

fn clears(record: &Record<'_>) -> Result<heap::Clears, Misfit> {
    match operation(record)? {
        Some(operation) => heap::clears(record, operation, Layout::NeonManager),
        None => match Reader::new(record.main()).u8()? & heap::CLEARED {
            0 => Ok([None, None]),
            _ => Ok([Some((record.expect_block(0)?.number(), ALL_BITS)), None]),
        },
    }
}

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    heap::emit_clears(record, clears(record)?, emit)
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    if change.block.tag().fork == Fork::VisibilityMap {
        return Ok(heap::redo_clears(clears(change.record)?, change, page));
    }
    match operation(change.record)? {
        Some(operation) => heap::redo_operation(change, page, operation, Layout::NeonManager),
        None if change.block.id() == 0 => {
            super::heap2::multi_insert(change, page, Layout::NeonManager)
        }
        None => Err(Misfit::new("block 0", change.block.id().into())),
    }
}
