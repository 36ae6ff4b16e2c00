//! Decoding and redo allocate nothing per record: while they run, the allocator has nothing to give.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::System;
use std::path::PathBuf;

use cap::Cap;
use firn_core::postgres::bytes::Reader;
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::redo::{Redo, Settings, effects};
use firn_core::postgres::wal::{Decoder, Layout, Record, RecordQueue, WalVersion};
use firn_core::types::Lsn;
use firn_tests::recordings::unpacked;

/// An allocation past the limit fails and aborts the test.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn golden(name: &str) -> Vec<u8> {
    unpacked(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

fn without_allocating(work: impl FnOnce()) {
    ALLOCATOR.set_limit(ALLOCATOR.allocated()).unwrap();
    work();
    ALLOCATOR.set_limit(usize::MAX).unwrap();
}

#[test]
fn decoding_and_redo_allocate_nothing_per_record() {
    let wal = golden("redo/wal/000000010000000000000001.zst");
    let start = Lsn(0x14E_C3C8);
    let wal = &wal[(start.0 - 0x100_0000) as usize..];
    let mut decoder = Decoder::new(start, 16 << 20, Some(WalVersion::V17));
    let decode = |decoder: &mut Decoder| {
        let mut records = 0u64;
        for mut input in wal.chunks(100_000) {
            while let Some(record) = decoder.next(&mut input).unwrap() {
                effects(&record, Settings::default(), |_| {}).unwrap();
                records += 1;
            }
        }
        records
    };
    // The buffer for records that cross a page grows to the largest of them, once.
    let records = decode(&mut decoder);
    assert!(records > 10_000, "{records} records");
    without_allocating(|| {
        decoder.restart(start);
        assert_eq!(decode(&mut decoder), records);
    });
    let mut queue = RecordQueue::new(32);
    let mut decode_ahead = |decoder: &mut Decoder| {
        decoder.restart(start);
        let (mut input, mut records) = (wal, 0u64);
        loop {
            while queue.decode(decoder, &mut input).unwrap().is_some() {}
            if queue.is_empty() {
                return records;
            }
            queue.pop();
            records += 1;
        }
    };
    // So does the one of each place in the queue.
    let ahead = decode_ahead(&mut decoder);
    assert!(ahead == records && ahead % 32 != 0, "{ahead} of {records} records");
    without_allocating(|| assert_eq!(decode_ahead(&mut decoder), ahead));

    let samples = golden("redo-samples/18.zst");
    let mut reader = Reader::new(&samples);
    let mut redo = Redo::default();
    let mut layout = Layout::new();
    let mut replayed = 0u64;
    without_allocating(|| {
        while !reader.is_empty() {
            let (start, end) = (Lsn(reader.u64().unwrap()), Lsn(reader.u64().unwrap()));
            let (block_id, len) = (reader.u8().unwrap(), reader.u32().unwrap());
            let bytes = reader.take(len as usize).unwrap();
            let mut page: PageBytes = *reader.take(8192).unwrap().first_chunk().unwrap();
            reader.skip(8192).unwrap();
            let record = Record::parse(bytes, &mut layout, WalVersion::V18, start, end).unwrap();
            redo.redo_block(&record, block_id, &mut page).unwrap();
            replayed += 1;
        }
    });
    assert!(replayed > 100, "{replayed} records");
}
