use super::*;
use crate::postgres::wal::BlockTag;

fn golden_wal() -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/redo/wal");
    let path = format!("{folder}/000000010000000000000001.zst");
    let wal = zstd::decode_all(std::fs::File::open(&path).expect(&path)).unwrap();
    // The recording begins here.
    wal[0x4E_C3C8..0x90_0000].to_vec()
}

const START: Lsn = Lsn(0x14E_C3C8);

type Seen = (Lsn, Lsn, Vec<u8>, Vec<BlockTag>);

fn seen(record: &Record<'_>) -> Seen {
    let tags = record.blocks().map(|block| block.tag()).collect();
    (record.start, record.end, record.bytes().to_vec(), tags)
}

#[test]
fn a_queue_gives_what_the_decoder_gives_one_by_one() {
    let wal = golden_wal();
    let decoder = || Decoder::new(START, 16 << 20, Some(WalVersion::V17));
    let mut expected = Vec::new();
    let mut one_by_one = decoder();
    let mut input = wal.as_slice();
    while let Some(record) = one_by_one.next(&mut input).unwrap() {
        expected.push(seen(&record));
    }
    assert!(expected.len() > 1000, "{} records", expected.len());
    for (room, piece) in [(1, wal.len()), (32, wal.len()), (7, 1000), (64, 100_000)] {
        let mut decoder = decoder();
        let mut queue = RecordQueue::new(room);
        let mut found = Vec::new();
        for mut input in wal.chunks(piece) {
            loop {
                while let Some(record) = queue.decode(&mut decoder, &mut input).unwrap() {
                    let newest = seen(&record);
                    assert!(queue.len() <= room);
                    assert_eq!(
                        queue.get(queue.len() - 1).map(|record| seen(&record)),
                        Some(newest)
                    );
                }
                let Some(oldest) = queue.get(0) else { break };
                found.push(seen(&oldest));
                queue.pop();
            }
        }
        assert!(found == expected, "{room} records, pieces of {piece} bytes");
    }
}

#[test]
fn the_records_before_an_error_are_still_there() {
    let mut wal = golden_wal();
    let mut decoder = Decoder::new(START, 16 << 20, Some(WalVersion::V17));
    let mut input = wal.as_slice();
    let (mut start, mut records) = (START, 0);
    while records < 100 {
        start = decoder.next(&mut input).unwrap().unwrap().start;
        records += 1;
    }
    wal[(start.0 - START.0) as usize + 30] ^= 1;
    let mut decoder = Decoder::new(START, 16 << 20, Some(WalVersion::V17));
    let mut queue = RecordQueue::new(64);
    let mut input = wal.as_slice();
    let mut found = 0;
    let error = loop {
        match queue.decode(&mut decoder, &mut input) {
            Ok(Some(_)) => {}
            Ok(None) => {
                queue.pop();
                found += 1;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(found + queue.len(), 99);
    assert!(matches!(error, WalError::Crc { record, .. } if record == start), "{error}");
}
