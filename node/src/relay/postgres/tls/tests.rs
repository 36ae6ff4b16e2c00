use super::*;

/// A certificate's outer shape, with the given signature algorithm.
fn certificate(oid: &[u8]) -> Vec<u8> {
    let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8][..], content].concat();
    let body = element(0x30, &[2, 1, 7]);
    let algorithm = element(0x30, &[element(6, oid), vec![5, 0]].concat());
    let signature = element(3, &[0, 1, 2]);
    element(0x30, &[body, algorithm, signature].concat())
}

#[test]
fn the_certificate_is_hashed_by_its_own_signature_hash() {
    let length = |oid: &[u8]| server_end_point(&certificate(oid)).map(|hash| hash.len());
    let rsa = |last| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last];
    let ecdsa = |last| [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last];
    assert_eq!(length(&rsa(5)), Some(32));
    assert_eq!(length(&rsa(11)), Some(32));
    assert_eq!(length(&rsa(12)), Some(48));
    assert_eq!(length(&rsa(13)), Some(64));
    assert_eq!(length(&rsa(10)), None, "RSA-PSS carries its hash in parameters");
    assert_eq!(length(&ecdsa(2)), Some(32));
    assert_eq!(length(&ecdsa(4)), Some(64));
    assert_eq!(length(&[0x2b, 0x65, 0x70]), None, "Ed25519 has no hash function");
}

#[test]
fn cut_and_hostile_certificates_have_no_hash() {
    let whole = certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 2]);
    for end in 0..whole.len() - 1 {
        assert_eq!(server_end_point(&whole[..end]), None);
    }
    assert_eq!(server_end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    assert_eq!(server_end_point(&[0x30, 0x80, 0, 0]), None);
}
