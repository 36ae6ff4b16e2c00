//! Multixacts: sets of transactions that lock one tuple (PostgreSQL src/backend/access/transam/multixact.c).

use super::slru::Slru;
use super::{Effect, slru_page, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;

const ZERO_OFFSETS_PAGE: u8 = 0x00;
const ZERO_MEMBERS_PAGE: u8 = 0x10;
const CREATE_ID: u8 = 0x20;
const TRUNCATE_ID: u8 = 0x30;

const MEMBER_BYTES: usize = 8;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let mut main = Reader::new(record.main());
    match record.operation() {
        ZERO_OFFSETS_PAGE => {
            let page = slru_page(record, &mut main)?;
            emit(Effect::SlruZeroPage { slru: Slru::MultiXactOffsets, page });
        }
        ZERO_MEMBERS_PAGE => {
            let page = slru_page(record, &mut main)?;
            emit(Effect::SlruZeroPage { slru: Slru::MultiXactMembers, page });
        }
        CREATE_ID => create(&mut main, emit)?,
        TRUNCATE_ID => {
            let oldest_database = main.u32()?;
            main.u32()?;
            emit(Effect::MultiXactTruncate {
                multixact: main.u32()?,
                members_from: main.u32()?,
                members_to: main.u32()?,
                oldest_database,
            });
        }
        _ => return Err(unknown(record)),
    }
    Ok(())
}

/// Both number spaces wrap and leave out 0.
fn skip_zero(number: u32) -> u32 {
    number.max(1)
}

fn create<'a>(main: &mut Reader<'a>, emit: &mut dyn FnMut(Effect<'a>)) -> Result<(), Misfit> {
    let (multixact, first) = (main.u32()?, main.u32()?);
    let count = main.count(MEMBER_BYTES)?;
    let next = skip_zero(multixact.wrapping_add(1));
    let next_offset = skip_zero(first.wrapping_add(count as u32));
    emit(Effect::MultiXactOffset { multixact, offset: first, ahead: false });
    emit(Effect::MultiXactOffset { multixact: next, offset: next_offset, ahead: true });
    let mut offset = first;
    for _ in 0..count {
        // The member index wraps past 0, which is left out.
        offset = skip_zero(offset);
        let xid = main.u32()?;
        let status = main.u32()?;
        let status =
            u8::try_from(status).map_err(|_| Misfit::new("a multixact status", status.into()))?;
        emit(Effect::MultiXactMember { offset, xid, status });
        offset = offset.wrapping_add(1);
    }
    emit(Effect::MultiXactNext { multixact: next, offset: next_offset });
    Ok(())
}
