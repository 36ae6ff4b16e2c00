//! Where the fields of heap records lie: stock Postgres', and Neon's with a command id in addition.
//!
//! Neon's Postgres 16 and 17 write such records under a resource manager of their own; its 14 and 15 changed the heap's
//! own records instead. The latter are known from Neon's source only, no recording checks them.

use super::Settings;
use super::heap_tuple::TupleHeader;
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::{Record, WalVersion};

/// Which fields, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Stock Postgres.
    Stock,
    /// Resource manager 134 of Neon's 16 and 17.
    NeonManager,
    /// The heap manager's records of Neon's 14 and 15.
    NeonHeap,
}

/// What happens to an old tuple (xl_heap_delete, xl_heap_lock).
#[derive(Debug, Clone, Copy)]
pub(super) struct Xmax {
    pub xmax: u32,
    pub offset: u16,
    pub infobits: u8,
    pub flags: u8,
    pub cid: u32,
}

/// xl_heap_update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub old: Xmax,
    pub new_xmax: u32,
    pub new_offset: u16,
}

impl Layout {
    /// The layout of the heap manager's own records.
    pub fn of_heap(record: &Record<'_>, settings: Settings) -> Layout {
        if settings.neon_heap_records && record.version <= WalVersion::V15 {
            Layout::NeonHeap
        } else {
            Layout::Stock
        }
    }

    #[inline]
    pub fn delete(self, main: &[u8]) -> Result<Xmax, Misfit> {
        let mut main = Reader::new(main);
        let (xmax, offset) = (main.u32()?, main.u16()?);
        let mut cid = 0;
        if self == Layout::NeonHeap {
            main.skip(2)?;
            cid = main.u32()?;
        }
        let (infobits, flags) = (main.u8()?, main.u8()?);
        if self == Layout::NeonManager {
            cid = main.u32()?;
        }
        Ok(Xmax { xmax, offset, infobits, flags, cid })
    }

    pub fn lock(self, main: &[u8]) -> Result<Xmax, Misfit> {
        if self != Layout::NeonManager {
            return self.delete(main);
        }
        let mut main = Reader::new(main);
        let (xmax, cid) = (main.u32()?, main.u32()?);
        Ok(Xmax { xmax, cid, offset: main.u16()?, infobits: main.u8()?, flags: main.u8()? })
    }

    #[inline]
    pub fn update(self, main: &[u8]) -> Result<Update, Misfit> {
        let mut main = Reader::new(main);
        let (xmax, offset) = (main.u32()?, main.u16()?);
        let (infobits, flags) = (main.u8()?, main.u8()?);
        let cid = if self == Layout::Stock { 0 } else { main.u32()? };
        let old = Xmax { xmax, offset, infobits, flags, cid };
        Ok(Update { old, new_xmax: main.u32()?, new_offset: main.u16()? })
    }

    /// The header of a new tuple, before its data.
    #[inline]
    pub fn tuple_header(self, data: &mut Reader<'_>) -> Result<TupleHeader, Misfit> {
        let (infomask2, infomask) = (data.u16()?, data.u16()?);
        let cid = if self == Layout::Stock { 0 } else { data.u32()? };
        Ok(TupleHeader { infomask2, infomask, header_len: data.u8()?, cid })
    }

    /// The command id of all tuples of a multi-insert, between their number and their offsets.
    pub fn multi_insert_cid(self, main: &mut Reader<'_>) -> Result<u32, Misfit> {
        if self == Layout::Stock { Ok(0) } else { main.u32() }
    }
}
