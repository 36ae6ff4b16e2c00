//! A heap tuple's header on a page (PostgreSQL src/include/access/htup_details.h).

use crate::postgres::bytes::Misfit;
use crate::postgres::page::Page;

/// Bytes of the fixed header: xmin 0, xmax 4, cid or xvac 8, ctid 12, infomask2 18, infomask 20, hoff 22.
pub(super) const HEADER_BYTES: usize = 23;

pub(super) const KEYSHR_LOCK: u16 = 0x0010;
const COMBOCID: u16 = 0x0020;
pub(super) const EXCL_LOCK: u16 = 0x0040;
pub(super) const LOCK_ONLY: u16 = 0x0080;
pub(super) const XMAX_IS_MULTI: u16 = 0x1000;
const MOVED: u16 = 0xC000;
/// HEAP_XMAX_BITS: committed, invalid, multi, exclusive, key-share, lock only.
const XMAX_BITS: u16 = 0x1CD0;

pub(super) const KEYS_UPDATED: u16 = 0x2000;
pub(super) const HOT_UPDATED: u16 = 0x4000;

/// A tuple id: block and line pointer, as stored (block high half first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TupleId {
    pub block: u32,
    pub offset: u16,
}

impl TupleId {
    /// "Moved to another partition" (ItemPointerSetMovedPartitions).
    pub const MOVED_PARTITIONS: TupleId = TupleId { block: 0xFFFF_FFFF, offset: 0xFFFD };

    pub fn to_bytes(self) -> [u8; 6] {
        let [h0, h1] = ((self.block >> 16) as u16).to_le_bytes();
        let [l0, l1] = (self.block as u16).to_le_bytes();
        let [o0, o1] = self.offset.to_le_bytes();
        [h0, h1, l0, l1, o0, o1]
    }
}

/// The tuple at a line pointer of a heap page.
pub(super) struct HeapTuple {
    pub start: usize,
    pub len: usize,
}

impl HeapTuple {
    pub fn at(page: &Page<'_>, offset: u16) -> Result<HeapTuple, Misfit> {
        let (start, len) = page.normal_item(offset.into(), HEADER_BYTES)?;
        Ok(HeapTuple { start, len })
    }

    pub fn infomask(&self, page: &Page<'_>) -> Result<u16, Misfit> {
        page.u16(self.start + 20)
    }

    pub fn set_infomask(&self, page: &mut Page<'_>, value: u16) -> Result<(), Misfit> {
        page.put_u16(self.start + 20, value)
    }

    pub fn infomask2(&self, page: &Page<'_>) -> Result<u16, Misfit> {
        page.u16(self.start + 18)
    }

    pub fn set_infomask2(&self, page: &mut Page<'_>, value: u16) -> Result<(), Misfit> {
        page.put_u16(self.start + 18, value)
    }

    pub fn set_xmin(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Misfit> {
        page.put_u32(self.start, xid)
    }

    pub fn set_xmax(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Misfit> {
        page.put_u32(self.start + 4, xid)
    }

    pub fn set_xvac(&self, page: &mut Page<'_>, xid: u32) -> Result<(), Misfit> {
        page.put_u32(self.start + 8, xid)
    }

    pub fn set_ctid(&self, page: &mut Page<'_>, tid: TupleId) -> Result<(), Misfit> {
        page.put(self.start + 12, &tid.to_bytes())
    }

    /// Where the user data starts and how long it is.
    pub fn data(&self, page: &Page<'_>) -> Result<(usize, usize), Misfit> {
        let header_len = usize::from(page.bytes()[self.start + 22]);
        if header_len < HEADER_BYTES || header_len > self.len {
            return Err(Misfit::new("a tuple header inside its tuple", header_len as u64));
        }
        Ok((self.start + header_len, self.len - header_len))
    }

    /// Sets the command id.
    pub fn set_cid(&self, page: &mut Page<'_>, cid: u32) -> Result<(), Misfit> {
        self.set_xvac(page, cid)?;
        self.set_infomask(page, self.infomask(page)? & !COMBOCID)
    }

    /// Clears what a former xmax left in both masks, then sets what `infobits` says (fix_infomask_from_infobits).
    /// HOT_UPDATED becomes `hot_updated` if that is given.
    pub fn set_xmax_state(
        &self,
        page: &mut Page<'_>,
        infobits: u8,
        hot_updated: Option<bool>,
    ) -> Result<(), Misfit> {
        let mut infomask = self.infomask(page)? & !(XMAX_BITS | MOVED);
        let mut infomask2 = self.infomask2(page)? & !KEYS_UPDATED;
        if let Some(hot_updated) = hot_updated {
            infomask2 = infomask2 & !HOT_UPDATED | if hot_updated { HOT_UPDATED } else { 0 };
        }
        for (bit, flag) in [(1, XMAX_IS_MULTI), (2, LOCK_ONLY), (4, EXCL_LOCK), (8, KEYSHR_LOCK)] {
            if infobits & bit != 0 {
                infomask |= flag;
            }
        }
        if infobits & 0x10 != 0 {
            infomask2 |= KEYS_UPDATED;
        }
        self.set_infomask(page, infomask)?;
        self.set_infomask2(page, infomask2)
    }

    /// Whether xmax only locks the tuple (HEAP_XMAX_IS_LOCKED_ONLY).
    pub fn is_locked_only(&self, page: &Page<'_>) -> Result<bool, Misfit> {
        let infomask = self.infomask(page)?;
        Ok(infomask & LOCK_ONLY != 0
            || infomask & (XMAX_IS_MULTI | KEYSHR_LOCK | EXCL_LOCK) == EXCL_LOCK)
    }
}

/// What records carry of a new tuple's header (xl_heap_header); Neon's add the command id.
#[derive(Debug, Clone, Copy)]
pub(super) struct TupleHeader {
    pub infomask2: u16,
    pub infomask: u16,
    pub header_len: u8,
    pub cid: u32,
}

impl TupleHeader {
    pub fn with_cid(self, cid: u32) -> TupleHeader {
        TupleHeader { cid, ..self }
    }
}

/// A new tuple's fixed header.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewTuple {
    pub header: TupleHeader,
    pub xmin: u32,
    pub xmax: u32,
    pub ctid: TupleId,
}

impl NewTuple {
    /// Makes room for a tuple of `data_len` bytes after the fixed header, writes that header; where the data belong.
    pub fn add(&self, page: &mut Page<'_>, offset: u16, data_len: usize) -> Result<usize, Misfit> {
        let start = page.add_heap_item(offset.into(), HEADER_BYTES + data_len)?;
        page.put_u32(start, self.xmin)?;
        page.put_u32(start + 4, self.xmax)?;
        page.put_u32(start + 8, self.header.cid)?;
        page.put(start + 12, &self.ctid.to_bytes())?;
        page.put_u16(start + 18, self.header.infomask2)?;
        page.put_u16(start + 20, self.header.infomask & !COMBOCID)?;
        page.put(start + 22, &[self.header.header_len])?;
        Ok(start + HEADER_BYTES)
    }
}

/// Remembers that pruning may help once `xid` is old (PageSetPrunable).
pub(super) fn set_prunable(page: &mut Page<'_>, xid: u32) {
    let prune_xid = page.prune_xid();
    if prune_xid == 0 || precedes(xid, prune_xid) {
        page.set_prune_xid(xid);
    }
}

/// Whether transaction `a` is older than `b`, in a space that wraps (TransactionIdPrecedes).
fn precedes(a: u32, b: u32) -> bool {
    const FIRST_NORMAL: u32 = 3;
    if a < FIRST_NORMAL || b < FIRST_NORMAL { a < b } else { (a.wrapping_sub(b) as i32) < 0 }
}
