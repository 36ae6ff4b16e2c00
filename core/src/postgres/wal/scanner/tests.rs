use super::super::WalVersion;
use super::super::framing::PAGE_BYTES;
use super::super::test_wal::{SEGMENT_BYTES, WalBuilder};
use super::*;
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/golden/redo/{name}", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(&path).expect(&path)).unwrap()
}

/// Record ends that the scanner sees when `bytes` arrive cut at the sizes that `cut` gives.
fn ends(start: Lsn, segment: u32, bytes: &[u8], mut cut: impl FnMut() -> usize) -> Vec<Lsn> {
    let mut scanner = RecordScanner::new(start, segment);
    let mut ends = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(cut().clamp(1, rest.len()));
        scanner.push(now);
        rest = later;
        assert!(scanner.record_end() <= scanner.position());
        if ends.last().copied().unwrap_or(start) != scanner.record_end() {
            ends.push(scanner.record_end());
        }
    }
    assert_eq!(scanner.position(), start + bytes.len() as u64);
    assert_eq!(scanner.error(), None);
    ends
}

/// Seeded sizes: small and large in turn.
fn cuts(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % if seed & 0x100 == 0 { 9 } else { 20_000 }) as usize
    }
}

#[test]
fn recorded_wal_has_the_recorded_ends_in_any_cut() {
    let mut wal = golden("wal/000000010000000000000001.zst");
    wal.extend(golden("wal/000000010000000000000002.zst"));
    let records = String::from_utf8(golden("records.tsv.zst")).unwrap();
    let expected: Vec<Lsn> = records
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(1).unwrap().parse().unwrap())
        .collect();
    let start: Lsn = "0/14EC3C8".parse().unwrap();
    let last = *expected.last().unwrap();
    let wal = &wal[(start.0 - 0x100_0000) as usize..(last.0 - 0x100_0000) as usize];

    // Cut into single bytes, every end shows; cut into larger pieces, those at the cuts.
    assert_eq!(ends(start, 16 << 20, wal, || 1), expected);
    for seed in 1..6 {
        let seen = ends(start, 16 << 20, wal, cuts(seed));
        assert_eq!(seen.last(), Some(&last));
        assert!(seen.iter().all(|end| expected.binary_search(end).is_ok()));
    }
}

#[test]
fn a_page_start_in_the_middle_of_a_record_skips_to_its_end() {
    let mut wal = golden("wal/000000010000000000000001.zst");
    let records = String::from_utf8(golden("records.tsv.zst")).unwrap();
    let expected: Vec<Lsn> = records
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(1).unwrap().parse().unwrap())
        .collect();
    wal.truncate(0x70_0000);
    for page in (0x14F_0000u64..0x16E_0000).step_by(PAGE_BYTES as usize * 7) {
        let from = (page - 0x100_0000) as usize;
        let seen = ends(Lsn(page), 16 << 20, &wal[from..from + 100_000], || 1);
        let first = expected.partition_point(|end| end.0 <= page);
        assert_eq!(seen[..], expected[first..first + seen.len()], "from {page:x}");
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7) as u8).collect()
}

#[test]
fn records_of_every_size_around_a_page_end() {
    for version in WalVersion::ALL {
        let mut wal = WalBuilder::new(Lsn(3 << 20), version);
        for len in (0..400).chain([8000, 8104, 8128, 8168, 8169, 16_000, 300_000]) {
            wal.record(10, 0, &body(len));
        }
        assert_eq!(ends(wal.start, SEGMENT_BYTES, &wal.bytes, || 1), wal.ends);
    }
}

#[test]
fn a_switch_ends_at_the_next_segment() {
    let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V17);
    wal.record(10, 0, &body(100));
    wal.switch();
    wal.record(10, 0, &body(50));
    wal.switch();
    // A switch whose record crosses a page, and one that ends exactly at a segment's end.
    wal.record(10, 0, &body(8192 - 40 - 24 - 16));
    wal.switch();
    let fill = u64::from(SEGMENT_BYTES) - 24 - 128 * 24 - 16 - 24;
    wal.record(10, 0, &body(fill as usize));
    assert_eq!(wal.position().0 % u64::from(SEGMENT_BYTES), u64::from(SEGMENT_BYTES) - 24);
    wal.switch();
    wal.record(10, 0, &body(9));
    assert_eq!(ends(wal.start, SEGMENT_BYTES, &wal.bytes, || 1), wal.ends);

    let mut scanner = RecordScanner::new(wal.start, SEGMENT_BYTES);
    let first_end = wal.ends[0];
    scanner.push(&wal.bytes[..(first_end - wal.start) as usize + 24 + 500]);
    assert_eq!(scanner.record_end(), first_end, "the switch is not over before its zeros came");
}

#[test]
fn a_switch_whose_beginning_was_not_seen_is_recognised() {
    for len_before in [8192 - 40 - 24 - 16, 8192 - 40 - 24 - 8] {
        let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V16);
        wal.record(10, 0, &body(len_before));
        wal.switch();
        wal.record(10, 0, &body(9));
        let page = wal.start + PAGE_BYTES;
        let seen = ends(page, SEGMENT_BYTES, &wal.bytes[PAGE_BYTES as usize..], || 1);
        assert_eq!(seen[seen.len() - 2..], wal.ends[wal.ends.len() - 2..]);
    }
}

#[test]
fn an_overwritten_record_is_dropped() {
    for pages in 0..3 {
        let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V15);
        wal.record(10, 0, &body(100));
        wal.overwritten_record(&body(40_000), pages);
        wal.record(0, 0xD0, &body(16));
        wal.record(10, 0, &body(9000));
        assert_eq!(ends(wal.start, SEGMENT_BYTES, &wal.bytes, || 1), wal.ends);
        assert_eq!(ends(wal.start, SEGMENT_BYTES, &wal.bytes, || 1 << 20), wal.ends[2..]);
    }
}

#[test]
fn a_record_in_progress_is_not_an_end() {
    let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V18);
    wal.record(10, 0, &body(100));
    let end = wal.position();
    wal.record(10, 0, &body(30_000));
    let mut scanner = RecordScanner::new(wal.start, SEGMENT_BYTES);
    scanner.push(&wal.bytes[..wal.bytes.len() - 1]);
    assert_eq!((scanner.record_end(), scanner.error()), (end, None));
}

#[test]
fn what_is_not_wal_keeps_the_end_and_says_why() {
    let good = {
        let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V15);
        wal.record(10, 0, &body(100));
        wal.record(10, 0, &body(20_000));
        wal
    };
    let first_end = good.ends[0];
    let first = (first_end - good.start) as usize;
    let break_at = |offset: usize, value: u8| {
        let mut bytes = good.bytes.clone();
        bytes[offset] = value;
        let mut scanner = RecordScanner::new(good.start, SEGMENT_BYTES);
        scanner.push(&bytes);
        scanner.push(&[0; 100_000]);
        assert_eq!(scanner.position(), good.start + bytes.len() as u64 + 100_000);
        let text = scanner.error().expect("an error").to_string();
        (scanner.record_end() - good.start, text)
    };
    let cases = [
        (0, "magic"),
        (3, "flags"),
        (8, "address"),
        (32, "segment size"),
        (36, "page size"),
        (40 + 3, "length"),
        (40 + 8, "CRC"),
        (40 + 15, "previous record"),
        (40 + 17, "resource manager 99"),
        (40 + 30, "CRC"),
    ];
    for (offset, expected) in cases {
        let (end, text) = break_at(offset, 99);
        assert_eq!(end, 0, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let later = [
        (first + 8, "previous record"),
        (8192, "magic"),
        (8192 + 2, "flags"),
        (8192 + 4, "timeline"),
        (8192 + 16, "continued length"),
    ];
    for (offset, expected) in later {
        let (end, text) = break_at(offset, if offset == 8192 + 4 { 0 } else { 99 });
        assert_eq!(end, first as u64, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    assert!(break_at(8192 + 2, 0).1.contains("no continuation"));
}

#[test]
fn zeros_after_a_record_are_the_end_of_wal() {
    let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V14);
    wal.record(10, 0, &body(100));
    let end = wal.position();
    wal.bytes.extend([0; 4096]);
    let mut scanner = RecordScanner::new(wal.start, SEGMENT_BYTES);
    scanner.push(&wal.bytes);
    assert_eq!(scanner.record_end(), end);
    assert_eq!(scanner.error(), Some(&WalError::ZeroLength { record: end }));
}

#[test]
fn impossible_positions_and_sizes_are_errors() {
    for (start, size) in [(0, 0), (0, 3 << 20), (0, 1 << 19), (u64::MAX, 1 << 20)] {
        let mut scanner = RecordScanner::new(Lsn(start), size);
        scanner.push(&[1; 100]);
        assert!(scanner.error().is_some());
        assert_eq!(scanner.record_end(), Lsn(start));
    }
    let mut scanner = RecordScanner::new(Lsn(u64::MAX - (2 << 30)), 1 << 30);
    scanner.push(&[0; 100_000]);
    assert!(scanner.error().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_wal_never_panics(
        seed in 1u64..,
        mutations in proptest::collection::vec((0usize..60_000, any::<u8>()), 1..6),
        start in 0u64..30_000,
    ) {
        let mut wal = WalBuilder::new(Lsn(3 << 20), WalVersion::V17);
        wal.record(10, 0, &body(100));
        wal.overwritten_record(&body(20_000), 1);
        wal.record(10, 0, &body(20_000));
        wal.switch();
        wal.record(10, 0, &body(20_000));
        for (at, value) in mutations {
            let at = at % wal.bytes.len();
            wal.bytes[at] = value;
        }
        let mut cut = cuts(seed);
        let mut scanner = RecordScanner::new(wal.start + start, SEGMENT_BYTES);
        let mut rest = &wal.bytes[start as usize..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut().clamp(1, rest.len()));
            scanner.push(now);
            rest = later;
            prop_assert!(scanner.record_end() <= scanner.position());
        }
        prop_assert_eq!(scanner.position(), wal.position());
    }

    #[test]
    fn random_bytes_never_panic(start in any::<u64>(), size in any::<u32>(), bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        for size in [size, 1 << 20] {
            let mut scanner = RecordScanner::new(Lsn(start), size);
            scanner.push(&bytes);
            prop_assert!(scanner.record_end() <= scanner.position());
        }
    }
}
