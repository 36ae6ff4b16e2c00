use super::*;

fn feed(primary: &[u8], quorum: &[u8], piece: usize) -> Result<Comparison, Difference> {
    let start = Lsn(1000);
    let mut comparison = Comparison::new(start, start + quorum.len() as u64);
    while let Some(side) = comparison.behind() {
        let source = if side == Side::Primary { primary } else { quorum };
        let offset = (comparison.position(side) - start) as usize;
        comparison.push(side, &source[offset..source.len().min(offset + piece)])?;
    }
    Ok(comparison)
}

#[test]
fn equal_streams_agree_whatever_the_pieces() {
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for piece in [1, 7, 4096, 20_000] {
        let comparison = feed(&bytes, &bytes, piece).unwrap();
        assert_eq!(comparison.position(Side::Quorum), Lsn(11_000));
    }
}

#[test]
fn the_first_difference_is_found_whatever_the_pieces() {
    let quorum: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let mut primary = quorum.clone();
    primary[4_321] ^= 0x10;
    primary[4_700] ^= 0x10;
    for piece in [1, 7, 4096, 20_000] {
        let difference = feed(&primary, &quorum, piece).unwrap_err();
        let expected =
            Difference { at: Lsn(5_321), primary: quorum[4_321] ^ 0x10, quorum: quorum[4_321] };
        assert_eq!(difference, expected);
    }
}

#[test]
fn bytes_past_the_end_are_not_compared() {
    let mut comparison = Comparison::new(Lsn(8), Lsn(11));
    comparison.push(Side::Quorum, b"abcdef").unwrap();
    comparison.push(Side::Primary, b"abcxyz").unwrap();
    assert!(comparison.is_complete());
    assert_eq!(comparison.behind(), None);
    comparison.push(Side::Primary, b"more").unwrap();
    assert!(comparison.is_complete());
}

#[test]
fn an_empty_range_is_complete() {
    assert!(Comparison::new(Lsn(8), Lsn(8)).is_complete());
    assert!(Comparison::new(Lsn(8), Lsn(4)).is_complete());
}
