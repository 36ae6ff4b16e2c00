//! The third oracle: WAL of a Neon compute, and the pages that Neon's page server returned for it at many LSNs.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::slru::Slru;
use firn_core::postgres::redo::{Effect, Redo, Settings, effects, visibility_map};
use firn_core::postgres::wal::{BlockTag, Decoder, Fork, RelationId, WalVersion};
use firn_core::types::Lsn;
use firn_tests::oracle::compare::access_method;
use firn_tests::oracle::replay::difference;
use firn_tests::oracle::store::Store;
use firn_tests::recordings::unpacked;

const START: Lsn = Lsn(0x14E_C3C8);
const END: Lsn = Lsn(0x20B_4F60);
const FIRST_SEGMENT: u64 = 0x100_0000;

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/redo");
    unpacked(&folder.join(format!("{name}.zst"))).unwrap()
}

struct Recorded {
    tag: BlockTag,
    lsn: Lsn,
    page: Box<PageBytes>,
}

/// Records of 8224 bytes: tablespace, database, relation, fork, block, kind, LSN, page.
fn recorded_pages(name: &str) -> Vec<Recorded> {
    let bytes = golden(name);
    let (records, rest) = bytes.as_chunks::<8224>();
    assert!(rest.is_empty());
    let u32_at = |record: &[u8], at| u32::from_le_bytes(*record[at..].first_chunk().unwrap());
    let page = |record: &[u8; 8224]| Recorded {
        tag: BlockTag {
            relation: RelationId {
                tablespace: u32_at(record, 0),
                database: u32_at(record, 4),
                number: u32_at(record, 8),
            },
            fork: Fork::from_number(record[12]).unwrap(),
            block: u32_at(record, 16),
        },
        lsn: Lsn(u64::from_le_bytes(*record[24..].first_chunk().unwrap())),
        page: Box::new(*record[32..].first_chunk().unwrap()),
    };
    records.iter().map(page).collect()
}

/// Pages of simple logs by LSN: kind (0 status, 1 members, 2 offsets), number of blocks, LSN, page.
fn recorded_slru() -> Vec<(Slru, Lsn, Box<PageBytes>)> {
    let bytes = golden("slru.bin");
    let (records, rest) = bytes.as_chunks::<8208>();
    assert!(rest.is_empty());
    let slru = |record: &[u8; 8208]| {
        let slru = match record[0] {
            0 => Slru::TransactionStatus,
            1 => Slru::MultiXactMembers,
            2 => Slru::MultiXactOffsets,
            other => panic!("kind {other}"),
        };
        let lsn = Lsn(u64::from_le_bytes(*record[8..].first_chunk().unwrap()));
        (slru, lsn, Box::new(*record[16..].first_chunk().unwrap()))
    };
    records.iter().map(slru).collect()
}

#[derive(Default)]
struct Result {
    checked: u64,
    equal_to_the_byte: u64,
    /// Blocks of relations that are dropped or cut by then: the page server still finds the old page.
    gone: u64,
    different: Vec<String>,
}

impl Result {
    fn check(&mut self, store: &mut Store, recorded: &Recorded) {
        let BlockTag { relation, fork, block } = recorded.tag;
        let exists = store.forks.get(&(relation, fork)).is_some_and(|pages| block < pages.len());
        let mut nothing = [0; PAGE_BYTES];
        let found = if exists { store.page(recorded.tag) } else { &mut nothing };
        if !exists && *found != *recorded.page {
            self.gone += 1;
            return;
        }
        self.checked += 1;
        self.equal_to_the_byte += u64::from(*found == *recorded.page);
        let lsn = (Page::new(found).lsn(), Page::new(&mut recorded.page.clone()).lsn());
        let manager = access_method(&recorded.page);
        let at = match recorded.tag.fork {
            Fork::FreeSpaceMap => found.iter().zip(&*recorded.page).position(|(a, b)| a != b),
            _ => difference(manager, recorded.tag, found, &recorded.page),
        };
        if at.is_some() || lsn.0 != lsn.1 {
            let (tag, at_lsn) = (recorded.tag, recorded.lsn);
            self.different.push(format!(
                "{tag} at {at_lsn}: byte {at:?}, page LSN {} instead of {}",
                lsn.0, lsn.1
            ));
        }
    }
}

#[test]
fn recorded_wal_of_a_neon_compute_replays_to_the_recorded_pages() {
    let mut wal = golden("wal/000000010000000000000001");
    wal.extend(golden("wal/000000010000000000000002"));
    let mut store = Store::default();
    for base in recorded_pages("base-pages.bin") {
        *store.page(base.tag) = *base.page;
    }
    let mut pages = recorded_pages("pages.bin");
    pages.sort_by_key(|recorded| recorded.lsn);
    let mut pages = pages.into_iter().peekable();
    let mut slru = recorded_slru();
    slru.sort_by_key(|(_, lsn, _)| *lsn);
    let mut slru = slru.into_iter().peekable();
    let mut slru_checked = BTreeMap::new();

    let settings = Settings { visible_moves_heap_lsn: true, ..Settings::default() };
    let mut redo = Redo::new(settings);
    let mut decoder = Decoder::new(START, 16 << 20, Some(WalVersion::V17));
    let mut input = &wal[(START.0 - FIRST_SEGMENT) as usize..(END.0 - FIRST_SEGMENT) as usize];
    let mut result = Result::default();
    let mut records = 0;
    loop {
        let record = decoder.next(&mut input).unwrap();
        // What was read at an LSN has the records that end at or before it.
        let end = record.as_ref().map_or(Lsn(u64::MAX), |record| record.end);
        while let Some(recorded) = pages.next_if(|recorded| recorded.lsn < end) {
            result.check(&mut store, &recorded);
        }
        while let Some((log, lsn, page)) = slru.next_if(|(_, lsn, _)| *lsn < end) {
            match slru_checked.insert(log, ()) {
                // The recording begins with what there was before.
                None => {
                    store.slru.insert((log, 0), page);
                }
                Some(()) => {
                    if store.slru.get(&(log, 0)) != Some(&page) {
                        result.different.push(format!("{} at {lsn}", log.folder()));
                    }
                }
            }
        }
        let Some(record) = record else { break };
        records += 1;
        for block in record.blocks() {
            redo.redo_block(&record, block.id(), store.page(block.tag())).unwrap();
        }
        effects(&record, settings, |effect| {
            // The recording is of 17.8, which does not write the next multixact's offset yet.
            if !matches!(effect, Effect::MultiXactOffset { ahead: true, .. }) {
                store.apply(&effect, record.start);
            }
            if let Effect::ClearVisibility { relation, heap_block, .. } = effect {
                // Neon's page server moves the map page's LSN, which stock Postgres leaves alone.
                let block = visibility_map::map_block(heap_block);
                let tag = BlockTag { relation, fork: Fork::VisibilityMap, block };
                Page::new(store.page(tag)).set_lsn(record.end);
            }
        })
        .unwrap();
    }
    println!(
        "{records} records, {} pages gone, {} compared, {} equal to the byte, {} different",
        result.gone,
        result.checked,
        result.equal_to_the_byte,
        result.different.len()
    );
    for different in result.different.iter().take(20) {
        println!("{different}");
    }
    assert_eq!(records, 19_404);
    assert_eq!(result.checked + result.gone, 2829);
    assert_eq!(result.gone, 10);
    assert!(result.different.is_empty());
}
