use super::*;

#[test]
fn every_message_comes_back() {
    let remote_consistent_lsn = Lsn(0x178_CB60);
    let from_reader = [
        FromReader::StandbyStatus {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(1),
            sent_at_us: -5,
            reply_requested: true,
        },
        FromReader::HotStandbyFeedback { sent_at_us: 7, xmin: (2 << 32) | 700, catalog_xmin: 690 },
        FromReader::PageserverFeedback(PageserverFeedback {
            remote_consistent_lsn,
            ..PageserverFeedback::default()
        }),
    ];
    for message in from_reader {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(FromReader::decode(&bytes), Ok(message));
    }
    let from_server = [
        FromServer::Wal { start: Lsn(1), server_end: Lsn(9), sent_at_us: 4, wal: b"abc" },
        FromServer::Keepalive { server_end: Lsn(9), sent_at_us: 4, reply_requested: true },
    ];
    for message in from_server {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(FromServer::decode(&bytes), Ok(message));
    }
}

#[test]
fn the_epoch_comes_behind_the_transaction_id() {
    let mut bytes = vec![b'h'];
    bytes.extend_from_slice(&7i64.to_be_bytes());
    for half in [700u32, 2, 690, 0] {
        bytes.extend_from_slice(&half.to_be_bytes());
    }
    assert_eq!(
        FromReader::decode(&bytes),
        Ok(FromReader::HotStandbyFeedback {
            sent_at_us: 7,
            xmin: (2 << 32) | 700,
            catalog_xmin: 690
        })
    );
}

#[test]
fn a_feedback_block_of_another_length_is_refused() {
    let mut bytes = b"z".to_vec();
    bytes.extend_from_slice(&9u64.to_be_bytes());
    bytes.push(0);
    assert!(FromReader::decode(&bytes).is_err());
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_are_values(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
        for tag in *b"rhzwk?" {
            let mut message = vec![tag];
            message.extend_from_slice(&bytes);
            let _ = FromReader::decode(&message);
            let _ = FromServer::decode(&message);
        }
        let _ = FromReader::decode(&bytes);
    }
}
