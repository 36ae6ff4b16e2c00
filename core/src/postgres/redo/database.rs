//! Databases: made as a copy of files or empty, dropped (PostgreSQL src/backend/commands/dbcommands.c).

use super::{Effect, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::{Record, WalVersion};

const CREATE_FILE_COPY: u8 = 0x00;
const CREATE_WAL_LOG: u8 = 0x10;
const DROP: u8 = 0x20;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    let operation = match record.operation() {
        // 14 has no WAL-logged creation, and its DROP has that number.
        CREATE_WAL_LOG if record.version == WalVersion::V14 => DROP,
        operation => operation,
    };
    let database = main.u32()?;
    match operation {
        CREATE_FILE_COPY => emit(Effect::DatabaseCopy {
            database,
            tablespace: main.u32()?,
            source_database: main.u32()?,
            source_tablespace: main.u32()?,
        }),
        CREATE_WAL_LOG => emit(Effect::DatabaseCreate { database, tablespace: main.u32()? }),
        DROP => {
            for _ in 0..main.count(4)? {
                emit(Effect::DatabaseDrop { database, tablespace: main.u32()? });
            }
        }
        _ => return Err(unknown(record)),
    }
    Ok(())
}
