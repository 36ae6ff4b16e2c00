use super::*;

fn frontend(bytes: &[u8]) -> Result<Frontend<'_>, MessageError> {
    let (message, length) = decode(bytes)?.expect("complete");
    assert_eq!(length, bytes.len());
    Frontend::from_message(message)
}

fn backend(bytes: &[u8]) -> Backend<'_> {
    let (message, length) = decode(bytes).unwrap().expect("complete");
    assert_eq!(length, bytes.len());
    Backend::from_message(message).unwrap()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

#[test]
fn queries_and_ends_are_understood() {
    assert_eq!(
        frontend(&encoded(|out| out.query("IDENTIFY_SYSTEM"))),
        Ok(Frontend::Query("IDENTIFY_SYSTEM"))
    );
    assert_eq!(frontend(&encoded(|out| out.password("ey.J"))), Ok(Frontend::Password("ey.J")));
    assert_eq!(frontend(&encoded(|out| out.copy_done())), Ok(Frontend::CopyDone));
    assert_eq!(frontend(&encoded(|out| out.terminate())), Ok(Frontend::Terminate));
    assert_eq!(frontend(b"P\0\0\0\x0ds0\0TIM\0\0\0"), Ok(Frontend::Parse("TIM")));
}

fn malformed(tag: char, payload_bytes: usize) -> MessageError {
    MessageError::Malformed { tag, payload_bytes }
}

#[test]
fn errors_and_rows_come_back() {
    assert_eq!(
        backend(&encoded(|out| out.error_response("XX000", "no"))),
        Backend::Error { code: "XX000", message: "no" }
    );
    assert_eq!(
        backend(&encoded(|out| out.data_row(&[Some("0/1"), None]))),
        Backend::DataRow(vec![Some("0/1"), None])
    );
    assert_eq!(backend(&encoded(|out| out.authentication_password())), Backend::Authentication(3));
}

#[test]
fn bytes_are_those_of_the_protocol() {
    assert_eq!(encoded(|out| out.copy_both()), b"W\0\0\0\x07\0\0\0");
    assert_eq!(encoded(|out| out.ready_for_query()), b"Z\0\0\0\x05I");
    assert_eq!(
        encoded(|out| out.error_response("XX000", "no")),
        b"E\0\0\0\x17SERROR\0CXX000\0Mno\0\0"
    );
    assert_eq!(
        encoded(|out| out.row_description(&[("n", ColumnType::Int4)])),
        b"T\0\0\0\x1a\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"
    );
}

#[test]
fn lengths_out_of_bounds_are_refused_before_the_bytes_arrive() {
    let error = decode(b"d\xff\xff\xff\xff").unwrap_err();
    assert_eq!(error, MessageError::Length { tag: 'd', found_bytes: u32::MAX });
    assert_eq!(
        decode(b"Q\0\0\0\x03").unwrap_err(),
        MessageError::Length { tag: 'Q', found_bytes: 3 }
    );
    assert_eq!(decode(b"Q\0\0"), Ok(None));
}

#[test]
fn malformed_payloads_are_named() {
    assert_eq!(frontend(b"Q\0\0\0\x05x"), Err(malformed('Q', 1)));
    assert_eq!(frontend(b"?\0\0\0\x04"), Err(MessageError::Unknown { tag: '?' }));
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_are_values(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        if let Ok(Some((message, length))) = decode(&bytes) {
            assert!(length <= bytes.len());
            let _ = Frontend::from_message(message);
            let _ = Backend::from_message(message);
        }
        for tag in *b"pQPDBECHSXdcfRDEZW" {
            let _ = Frontend::from_message(Message { tag, payload: &bytes });
            let _ = Backend::from_message(Message { tag, payload: &bytes });
        }
    }
}
