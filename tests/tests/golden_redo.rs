//! The third oracle: WAL of a Neon compute, and the pages that Neon's page server returned for it at many LSNs.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::{BTreeMap, BTreeSet};

use firn_core::postgres::page::{PAGE_BYTES, Page};
use firn_core::postgres::redo::{Effect, Outcome, RecordName, Redo, Settings, effects};
use firn_core::postgres::wal::names::resource_manager_name;
use firn_core::postgres::wal::{BlockTag, Fork, Layout, Record, RelationId};
use firn_core::types::Lsn;
use firn_tests::neon_recording::{self, RecordedPage, Replay, SETTINGS, START};
use firn_tests::oracle::compare::access_method;
use firn_tests::oracle::replay::difference;
use firn_tests::oracle::store::Store;
use firn_tests::redo_samples::{Sample, as_neon_heap, neon_samples};

#[derive(Default)]
struct Comparison {
    checked: u64,
    equal_to_the_byte: u64,
    /// Blocks of relations that are dropped or cut by then: the page server still finds the old page.
    gone: u64,
    different: Vec<String>,
}

impl Comparison {
    fn check(&mut self, store: &mut Store, recorded: &RecordedPage) {
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
    let mut replay = Replay::new().unwrap();
    let mut pages = neon_recording::pages("pages.bin").unwrap();
    pages.sort_by_key(|recorded| recorded.lsn);
    let mut pages = pages.into_iter().peekable();
    let mut slru = neon_recording::slru_pages().unwrap();
    slru.sort_by_key(|(_, lsn, _)| *lsn);
    let mut slru = slru.into_iter().peekable();
    let mut slru_checked = BTreeMap::new();

    let mut result = Comparison::default();
    let mut records = 0;
    // What was read at an LSN has the records that end at or before it.
    let mut check = |replay: &mut Replay, end: Lsn, result: &mut Comparison| {
        while let Some(recorded) = pages.next_if(|recorded| recorded.lsn < end) {
            result.check(&mut replay.store, &recorded);
        }
        while let Some((log, lsn, page)) = slru.next_if(|(_, lsn, _)| *lsn < end) {
            match slru_checked.insert(log, ()) {
                // The recording begins with what there was before.
                None => {
                    replay.store.slru.insert((log, 0), page);
                }
                Some(()) => {
                    if replay.store.slru.get(&(log, 0)) != Some(&page) {
                        result.different.push(format!("{} at {lsn}", log.folder()));
                    }
                }
            }
        }
    };
    neon_recording::each_record(|record| {
        check(&mut replay, record.end, &mut result);
        records += 1;
        replay.record(record, |_, _, _, _| {})
    })
    .unwrap();
    check(&mut replay, Lsn(u64::MAX), &mut result);
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

/// The lines of a list, without its head, as columns.
fn rows(name: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(neon_recording::file(name).unwrap()).unwrap();
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_string).collect()).collect()
}

#[test]
fn every_record_is_decoded_as_the_recordings_list_says() {
    let mut expected = rows("records.tsv").into_iter();
    neon_recording::each_record(|record| {
        let blocks: Vec<String> = record
            .blocks()
            .map(|block| {
                let BlockTag { relation, fork, block: number } = block.tag();
                let image = if block.image().is_some() { ":FPI" } else { "" };
                format!("{relation}/{}/{number}{image}", fork as u8)
            })
            .collect();
        let found = [
            record.start.to_string(),
            record.end.to_string(),
            resource_manager_name(record.resource_manager()).unwrap().to_string(),
            record.total_len().to_string(),
            record.xid().to_string(),
            record.previous().to_string(),
            blocks.join(" "),
        ];
        let mut row = expected.next().unwrap();
        // Its words about the contents.
        row.remove(6);
        assert_eq!(row, found);
        Ok(())
    })
    .unwrap();
    assert_eq!(expected.next(), None);
}

/// The sizes in blocks of the forks that exist.
#[derive(Default)]
struct Sizes(BTreeMap<(RelationId, Fork), u32>);

impl Sizes {
    fn has(&mut self, tag: BlockTag) {
        let size = self.0.entry((tag.relation, tag.fork)).or_default();
        *size = (*size).max(tag.block + 1);
    }

    fn apply(&mut self, effect: &Effect<'_>) {
        match *effect {
            Effect::Block { tag, .. } => self.has(tag),
            Effect::RelationCreate { relation, fork } => {
                self.0.entry((relation, fork)).or_default();
            }
            Effect::RelationTruncate { relation, blocks, main: true, .. } => {
                self.0.insert((relation, Fork::Main), blocks);
            }
            // The page server goes on telling the size of a dropped relation's main fork.
            Effect::RelationDrop(relation) => {
                self.0.retain(|&(other, fork), _| other != relation || fork == Fork::Main);
            }
            _ => {}
        }
    }
}

#[test]
fn relations_have_the_recorded_sizes() {
    let mut recorded: Vec<(Lsn, (RelationId, Fork), Option<u32>)> = rows("nblocks.tsv")
        .iter()
        .map(|row| {
            let number = |index: usize| row[index].parse::<u32>().unwrap();
            let relation =
                RelationId { tablespace: number(0), database: number(1), number: number(2) };
            let fork = Fork::from_number(row[3].parse().unwrap()).unwrap();
            let size = (row[6] == "1").then(|| number(5));
            (row[4].parse().unwrap(), (relation, fork), size)
        })
        .collect();
    recorded.sort();
    assert_eq!(recorded.len(), 14_322);
    let mut recorded = recorded.into_iter().peekable();
    let mut sizes = Sizes::default();
    while let Some((_, fork, size)) = recorded.next_if(|(lsn, ..)| *lsn == START) {
        sizes.0.extend(size.map(|size| (fork, size)));
    }
    let mut different = Vec::new();
    let mut compared = 0;
    let mut check = |sizes: &Sizes, end: Lsn| {
        while let Some((lsn, fork, size)) = recorded.next_if(|(lsn, ..)| *lsn < end) {
            compared += 1;
            let found = sizes.0.get(&fork).copied();
            if found != size {
                different.push(format!("{} {:?} at {lsn}: {found:?} {size:?}", fork.0, fork.1));
            }
        }
    };
    neon_recording::each_record(|record| {
        check(&sizes, record.end);
        effects(record, SETTINGS, |effect| sizes.apply(&effect))?;
        Ok(())
    })
    .unwrap();
    check(&sizes, Lsn(u64::MAX));
    println!("{compared} sizes, {} different", different.len());
    assert!(different.is_empty(), "{different:#?}");
    assert_eq!(compared, 14_166);
}

/// Neon's 14 and 15 have no recording: their records are made from its 17's, by what is known of the format.
#[test]
fn records_in_the_format_of_neons_older_versions_change_pages_in_the_same_way() {
    let settings = Settings { neon_heap_records: true, ..SETTINGS };
    let mut redo = Redo::new(settings);
    let mut kinds = BTreeSet::new();
    for sample in neon_samples().unwrap() {
        let Sample { version, start, end, block_id, record, before, after } = as_neon_heap(&sample);
        let mut layout = Layout::new();
        let record = Record::parse(&record, &mut layout, version, start, end).unwrap();
        let mut page = before;
        assert_eq!(redo.redo_block(&record, block_id, &mut page).unwrap(), Outcome::Applied);
        assert!(page == after, "{}", RecordName::of(&record));
        kinds.insert(RecordName::of(&record).to_string());
    }
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let all = [
        "Heap/DELETE",
        "Heap/HOT_UPDATE",
        "Heap/INSERT",
        "Heap/INSERT+INIT",
        "Heap/LOCK",
        "Heap/UPDATE",
        "Heap/UPDATE+INIT",
        "Heap2/MULTI_INSERT",
        "Heap2/MULTI_INSERT+INIT",
    ];
    assert_eq!(kinds, all);
}
