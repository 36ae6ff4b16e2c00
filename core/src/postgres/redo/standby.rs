//! What standbys are told: running transactions, locks (PostgreSQL src/backend/storage/ipc/standby.c).

use super::{Effect, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;

const LOCK: u8 = 0x00;
const RUNNING_XACTS: u8 = 0x10;
const INVALIDATIONS: u8 = 0x20;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    match record.operation() {
        RUNNING_XACTS => {
            // Counts of transactions and subtransactions, whether some are missing, padding.
            main.skip(12)?;
            emit(Effect::RunningTransactions {
                next_xid: main.u32()?,
                oldest_running_xid: main.u32()?,
                latest_completed_xid: main.u32()?,
            });
        }
        LOCK | INVALIDATIONS => {}
        _ => return Err(unknown(record)),
    }
    Ok(())
}
