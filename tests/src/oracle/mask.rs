//! What Postgres leaves out when it compares a page with its image (PostgreSQL src/backend/access/common/bufmask.c and
//! each access method's mask function). Masked bytes become zero on both sides.

use firn_core::postgres::page::{
    ALL_VISIBLE, HAS_FREE_LINES, PAGE_BYTES, PAGE_FULL, Page, PageBytes,
};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Fork};

const HEADER: usize = 24;

/// Masks a page of the access method that wrote the record.
pub fn mask(resource_manager: u8, tag: BlockTag, bytes: &mut PageBytes) {
    bytes[..10].fill(0);
    if tag.fork == Fork::VisibilityMap {
        // Stock's own check masks the whole map; here its bits are compared.
        bytes[20..24].fill(0);
        return;
    }
    if bytes[10..].iter().all(|&byte| byte == 0) {
        return;
    }
    if !matches!(resource_manager, rmgr::SEQUENCE | rmgr::GENERIC) {
        mask_hints(bytes);
    }
    match resource_manager {
        rmgr::HEAP | rmgr::HEAP2 | rmgr::NEON => mask_heap(tag.block, bytes),
        rmgr::BTREE => mask_btree(bytes),
        rmgr::HASH => mask_hash(bytes),
        rmgr::GIN => mask_gin(bytes),
        rmgr::GIST => mask_gist(bytes),
        rmgr::SPGIST => mask_hole(bytes),
        rmgr::BRIN => mask_brin(bytes),
        _ => mask_hole(bytes),
    }
}

fn u16_at(bytes: &PageBytes, offset: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]))
}

fn mask_hints(bytes: &mut PageBytes) {
    bytes[20..24].fill(0);
    for flag in [PAGE_FULL, HAS_FREE_LINES, ALL_VISIBLE] {
        Page::new(bytes).set_flag(flag, false);
    }
}

fn mask_hole(bytes: &mut PageBytes) {
    let page = Page::new(bytes);
    let (lower, upper) = (page.lower(), page.upper());
    if HEADER <= lower && lower <= upper && upper <= PAGE_BYTES {
        bytes[lower..upper].fill(0);
    }
}

fn mask_contents(bytes: &mut PageBytes) {
    bytes[12..16].fill(0);
    bytes[HEADER..].fill(0);
}

fn mask_pointer_states(bytes: &mut PageBytes) {
    let mut page = Page::new(bytes);
    for offset in 1..=page.max_offset() {
        if let Ok(mut pointer) = page.pointer(offset) {
            pointer.0 &= !(3 << 15);
            let _ = page.set_pointer(offset, pointer);
        }
    }
}

fn mask_heap(block: u32, bytes: &mut PageBytes) {
    mask_hole(bytes);
    let mut page = Page::new(bytes);
    for offset in 1..=page.max_offset() {
        let Ok((start, len)) = page.item(offset) else { continue };
        if page.normal_item(offset, 23).is_ok() {
            let tuple = &mut page.bytes_mut()[start..start + 23];
            let infomask = u16::from_le_bytes([tuple[20], tuple[21]]);
            let frozen = infomask & 0x0300 == 0x0300;
            let masked = infomask & !if frozen { 0x0C00 } else { 0xFFF0 };
            tuple[20..22].copy_from_slice(&masked.to_le_bytes());
            tuple[8..12].fill(0);
            if tuple[16..18] == [0xFE, 0xFF] {
                // A speculative insertion's token; redo has the tuple point to itself.
                tuple[12..14].copy_from_slice(&((block >> 16) as u16).to_le_bytes());
                tuple[14..16].copy_from_slice(&(block as u16).to_le_bytes());
                tuple[16..18].copy_from_slice(&(offset as u16).to_le_bytes());
            }
        }
        let end = start + len;
        page.bytes_mut()[end..end.next_multiple_of(8).min(PAGE_BYTES)].fill(0);
    }
}

/// Start of the special space if it is this long.
fn special(bytes: &PageBytes, len: usize) -> Option<usize> {
    let at = u16_at(bytes, 16);
    (at + len == PAGE_BYTES).then_some(at)
}

fn clear_flags(bytes: &mut PageBytes, at: usize, flags: u16) {
    let value = u16::from_le_bytes([bytes[at], bytes[at + 1]]) & !flags;
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn mask_btree(bytes: &mut PageBytes) {
    mask_hole(bytes);
    let Some(at) = special(bytes, 16) else { return };
    if u16_at(bytes, at + 12) & 1 != 0 {
        mask_pointer_states(bytes);
    }
    // SPLIT_END, HAS_GARBAGE, cycle id.
    clear_flags(bytes, at + 12, 32 | 64);
    bytes[at + 14..at + 16].fill(0);
}

fn mask_hash(bytes: &mut PageBytes) {
    mask_hole(bytes);
    let Some(at) = special(bytes, 16) else { return };
    let page_type = u16_at(bytes, at + 12) & 0xF;
    if page_type == 0 {
        mask_contents(bytes);
    } else if page_type & 3 != 0 {
        mask_pointer_states(bytes);
    }
    clear_flags(bytes, at + 12, 128);
}

fn mask_gin(bytes: &mut PageBytes) {
    let Some(at) = special(bytes, 8) else { return };
    if u16_at(bytes, at + 6) & 4 != 0 {
        mask_contents(bytes);
    } else if Page::new(bytes).lower() > HEADER {
        mask_hole(bytes);
    }
}

fn mask_gist(bytes: &mut PageBytes) {
    mask_hole(bytes);
    let Some(at) = special(bytes, 16) else { return };
    if u16_at(bytes, at + 12) & 1 != 0 {
        mask_pointer_states(bytes);
    }
    bytes[at..at + 8].fill(0);
    // FOLLOW_RIGHT, HAS_GARBAGE; TUPLES_DELETED is set by redo only, which stock's mask forgets.
    clear_flags(bytes, at + 12, 8 | 16 | 4);
}

fn mask_brin(bytes: &mut PageBytes) {
    let Some(at) = special(bytes, 8) else { return };
    const META: usize = 0xF091;
    const REGULAR: usize = 0xF093;
    let page_type = u16_at(bytes, at + 6);
    if page_type == REGULAR || (page_type == META && Page::new(bytes).lower() > HEADER) {
        mask_hole(bytes);
    }
    clear_flags(bytes, at + 4, 1);
}
