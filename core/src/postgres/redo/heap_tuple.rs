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

/// The tuple at a line pointer of a heap page: where it lies, and its fixed header in place.
pub(super) struct HeapTuple<'p> {
    start: usize,
    len: usize,
    header: &'p mut [u8; HEADER_BYTES],
}

impl<'p> HeapTuple<'p> {
    pub fn at(page: &'p mut Page<'_>, offset: u16) -> Result<HeapTuple<'p>, Misfit> {
        let (start, len) = page.normal_item(offset.into(), HEADER_BYTES)?;
        Ok(HeapTuple { start, len, header: page.array_mut(start)? })
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.header[at..at + N].copy_from_slice(&bytes);
    }

    pub fn infomask(&self) -> u16 {
        u16::from_le_bytes([self.header[20], self.header[21]])
    }

    pub fn set_infomask(&mut self, value: u16) {
        self.put(20, value.to_le_bytes());
    }

    pub fn infomask2(&self) -> u16 {
        u16::from_le_bytes([self.header[18], self.header[19]])
    }

    pub fn set_infomask2(&mut self, value: u16) {
        self.put(18, value.to_le_bytes());
    }

    pub fn set_xmin(&mut self, xid: u32) {
        self.put(0, xid.to_le_bytes());
    }

    pub fn set_xmax(&mut self, xid: u32) {
        self.put(4, xid.to_le_bytes());
    }

    pub fn set_xvac(&mut self, xid: u32) {
        self.put(8, xid.to_le_bytes());
    }

    pub fn set_ctid(&mut self, tid: TupleId) {
        self.put(12, tid.to_bytes());
    }

    /// Where the user data starts and how long it is.
    pub fn data(&self) -> Result<(usize, usize), Misfit> {
        let header_len = usize::from(self.header[22]);
        if header_len < HEADER_BYTES || header_len > self.len {
            return Err(Misfit::new("a tuple header inside its tuple", header_len as u64));
        }
        Ok((self.start + header_len, self.len - header_len))
    }

    /// Sets the command id.
    pub fn set_cid(&mut self, cid: u32) {
        self.set_xvac(cid);
        self.set_infomask(self.infomask() & !COMBOCID);
    }

    /// Clears what a former xmax left in both masks, then sets what `infobits` says (fix_infomask_from_infobits).
    /// HOT_UPDATED becomes `hot_updated` if that is given.
    pub fn set_xmax_state(&mut self, infobits: u8, hot_updated: Option<bool>) {
        let mut infomask = self.infomask() & !(XMAX_BITS | MOVED);
        let mut infomask2 = self.infomask2() & !KEYS_UPDATED;
        if let Some(hot_updated) = hot_updated {
            infomask2 = infomask2 & !HOT_UPDATED | if hot_updated { HOT_UPDATED } else { 0 };
        }
        for (bit, flag) in [(1, XMAX_IS_MULTI), (2, LOCK_ONLY), (4, EXCL_LOCK), (8, KEYSHR_LOCK)] {
            infomask |= if infobits & bit != 0 { flag } else { 0 };
        }
        infomask2 |= if infobits & 0x10 != 0 { KEYS_UPDATED } else { 0 };
        self.set_infomask(infomask);
        self.set_infomask2(infomask2);
    }

    /// Whether xmax only locks the tuple (HEAP_XMAX_IS_LOCKED_ONLY).
    pub fn is_locked_only(&self) -> bool {
        let infomask = self.infomask();
        infomask & LOCK_ONLY != 0
            || infomask & (XMAX_IS_MULTI | KEYSHR_LOCK | EXCL_LOCK) == EXCL_LOCK
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
        let len = HEADER_BYTES + data_len;
        let start = page.add_heap_item(offset.into(), len)?;
        let mut tuple = HeapTuple { start, len, header: page.array_mut(start)? };
        tuple.set_xmin(self.xmin);
        tuple.set_xmax(self.xmax);
        tuple.set_infomask(self.header.infomask);
        tuple.set_cid(self.header.cid);
        tuple.set_ctid(self.ctid);
        tuple.set_infomask2(self.header.infomask2);
        tuple.put(22, [self.header.header_len]);
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
