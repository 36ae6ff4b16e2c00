use std::fmt::Write;

use super::super::names::{record_name, resource_manager_name, rmgr};
use super::super::test_wal::{SEGMENT_BYTES, WalBuilder};
use super::*;
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/golden/redo/{name}", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(&path).expect(&path)).unwrap()
}

/// The recording's own words for a record, without its description's details.
fn line(record: &Record<'_>) -> String {
    let manager = resource_manager_name(record.resource_manager()).unwrap();
    let name = record_name(record.version, record.resource_manager(), record.info());
    let mut line = format!(
        "{}\t{}\t{manager}\t{}\t{}\t{}\t{}\t",
        record.start,
        record.end,
        record.total_len(),
        record.xid(),
        record.previous(),
        name.unwrap_or_else(|| panic!("{manager} {:#x} has no name", record.info())),
    );
    for block in record.blocks() {
        let tag = block.tag();
        let image = if block.image().is_some() { ":FPI" } else { "" };
        write!(line, "{}/{}/{}{image} ", tag.relation, tag.fork as u8, tag.block).unwrap();
    }
    line.trim_end().to_string()
}

#[test]
fn recorded_wal_decodes_to_the_recorded_list() {
    let mut wal = golden("wal/000000010000000000000001.zst");
    wal.extend(golden("wal/000000010000000000000002.zst"));
    let records = String::from_utf8(golden("records.tsv.zst")).unwrap();
    let start: Lsn = "0/14EC3C8".parse().unwrap();
    for piece in [1, 333, 1 << 30] {
        let mut decoder = Decoder::new(start, 16 << 20, Some(WalVersion::V17));
        let mut expected = records.lines().skip(1);
        let mut count = 0;
        for piece in wal[(start.0 - 0x100_0000) as usize..0x10B_4F60].chunks(piece) {
            let mut input = piece;
            while let Some(record) = decoder.next(&mut input).unwrap() {
                count += 1;
                let fields: Vec<&str> = expected.next().unwrap().split('\t').collect();
                let name = fields[6].split(' ').next().unwrap();
                let blocks = fields.get(7).copied().unwrap_or("");
                let fields = [&fields[..6], &[name, blocks]].concat().join("\t");
                assert_eq!(line(&record), fields.trim_end());
            }
        }
        assert_eq!(count, 19_404);
        assert_eq!(decoder.record_end(), "0/20B4F60".parse().unwrap());
    }
}

#[test]
fn a_record_that_contradicts_itself_is_an_error_with_its_place() {
    for body in [&[255u8, 3, 1, 2][..], &[99, 0], &[0, 0x20, 0, 0], &[255], &[254, 9, 0, 0, 0x80]] {
        let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V16);
        let (start, _) = wal.record(rmgr::HEAP, 0, body);
        let mut decoder = Decoder::new(wal.start, SEGMENT_BYTES, None);
        let error = decoder.next(&mut &wal.bytes[..]).unwrap_err();
        assert!(matches!(error, WalError::Malformed { record, .. } if record == start), "{error}");
        assert_eq!(decoder.next(&mut &wal.bytes[..]).unwrap_err(), error);
    }
}

#[test]
fn pages_of_another_version_are_refused() {
    let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V16);
    wal.record(rmgr::HEAP, 0, &[]);
    let mut decoder = Decoder::new(wal.start, SEGMENT_BYTES, Some(WalVersion::V17));
    assert!(matches!(decoder.next(&mut &wal.bytes[..]), Err(WalError::Version { .. })));
    let mut decoder = Decoder::new(wal.start + 40, SEGMENT_BYTES, None);
    assert!(matches!(decoder.next(&mut &wal.bytes[40..]), Err(WalError::VersionUnknown { .. })));
}

proptest! {
    #[test]
    fn any_body_is_a_record_or_an_error(body in proptest::collection::vec(prop_oneof![0u8..4, 250u8.., any::<u8>()], 0..300)) {
        for version in WalVersion::ALL {
            let mut wal = WalBuilder::new(Lsn(3 << 20), version);
            wal.record(rmgr::HEAP, 0, &body);
            let mut decoder = Decoder::new(wal.start, SEGMENT_BYTES, None);
            if let Ok(record) = decoder.next(&mut &wal.bytes[..]) {
                let record = record.unwrap();
                let parts: usize = record
                    .blocks()
                    .map(|block| block.data().len() + block.image().map_or(0, |image| image.len_bytes()))
                    .sum();
                prop_assert!(record.main().len() + parts <= body.len());
                for block in record.blocks() {
                    if let Some(image) = block.image() {
                        let _ = image.restore(&mut [0; 8192], &mut Default::default());
                    }
                }
            }
        }
    }
}
