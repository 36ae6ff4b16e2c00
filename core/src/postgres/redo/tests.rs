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
