//! XLOG: checkpoints, settings, full-page images (PostgreSQL src/backend/access/transam/xlog.c, xlog_redo).

use super::effect::Parameters;
use super::{Change, Effect, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;
use crate::types::Lsn;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const NEXT_OID: u8 = 0x30;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const FULL_PAGE_WRITES_CHANGE: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const FULL_PAGE_IMAGE_FOR_HINT: u8 = 0xA0;

/// Bytes of CheckPoint, all versions.
const CHECKPOINT_BYTES: usize = 88;

/// Images are restored before this is asked; a hint's record may go without one (full_page_writes off).
pub(super) fn redo(change: &Change<'_>) -> Result<Touch, Misfit> {
    match change.record.operation() {
        FULL_PAGE_IMAGE_FOR_HINT => Ok(Touch::Unchanged),
        operation => Err(Misfit::new("an image to restore", operation.into())),
    }
}

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    match record.operation() {
        operation @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => emit(Effect::Checkpoint {
            shutdown: operation == CHECKPOINT_SHUTDOWN,
            data: main.take(CHECKPOINT_BYTES)?,
        }),
        NEXT_OID => emit(Effect::NextOid(main.u32()?)),
        BACKUP_END => emit(Effect::BackupEnd { start: Lsn(main.u64()?) }),
        PARAMETER_CHANGE => emit(Effect::Parameters(Parameters {
            max_connections: main.i32()?,
            max_worker_processes: main.i32()?,
            max_wal_senders: main.i32()?,
            max_prepared_transactions: main.i32()?,
            max_locks_per_transaction: main.i32()?,
            wal_level: main.i32()?,
            wal_log_hints: main.u8()? != 0,
            track_commit_timestamp: main.u8()? != 0,
        })),
        FULL_PAGE_WRITES_CHANGE => emit(Effect::FullPageWrites(main.u8()? != 0)),
        END_OF_RECOVERY => {
            main.i64()?;
            emit(Effect::EndOfRecovery { timeline: main.u32()?, previous_timeline: main.u32()? });
        }
        _ => {}
    }
    Ok(())
}
