//! The second oracle: after the last record, every page against the stopped server's files.

use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Fork};

use super::replay::difference;
use super::report::Report;
use super::store::Store;

const ZERO: PageBytes = [0; PAGE_BYTES];

/// Compares what was replayed with what the server left.
pub fn compare(replayed: &Store, server: &Store, report: &mut Report) {
    for (&(relation, fork), pages) in &server.forks {
        // The free space map is a hint; an unlogged relation's contents are in no WAL.
        let unlogged = fork != Fork::Init && server.forks.contains_key(&(relation, Fork::Init));
        if fork == Fork::FreeSpaceMap || unlogged {
            continue;
        }
        let ours = replayed.forks.get(&(relation, fork));
        for block in 0..pages.len() {
            let tag = BlockTag { relation, fork, block };
            let expected = pages.get(block).unwrap_or(&ZERO);
            let found = ours.and_then(|pages| pages.get(block)).unwrap_or(&ZERO);
            page(tag, found, expected, report);
        }
        let len = ours.map_or(0, |pages| pages.len());
        if len > pages.len() {
            report.final_pages.1 += 1;
            report.note(|| {
                format!("{relation} {} has {len} blocks instead of {}", fork.name(), pages.len())
            });
        }
    }
    for (&(relation, fork), pages) in &replayed.forks {
        if fork != Fork::FreeSpaceMap
            && !pages.is_empty()
            && !server.forks.contains_key(&(relation, fork))
            && !server.forks.contains_key(&(relation, Fork::Init))
        {
            report.final_pages.1 += 1;
            report.note(|| format!("{relation} {} should not exist", fork.name()));
        }
    }
    for ((slru, page), expected) in &server.slru {
        let found = replayed.slru.get(&(*slru, *page)).map_or(&ZERO, |page| page);
        report.final_pages.0 += 1;
        if let Some(at) = (0..PAGE_BYTES).find(|&at| found[at] != expected[at]) {
            report.final_pages.1 += 1;
            report.note(|| {
                format!(
                    "{} page {page}: byte {at} is {:#x} instead of {:#x}",
                    slru.folder(),
                    found[at],
                    expected[at]
                )
            });
        }
    }
    for (database, expected) in &server.relation_maps {
        report.final_pages.0 += 1;
        if replayed.relation_maps.get(database) != Some(expected) {
            report.final_pages.1 += 1;
            report.note(|| format!("relation map of database {database} differs"));
        }
    }
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
        report.final_pages.1 += 1;
        report.note(|| {
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
