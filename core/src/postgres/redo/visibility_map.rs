//! The visibility map: two bits per heap block (PostgreSQL src/include/access/visibilitymapdefs.h).

use crate::postgres::page::{HEADER_BYTES, PAGE_BYTES, Page};

/// All tuples of the heap block are visible to everyone.
pub const ALL_VISIBLE: u8 = 1;
/// All tuples of the heap block are frozen.
pub const ALL_FROZEN: u8 = 2;
/// Both bits.
pub const ALL_BITS: u8 = ALL_VISIBLE | ALL_FROZEN;

/// Heap blocks that one map page covers: four to a byte.
pub const HEAP_BLOCKS_PER_PAGE: u32 = (PAGE_BYTES - HEADER_BYTES) as u32 * 4;

/// The map page that covers `heap_block`.
pub fn map_block(heap_block: u32) -> u32 {
    heap_block / HEAP_BLOCKS_PER_PAGE
}

fn place(heap_block: u32) -> (usize, u32) {
    let index = heap_block % HEAP_BLOCKS_PER_PAGE;
    (HEADER_BYTES + index as usize / 4, index % 4 * 2)
}

/// Clears bits of `heap_block` in its map page; whether any was set.
pub fn clear(page: &mut Page<'_>, heap_block: u32, bits: u8) -> bool {
    let (byte, shift) = place(heap_block);
    let byte = &mut page.bytes_mut()[byte];
    let mask = bits << shift;
    let changed = *byte & mask != 0;
    *byte &= !mask;
    changed
}

/// Sets bits of `heap_block` in its map page; whether the two bits were different before.
pub fn set(page: &mut Page<'_>, heap_block: u32, bits: u8) -> bool {
    let (byte, shift) = place(heap_block);
    let byte = &mut page.bytes_mut()[byte];
    let changed = *byte >> shift & ALL_BITS != bits;
    *byte |= bits << shift;
    changed
}

/// Cuts the map page that holds the bits of `heap_blocks`, the heap's new size: bits from there on are cleared, the LSN
/// stays. A size that is a multiple of what a page covers cuts the fork instead.
pub fn truncate(page: &mut Page<'_>, heap_blocks: u32) {
    let (byte, shift) = place(heap_blocks);
    let bytes = page.bytes_mut();
    bytes[byte] &= (1 << shift) - 1;
    bytes[byte + 1..].fill(0);
}
