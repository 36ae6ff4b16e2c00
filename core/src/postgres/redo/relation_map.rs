//! Relation maps: which file belongs to which mapped catalog (PostgreSQL src/backend/utils/cache/relmapper.c).

use super::{Effect, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;

const UPDATE: u8 = 0x00;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    if record.operation() != UPDATE {
        return Err(unknown(record));
    }
    let mut main = Reader::new(record.main());
    let (database, tablespace) = (main.u32()?, main.u32()?);
    let len = main.count(1)?;
    emit(Effect::RelationMap { database, tablespace, data: main.take(len)? });
    Ok(())
}
