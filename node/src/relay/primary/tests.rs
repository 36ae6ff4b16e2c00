use super::*;

#[test]
fn segment_sizes_as_shown() {
    for (text, size) in
        [("16MB", 16 << 20), ("1MB", 1 << 20), ("1GB", 1 << 30), ("1024kB", 1 << 20)]
    {
        assert_eq!(segment_size_bytes(text).unwrap(), size, "{text}");
    }
    for text in ["", "16", "3MB", "2GB", "MB", "4096GB", "16 MB"] {
        assert!(segment_size_bytes(text).is_err(), "{text}");
    }
}

#[test]
fn missing_wal_is_told_from_other_refusals() {
    let server = |code: &str, message: &str| ConnectionError::Server {
        code: code.to_string(),
        message: message.to_string(),
    };
    let removed = "requested WAL segment 000000010000000000000003 has already been removed";
    let error = wal_error(server("58P01", removed), Lsn(0x300_0000));
    assert!(error.is_final() && error.to_string().contains("0/3000000"), "{error}");
    let lost = "cannot read from replication slot \"firn\"";
    assert!(wal_error(server("55000", lost), Lsn(8)).is_final());
    assert!(!wal_error(server("57P01", "terminating"), Lsn(8)).is_final());
    assert!(wal_error(server("55006", "slot is active"), Lsn(8)).is_slot_in_use());
}

#[test]
fn identifiers_are_quoted() {
    assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
}
