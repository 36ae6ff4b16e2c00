//! Tablespaces (PostgreSQL src/backend/commands/tablespace.c).

use super::{Effect, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;

const CREATE: u8 = 0x00;
const DROP: u8 = 0x10;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    let tablespace = main.u32()?;
    match record.operation() {
        CREATE => {
            let rest = main.rest();
            let end = rest.iter().position(|&byte| byte == 0);
            let end = end.ok_or(Misfit::new("a path that ends", rest.len() as u64))?;
            emit(Effect::TablespaceCreate { tablespace, path: &rest[..end] });
        }
        DROP => emit(Effect::TablespaceDrop { tablespace }),
        _ => return Err(unknown(record)),
    }
    Ok(())
}
