use super::*;

fn prefix(start: u64) -> SegmentPrefix {
    SegmentPrefix {
        version: WalVersion::V17,
        system_id: SystemId(0),
        timeline: PostgresTimeline(1),
        segment_size_bytes: 16 << 20,
        start: Lsn(start),
    }
}

#[test]
fn the_bytes_are_those_that_a_safekeeper_made() {
    let prefix = prefix(0x14E_C3C8);
    let head = prefix.read(Lsn(0x100_0000), Lsn(0x102_0000));
    let long = b"\x16\xd1\x02\0\x01\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x20\0\0";
    assert_eq!(&head[..40], long);
    assert!(head[40..].iter().all(|byte| *byte == 0));
    let tail = prefix.read(Lsn(0x14E_0000), Lsn(0x14E_C3C8));
    let short = b"\x16\xd1\x01\0\x01\0\0\0\0\xc0\x4e\x01\0\0\0\0\xb0\x03\0\0\0\0\0\0";
    assert_eq!(&tail[0xC000..0xC018], short);
    let others = tail[..0xC000].iter().chain(&tail[0xC018..]);
    assert!(others.clone().all(|byte| *byte == 0));
}

#[test]
fn a_read_may_begin_and_end_inside_a_header() {
    let prefix = prefix(0x14E_C3C8);
    let whole = prefix.read(Lsn(0x14E_BFF0), Lsn(0x14E_C020));
    for from in 0..0x30 {
        for end in from..=0x30 {
            let part = prefix.read(Lsn(0x14E_BFF0 + from), Lsn(0x14E_BFF0 + end));
            assert_eq!(part, whole[from as usize..end as usize]);
        }
    }
}

#[test]
fn starts_on_boundaries_make_no_continuation() {
    let continues = |start: u64, page: u64| {
        let page = prefix(start).read(Lsn(page), Lsn(page + 24));
        page[2] & 1 == 1
    };
    assert!(continues(0x100_0100, 0x100_0000), "on the first page");
    assert!(!continues(0x100_0028, 0x100_0000), "right behind the long header");
    assert!(!continues(0x101_0018, 0x101_0000), "right behind a short header");
    assert_eq!(prefix(0x101_0000).read(Lsn(0x100_E000), Lsn(0x101_0000)), vec![0; 0x2000]);
    assert!(prefix(0x100_0000).read(Lsn(0x100_0000), Lsn(0x100_0000)).is_empty());
    assert_eq!(prefix(0x100_0010).read(Lsn(0x100_0000), Lsn(0x100_0010)).len(), 16);
}
