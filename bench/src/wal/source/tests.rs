//! The real scanner reads what is made here.

use firn_core::postgres::wal::RecordScanner;
use firn_core::types::{Lsn, SystemId};

use super::{PIECE_BYTES_MIN, SEGMENT_BYTES, WalSource};

#[test]
fn every_piece_ends_with_a_record() {
    for length_bytes in [PIECE_BYTES_MIN, 72, 296, 304, 512, 4096, 8192, 8200, 131_072] {
        let start = Lsn(u64::from(SEGMENT_BYTES));
        let mut source = WalSource::new(SystemId(7), start);
        let mut scanner = RecordScanner::new(start, SEGMENT_BYTES);
        let mut piece = Vec::new();
        // Past the next segment's start, for the long header there; for small pieces across many pages.
        for _ in 0..(SEGMENT_BYTES as usize / length_bytes + 2).min(5_000) {
            piece.clear();
            source.next(length_bytes, &mut piece);
            assert!((length_bytes - 40..=length_bytes).contains(&piece.len()));
            scanner.push(&piece);
            assert_eq!(scanner.error(), None, "pieces of {length_bytes}");
            assert_eq!(scanner.record_end(), source.position(), "pieces of {length_bytes}");
        }
    }
}
