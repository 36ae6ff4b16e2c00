use std::fs;
use std::process::Command;

use firn_core::postgres::wal::RecordScanner;

use super::*;
use crate::simulation::random::Random;

const SEGMENT_BYTES: u64 = 1 << 20;

fn cluster() -> Cluster {
    Cluster {
        postgres_version: PostgresVersion(150_000),
        system_id: SystemId(7_000_000_000_000_000_001),
        segment_size_bytes: SEGMENT_BYTES,
    }
}

/// Records of all sizes, one segment switch, one crash inside a record.
fn sample() -> Wal {
    let mut random = Random::new(1);
    let mut wal = Wal::new(cluster(), Lsn(SEGMENT_BYTES));
    for xid in 3..200 {
        wal.append(&Record::no_operation(vec![xid as u8; random.index(20_000)]));
        wal.append(&Record::commit(xid, 0));
        if xid == 60 {
            wal.switch_segment();
        }
    }
    let half = wal.append(&Record::no_operation(vec![9; 30_000]));
    let boundary = Lsn((half.start.0 + 2 * PAGE_BYTES) / PAGE_BYTES * PAGE_BYTES);
    wal.cut(boundary);
    wal.recover();
    wal.append(&Record::commit(1000, 0));
    wal
}

#[test]
fn the_real_pg_waldump_reads_every_record() {
    let program = "/usr/lib/postgresql/15/bin/pg_waldump";
    assert!(fs::exists(program).unwrap(), "{program} is missing: apt-get install postgresql-15");
    let wal = sample();
    let directory = tempfile::tempdir().unwrap();
    let mut segment = wal.start();
    while segment < wal.end() {
        let end = (segment + SEGMENT_BYTES).min(wal.end());
        let mut bytes = wal.read(segment, end).to_vec();
        bytes.resize(SEGMENT_BYTES as usize, 0);
        let number = segment.0 / SEGMENT_BYTES;
        let per_id = (1u64 << 32) / SEGMENT_BYTES;
        let name = format!("{:08X}{:08X}{:08X}", 1, number / per_id, number % per_id);
        fs::write(directory.path().join(name), bytes).unwrap();
        segment = segment + SEGMENT_BYTES;
    }
    let output = Command::new(program)
        .arg("--path")
        .arg(directory.path())
        .args(["--start", &wal.start().to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let line = |lsn: Lsn| format!("lsn: {}/{:08X},", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
    for record in wal.records() {
        assert!(text.contains(&line(record.start)), "no record at {}: {errors}", record.start);
    }
    assert!(text.contains("OVERWRITE_CONTRECORD"), "{errors}");
    let last = text.lines().last().unwrap();
    assert!(last.contains("COMMIT") && last.contains("tx:       1000"), "{last}: {errors}");
}

#[test]
fn a_half_record_within_a_page_vanishes() {
    let mut wal = Wal::new(cluster(), Lsn(SEGMENT_BYTES));
    wal.append(&Record::commit(3, 0));
    let half = wal.append(&Record::commit(4, 0));
    wal.cut(half.start + 8);
    wal.recover();
    assert_eq!(wal.read(half.start, half.start + 4), 114u32.to_le_bytes(), "a checkpoint record");
}

#[test]
fn a_timeline_switch_keeps_the_page_and_marks_the_next() {
    let mut wal = Wal::new(cluster(), Lsn(SEGMENT_BYTES));
    let at = wal.record_end();
    wal.promote();
    wal.append(&Record::no_operation(vec![0; 10_000]));
    assert_eq!(wal.history(), format!("1\t{at}\tno recovery target specified\n"));
    let timeline_at = |page: u64| {
        let at = Lsn(SEGMENT_BYTES + page * PAGE_BYTES + 4);
        u32::from_le_bytes(wal.read(at, at + 4).try_into().unwrap())
    };
    assert_eq!((timeline_at(0), timeline_at(1)), (1, 2));
}

#[test]
fn restored_wal_is_the_wal_that_was_written() {
    let mut wal = sample();
    wal.promote();
    wal.append(&Record::commit(1001, 0));
    let bytes = wal.read(wal.start(), wal.end()).to_vec();
    let restored = Wal::restored(wal.cluster(), wal.start(), bytes);
    assert_eq!(restored.records(), wal.records());
    assert_eq!((restored.timeline(), restored.switches()), (wal.timeline(), wal.switches()));
}

#[test]
fn the_scanner_finds_the_records_that_were_written() {
    let wal = sample();
    let mut scanner = RecordScanner::new(wal.start(), SEGMENT_BYTES as u32);
    let mut ends = Vec::new();
    for chunk in wal.read(wal.start(), wal.end()).chunks(8) {
        scanner.push(chunk);
        if ends.last() != Some(&scanner.record_end()) && scanner.record_end() > wal.start() {
            ends.push(scanner.record_end());
        }
    }
    assert_eq!(scanner.error(), None);
    assert_eq!(ends, wal.records().iter().map(|record| record.end).collect::<Vec<_>>());
}
