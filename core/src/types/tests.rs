use super::*;

#[test]
fn lsn_text_form_is_postgres_own() {
    assert_eq!(Lsn(0x1_6FFF_DDDD).to_string(), "1/6FFFDDDD");
    assert_eq!("0/16fFDDDd".parse(), Ok(Lsn(0x16FF_DDDD)));
    for bad in ["", "/", "0/", "1", "0/123456789", "-1/0", "0/+1", "g/0"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
    }
}

#[test]
fn ids_are_32_hex_digits() {
    let text = "0123456789abcdef0123456789abcdef";
    assert_eq!(text.parse::<TenantId>().unwrap().to_string(), text);
    assert!("+123456789abcdef0123456789abcdef".parse::<TenantId>().is_err());
    assert!("0123".parse::<TimelineId>().is_err());
}

#[test]
fn segment_start_and_alignment() {
    assert_eq!(Lsn(0x1_0000_0001).segment_start(1 << 24), Lsn(0x1_0000_0000));
    assert_eq!(Lsn(9).align_up_8(), Lsn(16));
    assert_eq!(Lsn(16).align_up_8(), Lsn(16));
}
