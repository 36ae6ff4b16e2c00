//! Replication origins (PostgreSQL src/backend/replication/logical/origin.c).

use super::{Effect, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;
use crate::types::Lsn;

const SET: u8 = 0x00;
const DROP: u8 = 0x10;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    match record.operation() {
        SET => {
            let remote_lsn = Lsn(main.u64()?);
            let (origin, backward) = (main.u16()?, main.u8()? != 0);
            emit(Effect::OriginAdvance { origin, remote_lsn, backward });
        }
        DROP => emit(Effect::OriginDrop { origin: main.u16()? }),
        _ => return Err(unknown(record)),
    }
    Ok(())
}
