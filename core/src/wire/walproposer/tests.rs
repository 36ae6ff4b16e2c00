use proptest::prelude::*;

use super::*;
use crate::consensus::membership::Member;
use crate::types::*;

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V2, ProtocolVersion::V3];

fn term_history() -> impl Strategy<Value = TermHistory> {
    let start = (any::<u64>(), any::<u64>())
        .prop_map(|(term, lsn)| TermStart { term: Term(term), lsn: Lsn(lsn) });
    prop::collection::vec(start, 0..20).prop_map(TermHistory)
}

fn membership() -> impl Strategy<Value = Membership> {
    let list = || {
        prop::collection::btree_map(1..u64::MAX, ("[a-z0-9.]{1,20}", any::<u16>()), 1..5).prop_map(
            |members| -> Vec<Member> {
                let member = |(id, (host, pg_port))| Member { id: NodeId(id), host, pg_port };
                members.into_iter().map(member).collect()
            },
        )
    };
    (any::<u32>(), list(), prop::option::of(list())).prop_map(
        |(generation, members, new_members)| Membership {
            generation: Generation(generation),
            members,
            new_members,
        },
    )
}

fn key() -> impl Strategy<Value = TimelineKey> {
    (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(tenant, timeline)| TimelineKey {
        tenant_id: TenantId(Id(tenant)),
        timeline_id: TimelineId(Id(timeline)),
    })
}

fn feedback() -> impl Strategy<Value = PageserverFeedback> {
    (any::<[u64; 5]>(), any::<u32>(), any::<bool>()).prop_map(
        |(numbers, shard_number, corruption_detected)| PageserverFeedback {
            timeline_size_bytes: numbers[0],
            received_lsn: Lsn(numbers[1]),
            disk_consistent_lsn: Lsn(numbers[2]),
            remote_consistent_lsn: Lsn(numbers[3]),
            reply_time_us: numbers[4] as i64,
            shard_number,
            corruption_detected,
        },
    )
}

fn proposer_message(wal: &[u8]) -> impl Strategy<Value = ProposerMessage<'_>> {
    let greeting = (key(), membership(), any::<(u32, u64, u32)>()).prop_map(
        |(key, membership, (version, system, segment))| {
            ProposerMessage::Greeting(ProposerGreeting {
                key,
                membership,
                postgres_version: PostgresVersion(version),
                system_id: SystemId(system),
                segment_size_bytes: segment,
            })
        },
    );
    let vote = any::<(u32, u64)>().prop_map(|(generation, term)| {
        let (generation, term) = (Generation(generation), Term(term));
        ProposerMessage::VoteRequest(VoteRequest { generation, term })
    });
    let elected = (any::<(u32, u64, u64)>(), term_history()).prop_map(
        |((generation, term, start), term_history)| {
            ProposerMessage::Elected(ProposerElected {
                generation: Generation(generation),
                term: Term(term),
                start_streaming_at: Lsn(start),
                term_history,
            })
        },
    );
    let append = (any::<(u32, u64, u32, u64, u64)>(), 0..wal.len()).prop_map(
        |((generation, term, begin, commit, truncate), len)| {
            ProposerMessage::Append(AppendRequest {
                generation: Generation(generation),
                term: Term(term),
                begin_lsn: Lsn(begin.into()),
                commit_lsn: Lsn(commit),
                truncate_lsn: Lsn(truncate),
                wal: &wal[..len],
            })
        },
    );
    prop_oneof![greeting, vote, elected, append]
}

fn acceptor_message() -> impl Strategy<Value = AcceptorMessage> {
    let greeting = (any::<(u64, u64)>(), membership()).prop_map(|((id, term), membership)| {
        let (node_id, term) = (NodeId(id), Term(term));
        AcceptorMessage::Greeting(AcceptorGreeting { node_id, membership, term })
    });
    let vote = (any::<(u32, u64, bool, u64, u64)>(), term_history()).prop_map(
        |((generation, term, vote_given, flush, truncate), term_history)| {
            AcceptorMessage::VoteResponse(VoteResponse {
                generation: Generation(generation),
                term: Term(term),
                vote_given,
                flush_lsn: Lsn(flush),
                truncate_lsn: Lsn(truncate),
                term_history,
            })
        },
    );
    let append = (any::<(u32, [u64; 5], i64)>(), prop::option::of(feedback())).prop_map(
        |((generation, numbers, timestamp_us), pageserver)| {
            AcceptorMessage::AppendResponse(AppendResponse {
                generation: Generation(generation),
                term: Term(numbers[0]),
                flush_lsn: Lsn(numbers[1]),
                commit_lsn: Lsn(numbers[2]),
                hot_standby: HotStandbyFeedback {
                    timestamp_us,
                    xmin: numbers[3],
                    catalog_xmin: numbers[4],
                },
                pageserver,
            })
        },
    );
    prop_oneof![greeting, vote, append]
}

/// What is left of a message in version 2, which has no membership.
fn without_membership(mut message: ProposerMessage<'_>) -> ProposerMessage<'_> {
    match &mut message {
        ProposerMessage::Greeting(greeting) => greeting.membership = Membership::default(),
        ProposerMessage::VoteRequest(request) => request.generation = Generation(0),
        ProposerMessage::Elected(elected) => elected.generation = Generation(0),
        ProposerMessage::Append(request) => request.generation = Generation(0),
    }
    message
}

fn acceptor_without_membership(mut message: AcceptorMessage) -> AcceptorMessage {
    match &mut message {
        AcceptorMessage::Greeting(greeting) => greeting.membership = Membership::default(),
        AcceptorMessage::VoteResponse(response) => response.generation = Generation(0),
        AcceptorMessage::AppendResponse(response) => response.generation = Generation(0),
    }
    message
}

static WAL: [u8; 4096] = [0xAB; 4096];

proptest! {
    #[test]
    fn proposer_messages_read_back(message in proposer_message(&WAL), extra in 0..3usize) {
        for version in VERSIONS {
            let mut bytes = Vec::new();
            message.encode(version, &mut bytes);
            bytes.extend_from_slice(&[7; 3][..extra]);
            let expected = match version {
                ProtocolVersion::V2 => without_membership(message.clone()),
                ProtocolVersion::V3 => message.clone(),
            };
            prop_assert_eq!(ProposerMessage::decode(version, &bytes), Ok(expected));
        }
    }

    #[test]
    fn acceptor_messages_read_back_and_allow_no_extra_byte(message in acceptor_message()) {
        for version in VERSIONS {
            let mut bytes = Vec::new();
            message.encode(version, &mut bytes);
            let expected = match version {
                ProtocolVersion::V2 => acceptor_without_membership(message.clone()),
                ProtocolVersion::V3 => message.clone(),
            };
            prop_assert_eq!(AcceptorMessage::decode(version, &bytes), Ok(expected));
            bytes.push(0xFF);
            prop_assert!(AcceptorMessage::decode(version, &bytes).is_err());
        }
    }

    #[test]
    fn a_cut_proposer_message_is_an_error(message in proposer_message(&WAL), cut in any::<prop::sample::Index>()) {
        for version in VERSIONS {
            // Behind a version 2 vote stand 16 bytes that no one reads.
            if version == ProtocolVersion::V2 && matches!(message, ProposerMessage::VoteRequest(_)) {
                continue;
            }
            let mut bytes = Vec::new();
            message.encode(version, &mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(ProposerMessage::decode(version, &bytes).is_err());
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_or_a_message(
        tag in prop::sample::select(b"gvea".to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut v2 = u64::from(tag).to_le_bytes().to_vec();
        v2.extend_from_slice(&body);
        let v3 = [&[tag][..], &body].concat();
        for (version, bytes) in [(ProtocolVersion::V2, v2), (ProtocolVersion::V3, v3)] {
            let _ = ProposerMessage::decode(version, &bytes);
            let _ = AcceptorMessage::decode(version, &bytes);
            let _ = ProposerMessage::decode(version, &body);
        }
        let _ = PageserverFeedback::decode(&body);
    }
}

#[test]
fn counts_that_lie_allocate_nothing() {
    // An elected message that promises 2^32 - 1 entries, and one within the bound without its bytes.
    for count in [u32::MAX, TERMS_MAX as u32] {
        let bytes = [&[b'e'][..], &[0; 20], &count.to_be_bytes()].concat();
        assert!(ProposerMessage::decode(ProtocolVersion::V3, &bytes).is_err());
    }
    let bytes = [&[b'g'][..], &[0; 8], &[0, 0, 0, 1], &u32::MAX.to_be_bytes()].concat();
    assert!(AcceptorMessage::decode(ProtocolVersion::V3, &bytes).is_err());
}

#[test]
fn an_append_has_bounds() {
    let append = |begin: u64, end: u64, len: usize| {
        let mut bytes = [&[b'a'][..], &[0; 12]].concat();
        for lsn in [begin, end, 0, 0] {
            bytes.extend_from_slice(&lsn.to_be_bytes());
        }
        bytes.extend_from_slice(&vec![1; len]);
        bytes
    };
    let decode = |bytes: &[u8]| ProposerMessage::decode(ProtocolVersion::V3, bytes).map(|_| ());
    assert_eq!(decode(&append(8, 8 + 131072, 131072)), Ok(()));
    assert!(decode(&append(8, 8 + 131073, 131073)).is_err());
    assert!(decode(&append(8, 7, 0)).is_err());
    assert!(decode(&append(0, u64::MAX, 10)).is_err());
    assert!(decode(&append(8, 10, 1)).is_err());
}

#[test]
fn unknown_feedback_is_skipped_and_aliases_are_read() {
    let bytes = [
        &[2u8][..],
        b"something_new\0\0\0\0\x03abc",
        b"disk_consistent_lsn\0\0\0\0\x08\0\0\0\0\0\0\0\x10",
    ]
    .concat();
    let feedback = PageserverFeedback::decode(&bytes).unwrap();
    assert_eq!(feedback.disk_consistent_lsn, Lsn(16));
    let negative = [&[1u8][..], b"x\0\xFF\xFF\xFF\xFF"].concat();
    assert!(PageserverFeedback::decode(&negative).is_err());
    let short = [&[1u8][..], b"ps_writelsn\0\0\0\0\x04\0\0\0\x10"].concat();
    assert!(PageserverFeedback::decode(&short).is_err());
}
