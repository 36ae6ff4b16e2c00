//! Ends of transactions, two-phase commit (PostgreSQL src/backend/access/transam/xact.c, src/include/access/xact.h).

use super::{Effect, relation, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::{Record, WalVersion};
use crate::types::Lsn;

const OPERATION_MASK: u8 = 0x70;
const HAS_INFO: u8 = 0x80;

const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const ASSIGNMENT: u8 = 0x50;
const INVALIDATION: u8 = 0x60;

const INFO_DATABASE: u32 = 1;
const INFO_SUBTRANSACTIONS: u32 = 2;
const INFO_RELATIONS: u32 = 4;
const INFO_INVALIDATIONS: u32 = 8;
const INFO_TWO_PHASE: u32 = 16;
const INFO_ORIGIN: u32 = 32;
const INFO_GID: u32 = 128;
const INFO_DROPPED_STATISTICS: u32 = 256;

/// Where a PREPARE's header has the origin's position.
const PREPARE_ORIGIN_LSN: usize = 56;

const RELATION_BYTES: usize = 12;
const INVALIDATION_BYTES: usize = 16;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    match record.info() & OPERATION_MASK {
        COMMIT | COMMIT_PREPARED => end(record, true, emit),
        ABORT | ABORT_PREPARED => end(record, false, emit),
        PREPARE => {
            emit(Effect::TwoPhasePrepare { xid: record.xid(), data: record.main() });
            if let Some(origin) = record.origin() {
                let mut header = Reader::new(record.main());
                header.skip(PREPARE_ORIGIN_LSN)?;
                let remote_lsn = Lsn(header.u64()?);
                emit(Effect::OriginAdvance { origin, remote_lsn, backward: false });
            }
            Ok(())
        }
        ASSIGNMENT | INVALIDATION => Ok(()),
        _ => Err(unknown(record)),
    }
}

/// The parts of a commit or abort record that matter.
struct End<'a> {
    time_us: i64,
    subtransactions: Reader<'a>,
    relations: Reader<'a>,
    prepared_xid: Option<u32>,
    origin: Option<(Lsn, i64)>,
}

impl<'a> End<'a> {
    fn parse(record: &Record<'a>) -> Result<End<'a>, Misfit> {
        let mut main = Reader::new(record.main());
        let time_us = main.i64()?;
        let info = if record.info() & HAS_INFO != 0 { main.u32()? } else { 0 };
        let statistics_bytes = if record.version >= WalVersion::V18 { 16 } else { 12 };
        if info & INFO_DATABASE != 0 {
            main.skip(8)?;
        }
        let subtransactions = list(&mut main, info & INFO_SUBTRANSACTIONS, 4)?;
        let relations = list(&mut main, info & INFO_RELATIONS, RELATION_BYTES)?;
        list(&mut main, info & INFO_DROPPED_STATISTICS, statistics_bytes)?;
        list(&mut main, info & INFO_INVALIDATIONS, INVALIDATION_BYTES)?;
        let mut prepared_xid = None;
        if info & INFO_TWO_PHASE != 0 {
            prepared_xid = Some(main.u32()?);
            if info & INFO_GID != 0 {
                while main.u8()? != 0 {}
            }
        }
        let origin = match info & INFO_ORIGIN {
            0 => None,
            _ => Some((Lsn(main.u64()?), main.i64()?)),
        };
        Ok(End { time_us, subtransactions, relations, prepared_xid, origin })
    }
}

/// A count and that many items, if the record has them.
fn list<'a>(main: &mut Reader<'a>, present: u32, item_bytes: usize) -> Result<Reader<'a>, Misfit> {
    if present == 0 {
        return Ok(Reader::new(&[]));
    }
    let count = main.count(item_bytes)?;
    main.take(count * item_bytes).map(Reader::new)
}

fn end<'a>(
    record: &Record<'a>,
    committed: bool,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let End { time_us, mut subtransactions, mut relations, prepared_xid, origin } =
        End::parse(record)?;
    let prepared = matches!(record.info() & OPERATION_MASK, COMMIT_PREPARED | ABORT_PREPARED);
    let xid = match prepared_xid {
        Some(xid) if prepared => xid,
        None if !prepared => record.xid(),
        _ => return Err(Misfit::new("the xid of a prepared transaction", record.info().into())),
    };
    let time_us = origin.map_or(time_us, |(_, time_us)| time_us);
    let origin_id = record.origin().unwrap_or(0);
    let mut next = Some(xid);
    while let Some(xid) = next {
        emit(Effect::TransactionEnd { xid, committed });
        if committed {
            emit(Effect::CommitTimestamp { xid, time_us, origin: origin_id });
        }
        next = if subtransactions.is_empty() { None } else { Some(subtransactions.u32()?) };
    }
    while !relations.is_empty() {
        emit(Effect::RelationDrop(relation(&mut relations)?));
    }
    if prepared {
        emit(Effect::TwoPhaseEnd { xid });
    }
    if let Some((remote_lsn, _)) = origin {
        emit(Effect::OriginAdvance { origin: origin_id, remote_lsn, backward: false });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
