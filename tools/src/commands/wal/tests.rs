use firn_core::types::Lsn;

use super::{cut, segment_start};

#[test]
fn segment_names_say_where_a_segment_begins() {
    let mib = 1 << 20;
    assert_eq!(segment_start("000000010000000000000003", 16 * mib), Some(Lsn(48 * mib)));
    assert_eq!(segment_start("0000000200000001000000FF", 16 * mib), Some(Lsn(0x1_FF00_0000)));
    assert_eq!(segment_start("000000010000000200000003", 1024 * mib), Some(Lsn(11 << 30)));
    assert_eq!(segment_start("00000002.history", 16 * mib), None);
    assert_eq!(segment_start("00000001FFFFFFFFFFFFFFFF", 16 * mib), None);
}

#[test]
fn a_segment_is_cut_at_the_archives_end() {
    let mut bytes = vec![7; 16];
    cut(&mut bytes, Lsn(0x100), Lsn(0x104));
    assert_eq!(bytes, [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = vec![7; 16];
    cut(&mut bytes, Lsn(0x100), Lsn(0x200));
    assert_eq!(bytes, [7; 16]);
}
