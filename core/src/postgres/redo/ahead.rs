//! Fetching what a record will touch, before it is replayed.
//!
//! Steps, because where a tuple lies is known from the page only: [`fetch_header`] as soon as the page is known,
//! [`fetch_tuples`] some records later, when the header has come, and from then on [`fetch_moved`] for what pruning will
//! move, half a page mostly. All are hints: they look at numbers that nobody has checked yet, change nothing, and any answer
//! is right.

use std::ops::Range;

use crate::postgres::page::{HEADER_BYTES, PAGE_BYTES, PageBytes};
use crate::postgres::prefetch::prefetch;
use crate::postgres::wal::Record;
use crate::postgres::wal::names::rmgr;

/// Bytes of a line pointer.
const POINTER_BYTES: usize = 4;
const LINE_BYTES: usize = 64;
/// Line pointers are fetched whole for records that go through all of them, up to so many bytes.
const POINTERS_BYTES_MAX: usize = 512;
/// Tuples that pruning frees are looked up, up to so many.
const PRUNED_OFFSETS_MAX: usize = 16;
/// Lines that are fetched at once of those that pruning moves.
const MOVED_LINES: usize = 8;
/// Heap2's pruning and vacuuming, all versions.
const PRUNES: std::ops::RangeInclusive<u8> = 0x10..=0x30;

/// Line pointers that a heap or btree record changes, as far as its main data begin with them: 0 for none.
#[inline]
fn offsets(record: &Record<'_>) -> [usize; 2] {
    let main = record.main();
    let at = |index: usize| {
        let bytes = main.get(index..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
    };
    match (record.resource_manager(), record.operation() & 0x70) {
        // xl_heap_insert, and xl_btree_insert at a leaf.
        (rmgr::HEAP | rmgr::BTREE, 0x00) => [at(0), 0],
        // xl_heap_update: the old tuple's place, the new one's.
        (rmgr::HEAP, 0x20 | 0x40) => [at(4), at(12)],
        // xl_heap_delete, xl_heap_lock.
        (rmgr::HEAP, 0x10 | 0x60) => [at(4), 0],
        _ => [0, 0],
    }
}

/// Fetches the header of a page that `record` changes, and the line pointers.
#[inline]
pub fn fetch_header(record: &Record<'_>, page: &PageBytes) {
    prefetch(page, 0);
    if prunes(record) {
        for at in (LINE_BYTES..POINTERS_BYTES_MAX).step_by(LINE_BYTES) {
            prefetch(page, at);
        }
        return;
    }
    for offset in offsets(record) {
        prefetch(page, HEADER_BYTES + offset.saturating_sub(1) * POINTER_BYTES);
    }
}

/// Fetches the tuples that `record` changes, and the place of the one that it adds. What it gives is for
/// [`fetch_moved`].
#[inline]
pub fn fetch_tuples(record: &Record<'_>, page: &PageBytes) -> Range<usize> {
    let upper = usize::from(u16::from_le_bytes([page[14], page[15]]));
    let tuple = |offset: usize| {
        let pointer = HEADER_BYTES + offset.saturating_sub(1) * POINTER_BYTES;
        let bytes = page.get(pointer..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| (u32::from_le_bytes(*bytes) & 0x7FFF) as usize)
    };
    if prunes(record) {
        // Tuples below the highest one that goes will move. What the data has besides line pointers does no harm.
        let data = record.block(0).map_or(&[][..], |block| block.data());
        let offsets = data.as_chunks::<2>().0.iter().take(PRUNED_OFFSETS_MAX);
        let highest = offsets.map(|offset| tuple(u16::from_le_bytes(*offset).into())).max();
        return upper..highest.unwrap_or(0).min(PAGE_BYTES);
    }
    // What is added ends where the tuples begin now, two lines at most for most of them.
    prefetch(page, upper.saturating_sub(1));
    prefetch(page, upper.saturating_sub(1 + LINE_BYTES));
    let changed = tuple(offsets(record)[0]);
    prefetch(page, changed);
    prefetch(page, changed + LINE_BYTES);
    0..0
}

/// Fetches the upper end of what a record will move, and removes it from `moved`. Little by little: all at once, later
/// records would wait for it.
#[inline]
pub fn fetch_moved(moved: &mut Range<usize>, page: &PageBytes) {
    for _ in 0..MOVED_LINES {
        if moved.start >= moved.end {
            return;
        }
        prefetch(page, moved.end - 1);
        moved.end = moved.end.saturating_sub(LINE_BYTES);
    }
}

#[inline]
fn prunes(record: &Record<'_>) -> bool {
    record.resource_manager() == rmgr::HEAP2 && PRUNES.contains(&(record.operation() & 0x70))
}
