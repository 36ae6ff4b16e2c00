//! Data pages: header, line pointers, tuples (PostgreSQL src/include/storage/bufpage.h, itemid.h).
//!
//! [`Page`] is a page buffer changed in place. Every access is checked: a page may hold anything. Byte-exactness is the
//! point here: later records address bytes, and whole pages are compared with Postgres' own. [`items`] has the
//! operations on line pointers; read it for why two ways to delete exist.

mod items;

pub use items::LinePointer;

use crate::postgres::bytes::{Misfit, align8};
use crate::types::Lsn;

/// Bytes of a data page (BLCKSZ).
pub const PAGE_BYTES: usize = 8192;
/// Bytes of a page's header.
pub const HEADER_BYTES: usize = 24;
/// A page's bytes.
pub type PageBytes = [u8; PAGE_BYTES];

/// There are unused line pointers (a hint).
pub const HAS_FREE_LINES: u16 = 1;
/// The page had no room for a new tuple (a hint).
pub const PAGE_FULL: u16 = 2;
/// All tuples are visible to everyone.
pub const ALL_VISIBLE: u16 = 4;

/// Page size and layout version as one word: 8192 | 4.
const PAGE_SIZE_VERSION: u16 = 0x2004;

/// A page buffer, changed in place.
#[derive(Debug)]
pub struct Page<'a> {
    bytes: &'a mut PageBytes,
}

impl<'a> Page<'a> {
    /// The page in `bytes`.
    pub fn new(bytes: &'a mut PageBytes) -> Page<'a> {
        Page { bytes }
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &PageBytes {
        self.bytes
    }

    /// All of its bytes, for contents that are no tuples.
    pub fn bytes_mut(&mut self) -> &mut PageBytes {
        self.bytes
    }

    /// The two bytes at `offset`.
    #[inline]
    pub fn u16(&self, offset: usize) -> Result<u16, Misfit> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// The four bytes at `offset`.
    #[inline]
    pub fn u32(&self, offset: usize) -> Result<u32, Misfit> {
        self.array(offset).map(u32::from_le_bytes)
    }

    #[inline]
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], Misfit> {
        self.bytes
            .get(offset..)
            .and_then(|bytes| bytes.first_chunk())
            .copied()
            .ok_or(Misfit::new("an offset inside the page", offset as u64))
    }

    /// The `N` bytes at `offset`.
    #[inline]
    pub fn array_mut<const N: usize>(&mut self, offset: usize) -> Result<&mut [u8; N], Misfit> {
        self.bytes
            .get_mut(offset..)
            .and_then(|bytes| bytes.first_chunk_mut())
            .ok_or(Misfit::new("an offset inside the page", offset as u64))
    }

    /// The `len` bytes at `offset`.
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Result<&[u8], Misfit> {
        self.bytes
            .get(offset..)
            .and_then(|bytes| bytes.get(..len))
            .ok_or(Misfit::new("bytes inside the page", offset as u64))
    }

    /// The `len` bytes at `offset`.
    #[inline]
    pub fn slice_mut(&mut self, offset: usize, len: usize) -> Result<&mut [u8], Misfit> {
        self.bytes
            .get_mut(offset..)
            .and_then(|bytes| bytes.get_mut(..len))
            .ok_or(Misfit::new("bytes inside the page", offset as u64))
    }

    /// Writes bytes at `offset`.
    #[inline]
    pub fn put(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Misfit> {
        self.slice_mut(offset, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes two bytes at `offset`.
    #[inline]
    pub fn put_u16(&mut self, offset: usize, value: u16) -> Result<(), Misfit> {
        self.put(offset, &value.to_le_bytes())
    }

    /// Writes four bytes at `offset`.
    #[inline]
    pub fn put_u32(&mut self, offset: usize, value: u32) -> Result<(), Misfit> {
        self.put(offset, &value.to_le_bytes())
    }

    #[inline]
    fn header_u16<const OFFSET: usize>(&self) -> usize {
        const { assert!(OFFSET + 2 <= HEADER_BYTES) }
        usize::from(u16::from_le_bytes([self.bytes[OFFSET], self.bytes[OFFSET + 1]]))
    }

    #[inline]
    fn set_header_u16<const OFFSET: usize>(&mut self, value: usize) {
        const { assert!(OFFSET + 2 <= HEADER_BYTES) }
        assert!(value <= PAGE_BYTES, "page offsets are computed within the page");
        self.bytes[OFFSET..OFFSET + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }

    /// LSN of the last record that changed the page: two halves, the high one first.
    #[inline]
    pub fn lsn(&self) -> Lsn {
        let [h0, h1, h2, h3, l0, l1, l2, l3] =
            *self.bytes.first_chunk::<8>().expect("a page is longer than 8 bytes");
        let high = u32::from_le_bytes([h0, h1, h2, h3]);
        let low = u32::from_le_bytes([l0, l1, l2, l3]);
        Lsn(u64::from(high) << 32 | u64::from(low))
    }

    /// Sets the LSN.
    #[inline]
    pub fn set_lsn(&mut self, lsn: Lsn) {
        self.bytes[..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_le_bytes());
        self.bytes[4..8].copy_from_slice(&(lsn.0 as u32).to_le_bytes());
    }

    /// The checksum as stored. Redo never computes it: it belongs to writing a page to a file.
    pub fn checksum(&self) -> u16 {
        self.header_u16::<8>() as u16
    }

    /// [`HAS_FREE_LINES`], [`PAGE_FULL`], [`ALL_VISIBLE`].
    pub fn flags(&self) -> u16 {
        self.header_u16::<10>() as u16
    }

    /// Sets or clears one of the flags.
    pub fn set_flag(&mut self, flag: u16, on: bool) {
        let flags = if on { self.flags() | flag } else { self.flags() & !flag };
        self.bytes[10..12].copy_from_slice(&flags.to_le_bytes());
    }

    /// End of the line pointers.
    #[inline]
    pub fn lower(&self) -> usize {
        self.header_u16::<12>()
    }

    /// Sets the end of the line pointers (or of contents that are no tuples).
    #[inline]
    pub fn set_lower(&mut self, lower: usize) {
        self.set_header_u16::<12>(lower);
    }

    /// Start of the tuples.
    #[inline]
    pub fn upper(&self) -> usize {
        self.header_u16::<14>()
    }

    #[inline]
    fn set_upper(&mut self, upper: usize) {
        self.set_header_u16::<14>(upper);
    }

    /// Start of the access method's own space at the page's end.
    #[inline]
    pub fn special(&self) -> usize {
        self.header_u16::<16>()
    }

    /// Oldest transaction that may make pruning worthwhile, 0 = none (a hint; GIN keeps a deletion's xid here).
    pub fn prune_xid(&self) -> u32 {
        self.u32(20).expect("the header is inside the page")
    }

    /// Sets the prune xid.
    pub fn set_prune_xid(&mut self, xid: u32) {
        self.bytes[20..24].copy_from_slice(&xid.to_le_bytes());
    }

    /// Whether nothing was ever put here: a valid state, all zero.
    #[inline]
    pub fn is_new(&self) -> bool {
        self.upper() == 0
    }

    /// Whether the header's offsets are in order; everything else here relies on checks of its own.
    pub fn check(&self) -> Result<(), Misfit> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        if lower < HEADER_BYTES || lower > upper || upper > special || special > PAGE_BYTES {
            return Err(Misfit::new(
                "page offsets in order: header, lower, upper, special",
                lower as u64,
            ));
        }
        Ok(())
    }

    /// An empty page with `special_bytes` for the access method (PageInit).
    pub fn init(&mut self, special_bytes: usize) {
        self.bytes.fill(0);
        let special = PAGE_BYTES - align8(special_bytes);
        self.set_lower(HEADER_BYTES);
        self.set_upper(special);
        self.set_header_u16::<16>(special);
        self.bytes[18..20].copy_from_slice(&PAGE_SIZE_VERSION.to_le_bytes());
    }

    /// Start of the special space, which must be exactly `len` bytes long.
    #[inline]
    pub fn special_space(&self, len: usize) -> Result<usize, Misfit> {
        let special = self.special();
        if special + align8(len) != PAGE_BYTES {
            return Err(Misfit::new("a page of this access method", special as u64));
        }
        Ok(special)
    }
}

#[cfg(test)]
mod tests;
