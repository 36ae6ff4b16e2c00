use super::Decoded;
use firn_core::postgres::page::{PAGE_BYTES, Page};
use firn_core::postgres::wal::{BlockTag, Fork, RelationId};
use firn_core::types::Lsn;
use proptest::prelude::*;

const TAG: BlockTag = BlockTag {
    relation: RelationId { tablespace: 1663, database: 5, number: 16384 },
    fork: Fork::Main,
    block: 7,
};

#[test]
fn a_page_shows_its_header_and_tuples() {
    let mut bytes = [0; PAGE_BYTES];
    assert!(Decoded::new(TAG, &bytes).to_string().contains("all zero"));
    let mut page = Page::new(&mut bytes);
    page.init(16);
    page.append_item(&[1, 0, 2, 0, 3, 0, 16, 0, 9, 9, 9, 9, 9, 9, 9, 9]).unwrap();
    page.set_lsn(Lsn(0x1_0000_0020));
    let text = Decoded::new(TAG, &bytes).to_string();
    for expected in [
        "1663/5/16384 main block 7",
        "lsn 1/20,",
        "btree: previous 0, next 0",
        "1: normal at 8160, 16 bytes: tid (65538,3) info 0x0010 data 0909090909090909",
    ] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_shown(
        header in proptest::collection::vec(any::<u8>(), 24),
        pointers in proptest::collection::vec(any::<u8>(), 0..400),
        tail in proptest::collection::vec(any::<u8>(), 16),
        fork in 0u8..4,
    ) {
        let mut bytes = [0; PAGE_BYTES];
        bytes[..24].copy_from_slice(&header);
        bytes[24..24 + pointers.len()].copy_from_slice(&pointers);
        bytes[PAGE_BYTES - 16..].copy_from_slice(&tail);
        let fork = Fork::from_number(fork).unwrap();
        let text = Decoded::new(BlockTag { fork, ..TAG }, &bytes).to_string();
        prop_assert!(!text.is_empty());
    }
}
