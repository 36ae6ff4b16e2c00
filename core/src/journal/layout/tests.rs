use super::*;

#[test]
fn laid_out_as_drawn() {
    let layout = Layout { epoch: 2, journals: vec![JournalNumber(4), JournalNumber(5)] };
    let mut drawn = Vec::new();
    drawn.extend_from_slice(b"FIRNLAYO");
    drawn.extend_from_slice(&1u32.to_le_bytes()); // version
    drawn.extend_from_slice(&0xEDF9_8E64u32.to_le_bytes()); // crc
    drawn.extend_from_slice(&2u64.to_le_bytes()); // epoch
    drawn.extend_from_slice(&2u32.to_le_bytes()); // shards
    drawn.extend_from_slice(&[0; 4]);
    drawn.extend_from_slice(&4u32.to_le_bytes());
    drawn.extend_from_slice(&5u32.to_le_bytes());
    let bytes = layout.encode();
    assert_eq!(bytes, drawn);
    assert_eq!(Layout::decode(&bytes), Ok(layout));
}

#[test]
fn numbers_of_journals_never_come_back() {
    let first = Layout::first(4);
    let second = first.next(2);
    let third = second.next(3);
    assert_eq!(third.epoch, 3);
    assert_eq!(third.journals, [JournalNumber(6), JournalNumber(7), JournalNumber(8)]);
}

#[test]
fn damage_is_found() {
    let bytes = Layout::first(3).encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Layout::decode(&bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Layout::decode(&bytes[..len]).is_err());
    }
}
