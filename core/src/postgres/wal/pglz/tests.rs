use super::*;
use proptest::prelude::*;

#[test]
fn literals_copies_and_overlaps() {
    let mut target = [0; 3];
    decompress(&[0, 1, 2, 3], &mut target).unwrap();
    assert_eq!(target, [1, 2, 3]);

    // One literal, then a copy of 3 + 15 + 10 bytes from one byte back.
    let mut target = [0; 29];
    decompress(&[0b10, 7, 0x0F, 1, 10], &mut target).unwrap();
    assert_eq!(target, [7; 29]);

    // Two literals, a copy of 4 from two back, a literal.
    let mut target = [0; 7];
    decompress(&[0b100, 1, 2, 0x01, 2, 9], &mut target).unwrap();
    assert_eq!(target, [1, 2, 1, 2, 1, 2, 9]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut target = [0; 3];
    assert!(decompress(&[0, 1, 2], &mut target).is_err(), "too short");
    assert!(decompress(&[0, 1, 2, 3, 4], &mut target).is_err(), "too long");
    assert!(decompress(&[0b10, 1, 0, 0], &mut target).is_err(), "distance 0");
    assert!(decompress(&[0b10, 1, 0, 2], &mut target).is_err(), "before the start");
    assert!(decompress(&[0b10, 1, 0x0F, 1], &mut target).is_err(), "length cut");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(source in proptest::collection::vec(any::<u8>(), 0..600), len in 0usize..4096) {
        let _ = decompress(&source, &mut vec![0; len]);
    }
}
