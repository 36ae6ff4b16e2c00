//! Hostile records on hostile pages: redo never panics and never allocates without bound, and what it says is the same
//! every time. Mutated records of real servers on their own and on others' pages; made-up records on made-up pages.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::System;
use std::sync::LazyLock;

use cap::Cap;
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::{Redo, Settings, effects};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{Layout, Record, WalVersion};
use firn_core::types::Lsn;
use firn_tests::fuzz::{fuzz, mutate};
use firn_tests::redo_samples::{Sample, as_neon_heap, neon_samples, samples};
use firn_tests::simulation::random::Random;

/// An allocation past this fails, and ends the test: decompression's context and the samples are all there is.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 1 << 30);

/// Stock Postgres' records, Neon's own, and these in the format of its older versions.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let neon = neon_samples().unwrap();
    let older: Vec<Sample> = neon.iter().map(as_neon_heap).collect();
    [samples().unwrap(), neon, older].concat()
});

/// Fuzzes redo of the records of some resource managers.
fn fuzz_redo(name: &str, managers: &[u8]) {
    let own: Vec<&Sample> =
        SAMPLES.iter().filter(|sample| managers.contains(&sample.record[17])).collect();
    let seeds: Vec<Vec<u8>> = match own.is_empty() {
        // Their records change no relation page: any bytes will do for what follows the header.
        true => vec![vec![0; 24]],
        false => own.iter().map(|sample| sample.record.clone()).collect(),
    };
    let mut redo = [false, true]
        .map(|flag| Redo::new(Settings { visible_moves_heap_lsn: flag, neon_heap_records: flag }));
    fuzz(name, &seeds, |input, random| {
        let neon = random.percent(20);
        let mut version = WalVersion::ALL[random.index(WalVersion::ALL.len())];
        let (bytes, page) = if own.is_empty() || random.percent(30) {
            let manager = managers[random.index(managers.len())];
            (made_up_record(manager, random), made_up_page(random))
        } else {
            // Most of a record that is damaged everywhere is refused at once: damage one in a few places, too.
            let sample = own[random.index(own.len())];
            if random.percent(70) {
                version = sample.version;
            }
            let mut bytes = sample.record.clone();
            for _ in 0..random.below(4) {
                damage(&mut bytes[16..], random);
            }
            let bytes = if random.percent(70) { bytes } else { input.to_vec() };
            (bytes, page_for(sample, &own, random))
        };
        replay(&bytes, version, &page, &mut redo[usize::from(neon)], neon);
    });
}

fn replay(bytes: &[u8], version: WalVersion, page: &PageBytes, redo: &mut Redo, neon: bool) {
    let settings = Settings { visible_moves_heap_lsn: neon, neon_heap_records: neon };
    let mut layout = Layout::new();
    let end = Lsn(u64::MAX >> 1);
    let Ok(record) = Record::parse(bytes, &mut layout, version, Lsn(0x100), end) else { return };
    let mut told = 0;
    let _ = effects(&record, settings, |_| told += 1);
    // A multixact's members and a transaction's relations take at least four bytes each.
    assert!(told <= 2 * bytes.len(), "{told} effects of {} bytes", bytes.len());
    for block in record.blocks() {
        let (mut first, mut second) = (*page, *page);
        let outcome = redo.redo_block(&record, block.id(), &mut first);
        assert_eq!(redo.redo_block(&record, block.id(), &mut second), outcome);
        assert!(first == second, "the same record on the same page gave two pages");
    }
}

/// A few bytes, 16-bit or 32-bit words of `bytes` become others.
fn damage(bytes: &mut [u8], random: &mut Random) {
    const VALUES: [u32; 10] = [0, 1, 2, 7, 23, 24, 0xFF, 8191, 8192, u32::MAX];
    if bytes.is_empty() {
        return;
    }
    let at = random.index(bytes.len());
    let width = [1, 2, 4][random.index(3)].min(bytes.len() - at);
    let value = match random.below(3) {
        0 => random.next_u64() as u32,
        1 => VALUES[random.index(VALUES.len())],
        _ => u32::from(bytes[at]).wrapping_add(random.below(9) as u32).wrapping_sub(4),
    };
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// The sample's own page or another's, often damaged where it hurts: in the header, line pointers, special space.
fn page_for(sample: &Sample, own: &[&Sample], random: &mut Random) -> PageBytes {
    let other = own[random.index(own.len())];
    let mut page = match random.below(10) {
        0..7 => sample.before,
        7 => sample.after,
        8 => other.before,
        _ => made_up_page(random),
    };
    for _ in 0..random.below(8) {
        match random.below(4) {
            0 => damage(&mut page[8..24], random),
            1 => damage(&mut page[24..256], random),
            2 => damage(&mut page[PAGE_BYTES - 64..], random),
            _ => damage(&mut page[8..], random),
        }
    }
    page
}

/// A page with a header in order and anything behind it, or just anything.
fn made_up_page(random: &mut Random) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES];
    if random.percent(20) {
        bytes.fill_with(|| random.below(256) as u8);
        return bytes;
    }
    let special = [0, 8, 16, 24][random.index(4)];
    let mut page = Page::new(&mut bytes);
    page.init(special);
    let tuple: Vec<u8> = (0..1 + random.below(64)).map(|_| random.below(256) as u8).collect();
    for _ in 0..random.below(40) {
        let _ = page.append_item(&tuple);
    }
    for _ in 0..random.below(8) {
        damage(&mut bytes[8..], random);
    }
    bytes
}

/// A record whose framing is right: some blocks with data, and main data.
fn made_up_record(manager: u8, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[4..8].copy_from_slice(&(random.below(2000) as u32).to_le_bytes());
    bytes[16] = random.below(256) as u8;
    bytes[17] = manager;
    let noise = |random: &mut Random, limit: u64| -> Vec<u8> {
        let small = random.percent(70);
        (0..random.below(limit)).map(|_| random.below(if small { 8 } else { 256 }) as u8).collect()
    };
    let mut rest = Vec::new();
    for id in 0..random.below(5) as u8 {
        let data = if random.percent(60) { noise(random, 300) } else { Vec::new() };
        let fork = if random.percent(15) { 2 } else { 0 };
        let init = if random.percent(20) { 0x40 } else { 0 };
        bytes.extend([id, fork | init | if data.is_empty() { 0 } else { 0x20 }]);
        bytes.extend((data.len() as u16).to_le_bytes());
        for number in [1663, 5, 16384, random.below(4) as u32] {
            bytes.extend(number.to_le_bytes());
        }
        rest.extend(data);
    }
    let main = noise(random, 200);
    bytes.push(254);
    bytes.extend((main.len() as u32).to_le_bytes());
    bytes.extend(rest);
    bytes.extend(main);
    if random.percent(10) {
        mutate(&mut bytes, &[Vec::new()], random);
    }
    bytes
}

#[test]
fn redo_of_heap() {
    fuzz_redo("redo_of_heap", &[rmgr::HEAP, rmgr::HEAP2, rmgr::NEON]);
}

#[test]
fn redo_of_btree() {
    fuzz_redo("redo_of_btree", &[rmgr::BTREE]);
}

#[test]
fn redo_of_hash() {
    fuzz_redo("redo_of_hash", &[rmgr::HASH]);
}

#[test]
fn redo_of_gin() {
    fuzz_redo("redo_of_gin", &[rmgr::GIN]);
}

#[test]
fn redo_of_gist_and_spgist() {
    fuzz_redo("redo_of_gist_and_spgist", &[rmgr::GIST, rmgr::SPGIST]);
}

#[test]
fn redo_of_other_pages() {
    fuzz_redo("redo_of_other_pages", &[rmgr::XLOG, rmgr::SEQUENCE, rmgr::BRIN, rmgr::GENERIC]);
}

#[test]
fn effects_of_other_records() {
    fuzz_redo(
        "effects_of_other_records",
        &[
            rmgr::XACT,
            rmgr::SMGR,
            rmgr::CLOG,
            rmgr::DBASE,
            rmgr::TBLSPC,
            rmgr::MULTIXACT,
            rmgr::RELMAP,
            rmgr::STANDBY,
            rmgr::COMMIT_TS,
            rmgr::REPLICATION_ORIGIN,
            rmgr::LOGICAL_MESSAGE,
        ],
    );
}
