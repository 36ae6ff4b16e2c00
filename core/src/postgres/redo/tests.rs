use super::*;
use crate::postgres::wal::{Layout, WalVersion};
use crate::types::Lsn;
use proptest::prelude::*;

/// A record with one block reference, nothing checked but its framing.
fn record_bytes(rmgr: u8, info: u8, flags: u8, id: u8, data: &[u8], main: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[4..8].copy_from_slice(&700u32.to_le_bytes());
    bytes[16] = info;
    bytes[17] = rmgr;
    for block in 0..=id {
        bytes.extend([block, flags | if data.is_empty() { 0 } else { 0x20 }]);
        bytes.extend((data.len() as u16).to_le_bytes());
        for number in [1663u32, 5, 16384, u32::from(block)] {
            bytes.extend(number.to_le_bytes());
        }
    }
    bytes.push(254);
    bytes.extend((main.len() as u32).to_le_bytes());
    for _ in 0..=id {
        bytes.extend(data);
    }
    bytes.extend(main);
    bytes
}

#[test]
fn an_error_names_lsn_record_block_and_what_was_expected() {
    let bytes = record_bytes(rmgr::HEAP, 0x10, 0, 0, &[], &[0; 8]);
    let mut layout = Layout::new();
    let record =
        Record::parse(&bytes, &mut layout, WalVersion::V17, Lsn(0x100), Lsn(0x140)).unwrap();
    let mut page = [0; 8192];
    Page::new(&mut page).init(0);
    let error = Redo::default().redo_block(&record, 0, &mut page).unwrap_err();
    assert_eq!(
        error.to_string(),
        "redo of Heap/DELETE at 0/100 on 1663/5/16384 main block 0: \
         expected a line pointer of the page, found 0"
    );
}

#[test]
fn a_page_that_has_the_record_is_left_alone() {
    let bytes = record_bytes(rmgr::HEAP, 0x10, 0, 0, &[], &[0; 8]);
    let mut layout = Layout::new();
    let record =
        Record::parse(&bytes, &mut layout, WalVersion::V17, Lsn(0x100), Lsn(0x140)).unwrap();
    let mut page = [0; 8192];
    let mut redo = Redo::default();
    assert_eq!(redo.redo_block(&record, 0, &mut page), Ok(Outcome::Missing));
    Page::new(&mut page).init(0);
    Page::new(&mut page).set_lsn(Lsn(0x140));
    assert_eq!(redo.redo_block(&record, 0, &mut page), Ok(Outcome::AlreadyApplied));
}

/// A page with some tuples and `special` bytes, some of it overwritten.
fn page(special: usize, tuple: &[u8], count: usize, mutations: &[(u16, u8)]) -> PageBytes {
    let mut bytes = [0; 8192];
    let mut page = Page::new(&mut bytes);
    page.init(special);
    for _ in 0..count {
        let _ = page.append_item(tuple);
    }
    for &(at, value) in mutations {
        bytes[usize::from(at) % 8192] = value;
    }
    Page::new(&mut bytes).set_lsn(Lsn(0));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_record_panics_on_any_page(
        rmgr in 0u8..22,
        info in 0u8..16,
        flags in prop_oneof![Just(0u8), Just(0x40), Just(2)],
        id in 0u8..6,
        data in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200),
        main in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..100),
        special in prop_oneof![Just(0usize), Just(8), Just(16)],
        tuple in proptest::collection::vec(any::<u8>(), 1..64),
        count in 0usize..20,
        mutations in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..20),
    ) {
        for version in WalVersion::ALL {
            for rmgr in [rmgr, 9, 10, 134] {
                let bytes = record_bytes(rmgr, info << 4, flags, id, &data, &main);
                let mut layout = Layout::new();
                let record =
                    Record::parse(&bytes, &mut layout, version, Lsn(0x100), Lsn(0x140)).unwrap();
                let _ = effects(&record, Settings::default(), |_| {});
                for block in 0..=id {
                    let mut page = page(special, &tuple, count, &mutations);
                    let _ = Redo::default().redo_block(&record, block, &mut page);
                }
            }
        }
    }
}

/// One record of a real server, and what it does to one of its blocks: see `tests/src/oracle/samples.rs`.
struct Sample {
    version: WalVersion,
    start: Lsn,
    end: Lsn,
    block_id: u8,
    record: Vec<u8>,
    before: PageBytes,
    after: PageBytes,
}

/// Samples of the oracle, compared with Postgres' own images when they were taken: every record type of core that changes
/// a page.
fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for version in [WalVersion::V15, WalVersion::V18] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/redo-samples");
        let path = format!("{folder}/{version}.zst");
        let bytes = zstd::decode_all(std::fs::File::open(&path).expect(&path)).unwrap();
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() {
            let (start, end) = (Lsn(reader.u64().unwrap()), Lsn(reader.u64().unwrap()));
            let block_id = reader.u8().unwrap();
            let len = reader.u32().unwrap();
            let record = reader.take(len as usize).unwrap().to_vec();
            let before = *reader.take(8192).unwrap().first_chunk().unwrap();
            let after = *reader.take(8192).unwrap().first_chunk().unwrap();
            samples.push(Sample { version, start, end, block_id, record, before, after });
        }
    }
    samples
}

#[test]
fn samples_of_every_record_type_replay_to_the_byte() {
    let mut redo = Redo::default();
    let mut kinds = std::collections::BTreeSet::new();
    for sample in samples() {
        let mut layout = Layout::new();
        let record =
            Record::parse(&sample.record, &mut layout, sample.version, sample.start, sample.end)
                .unwrap();
        let mut page = sample.before;
        assert_eq!(redo.redo_block(&record, sample.block_id, &mut page), Ok(Outcome::Applied));
        let name = RecordName::of(&record).to_string();
        assert!(page == sample.after, "{name} {} block {}", sample.version, sample.block_id);
        // The record is in the page now, and a second time does nothing.
        let again = redo.redo_block(&record, sample.block_id, &mut page).unwrap();
        let same_lsn = Page::new(&mut page).lsn() < sample.end;
        assert!(
            again == Outcome::AlreadyApplied
                || same_lsn
                || record.block(sample.block_id).unwrap().will_init()
        );
        assert!(page == sample.after);
        kinds.insert(name);
    }
    assert_eq!(kinds.len(), 74, "{kinds:?}");
}

#[test]
fn mutated_records_and_pages_of_every_type_never_panic() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut redo = Redo::default();
    let samples = samples();
    let mut errors = 0;
    for round in 0..40 {
        for sample in &samples {
            let mut bytes = sample.record.clone();
            let mut page = sample.before;
            for _ in 0..1 + random(4) {
                let value = [0, 1, 0x7F, 0x80, 0xFF, random(256) as u8][random(6)];
                match random(4) {
                    // Lengths, offsets and counts are near a page's start and a record's end.
                    0 => page[random(64)] = value,
                    1 => page[random(8192)] = value,
                    2 => {
                        let at = bytes.len() - 1 - random(bytes.len().min(64));
                        bytes[at] = value;
                    }
                    _ => {
                        let at = 24 + random(bytes.len() - 24);
                        bytes[at] = value;
                    }
                }
            }
            if round % 4 == 0 {
                page = samples[random(samples.len())].before;
            }
            Page::new(&mut page).set_lsn(Lsn(0));
            let mut layout = Layout::new();
            let parsed =
                Record::parse(&bytes, &mut layout, sample.version, sample.start, sample.end);
            let Ok(record) = parsed else { continue };
            errors += u64::from(effects(&record, Settings::default(), |_| {}).is_err());
            for block in record.blocks() {
                let mut page = page;
                errors += u64::from(redo.redo_block(&record, block.id(), &mut page).is_err());
            }
        }
    }
    assert!(errors > 1000, "mutations are mostly noticed: {errors}");
}
