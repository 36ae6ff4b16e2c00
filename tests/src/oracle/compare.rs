//! The second oracle: after the last record, every page against the stopped server's files.

use firn_core::postgres::page::{HEADER_BYTES, PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Fork};

use super::replay::difference;
use super::report::Report;
use super::store::Store;

const ZERO: PageBytes = [0; PAGE_BYTES];

/// Compares what was replayed with what the server left.
pub fn compare(replayed: &Store, server: &Store, report: &mut Report) {
    for (&(relation, fork), pages) in &server.forks {
        // The free space map is a hint.
        if fork == Fork::FreeSpaceMap || (fork != Fork::Init && server.is_unlogged(relation)) {
            continue;
        }
        let ours = replayed.forks.get(&(relation, fork));
        // A map can be made before its first bit is set and logged.
        if ours.is_none() && fork != Fork::VisibilityMap {
            different(report, || format!("{relation} {} does not exist", fork.name()));
        }
        for block in 0..pages.len() {
            let tag = BlockTag { relation, fork, block };
            let expected = pages.get(block).unwrap_or(&ZERO);
            let found = ours.and_then(|pages| pages.get(block)).unwrap_or(&ZERO);
            if replayed.maps_without_bits.contains(&tag) {
                report.final_pages.0 += 1;
                if !only_lacks_bits(found, expected) {
                    different(report, || format!("at the end {tag} has bits that it should not"));
                }
                continue;
            }
            page(tag, found, expected, report);
        }
        let len = ours.map_or(0, |pages| pages.len());
        if len > pages.len() {
            let expected = pages.len();
            different(report, || {
                format!("{relation} {} has {len} blocks instead of {expected}", fork.name())
            });
        }
    }
    for (&(relation, fork), pages) in &replayed.forks {
        // Redo of a map bit makes the page of a map whose relation is dropped already.
        let made = fork != Fork::FreeSpaceMap && !pages.is_empty();
        if made && !server.forks.contains_key(&(relation, fork)) && !server.is_unlogged(relation) {
            different(report, || format!("{relation} {} should not exist", fork.name()));
        }
    }
    for ((slru, page), expected) in &server.slru {
        report.final_pages.0 += 1;
        let Some(found) = replayed.slru.get(&(*slru, *page)) else {
            if **expected != ZERO {
                different(report, || format!("{} page {page} does not exist", slru.folder()));
            }
            continue;
        };
        if let Some(at) = (0..PAGE_BYTES).find(|&at| found[at] != expected[at]) {
            let (found, expected) = (found[at], expected[at]);
            different(report, || {
                let folder = slru.folder();
                format!("{folder} page {page}: byte {at} is {found:#x} instead of {expected:#x}")
            });
        }
    }
    for (slru, page) in replayed.slru.keys().filter(|place| !server.slru.contains_key(place)) {
        different(report, || format!("{} page {page} should not exist", slru.folder()));
    }
    replayed.state.compare(&server.state, report);
}

fn different(report: &mut Report, what: impl FnOnce() -> String) {
    report.final_pages.1 += 1;
    report.note(what);
}

/// Whether a visibility map's page has no bit that `expected` has not: see [`Store::maps_without_bits`].
pub fn only_lacks_bits(found: &PageBytes, expected: &PageBytes) -> bool {
    found.iter().zip(expected).skip(HEADER_BYTES).all(|(ours, theirs)| ours & !theirs == 0)
}

fn page(tag: BlockTag, found: &PageBytes, expected: &PageBytes, report: &mut Report) {
    report.final_pages.0 += 1;
    let mut copy = *expected;
    let expected_page = Page::new(&mut copy);
    // Servers extend files by pages that they only initialize: nothing of it is in WAL.
    let empty = expected_page.is_new() || expected_page.max_offset() == 0;
    if found == expected || (found == &ZERO && empty) {
        return;
    }
    let access_method = access_method(expected);
    if not_logged(access_method, expected) {
        return;
    }
    if let Some(at) = difference(access_method, tag, found, expected) {
        different(report, || {
            format!(
                "at the end {tag}: byte {at} is {:#x} instead of {:#x}",
                found[at], expected[at]
            )
        });
    }
}

/// Pages that change without WAL: a sequence runs ahead of its record only in memory, an SP-GiST meta page remembers pages
/// with room.
fn not_logged(access_method: u8, page: &PageBytes) -> bool {
    const SPGIST_META: u8 = 1;
    match access_method {
        rmgr::SEQUENCE => true,
        rmgr::SPGIST => page[PAGE_BYTES - 8] & SPGIST_META != 0,
        _ => false,
    }
}

/// Which resource manager's mask a page wants, by its special space.
pub fn access_method(bytes: &PageBytes) -> u8 {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let last = u16_at(PAGE_BYTES - 2);
    match PAGE_BYTES - usize::from(u16_at(16)).min(PAGE_BYTES) {
        0 => rmgr::HEAP,
        16 if last == 0xFF80 => rmgr::HASH,
        16 if last == 0xFF81 => rmgr::GIST,
        16 => rmgr::BTREE,
        8 if last == 0xFF82 => rmgr::SPGIST,
        8 if (0xF091..=0xF093).contains(&last) => rmgr::BRIN,
        8 if last == 0xFF83 => rmgr::GENERIC,
        8 if u16_at(PAGE_BYTES - 8) == 0x1717 => rmgr::SEQUENCE,
        _ => rmgr::GIN,
    }
}
