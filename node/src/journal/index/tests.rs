//! The index against a model with a place per byte.

use super::*;
use proptest::prelude::*;

proptest! {
    /// Against one place per byte: whatever came last holds it.
    #[test]
    fn the_latest_piece_holds_a_byte(
        steps in proptest::collection::vec((0..60u64, 1..20u64, any::<bool>()), 1..60),
    ) {
        let mut pieces = Pieces::default();
        let mut model = [None; 200];
        let mut end = 0;
        for (index, (begin, count, goes_on)) in steps.into_iter().enumerate() {
            let begin = if goes_on { end } else { begin };
            end = (begin + count).min(200);
            let place = FramePlace { offset_bytes: index as u32 / 2, frame_bytes: 4096 };
            if begin < end {
                pieces.insert(Piece { begin: Lsn(begin), end: Lsn(end), place });
                model[begin as usize..end as usize].fill(Some(place));
            }
            for (at, expected) in model.iter().enumerate() {
                let found = pieces.find(Lsn(at as u64));
                prop_assert_eq!(found.map(|piece| piece.place), *expected);
            }
        }
        let ordered = pieces.0.windows(2).all(|pair| pair[0].end <= pair[1].begin);
        prop_assert!(ordered && pieces.0.iter().all(|piece| piece.begin < piece.end));
    }
}
