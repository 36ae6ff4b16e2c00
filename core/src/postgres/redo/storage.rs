//! Files of relations: created, cut (PostgreSQL src/backend/catalog/storage.c).

use super::{Effect, relation, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::{Fork, Record};

const CREATE: u8 = 0x10;
const TRUNCATE: u8 = 0x20;

const TRUNCATE_MAIN: u32 = 1;
const TRUNCATE_VISIBILITY_MAP: u32 = 2;
const TRUNCATE_FREE_SPACE_MAP: u32 = 4;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    match record.operation() {
        CREATE => {
            let relation = relation(&mut main)?;
            let number = main.u32()?;
            let fork = u8::try_from(number).ok().and_then(Fork::from_number);
            let fork = fork.ok_or(Misfit::new("fork 0 to 3", number.into()))?;
            emit(Effect::RelationCreate { relation, fork });
        }
        TRUNCATE => {
            let blocks = main.u32()?;
            let relation = relation(&mut main)?;
            let flags = main.u32()?;
            emit(Effect::RelationTruncate {
                relation,
                blocks,
                main: flags & TRUNCATE_MAIN != 0,
                visibility_map: flags & TRUNCATE_VISIBILITY_MAP != 0,
                free_space_map: flags & TRUNCATE_FREE_SPACE_MAP != 0,
            });
        }
        _ => return Err(unknown(record)),
    }
    Ok(())
}
