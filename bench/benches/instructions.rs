//! Instruction counts of the append path's parts under callgrind: the same on a busy machine as on a quiet one.
//!
//! Each has a hard limit, a fifth above what it took when it was set; going past it fails the run. Callgrind offers no
//! AVX-512, so checksums run in the instructions that it knows. `docs/benchmarks.md` says how to run it.

#![allow(missing_docs, reason = "the macros make undocumented items")]

use std::collections::BTreeMap;
use std::hint::black_box;

use firn_bench::wal::source::{SEGMENT_BYTES, VERSION, WalSource};
use firn_core::consensus::acceptor::Acceptor;
use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::state::TimelineState;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::journal::entry::{Entry, PreviousEnd};
use firn_core::journal::frame::{FrameForm, UseCrc};
use firn_core::journal::recovery::{Recovery, RecoveryInput, SegmentFile};
use firn_core::journal::segment::{FRAMES_OFFSET_BYTES, JournalNumber, SegmentHeader};
use firn_core::types::{Generation, Id, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::message::{self, Encode};
use firn_core::wire::walproposer::{
    AppendRequest, ProposerElected, ProposerMessage, ProtocolVersion, VoteRequest,
};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};

/// WAL of one append.
const WAL_BYTES: usize = 8192;
/// The segment that is recovered, and its frames.
const RECOVERED_BYTES: u64 = 256 << 10;
const FRAMES: u64 = 16;
const START: Lsn = Lsn(SEGMENT_BYTES as u64);
const TERM: Term = Term(1);

fn wal() -> Vec<u8> {
    let mut wal = Vec::new();
    WalSource::new(SystemId(7), START).next(WAL_BYTES, &mut wal);
    wal
}

fn append(wal: &[u8]) -> ProposerMessage<'_> {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: TERM,
        begin_lsn: START,
        commit_lsn: Lsn(0),
        truncate_lsn: Lsn(0),
        wal,
    })
}

fn create() -> Create {
    Create {
        membership: Membership::default(),
        postgres_version: PostgresVersion(VERSION.major() * 10_000),
        system_id: SystemId(7),
        segment_size_bytes: SEGMENT_BYTES,
        start_lsn: Lsn(0),
        commit_lsn: Lsn(0),
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        segment_bytes: RECOVERED_BYTES,
        journal: JournalNumber(0),
        place: 0,
        first_sequence: 1,
        life_id: Id([1; 16]),
        use_id: Id([2; 16]),
    }
}

fn change(wal: &[u8]) -> Change<'_> {
    let end = START + wal.len() as u64;
    Change::Append { term: TERM, begin: START, end, commit_lsn: Lsn(0), record_end: end, wal }
}

fn elected() -> Acceptor {
    let key = TimelineKey::default();
    let mut acceptor = Acceptor::new(key, NodeId(1), TimelineState::create(&create()));
    let vote = VoteRequest { generation: Generation(0), term: TERM };
    let elected = ProposerElected {
        generation: Generation(0),
        term: TERM,
        start_streaming_at: START,
        term_history: TermHistory(vec![TermStart { term: TERM, lsn: START }]),
    };
    for message in [ProposerMessage::VoteRequest(vote), ProposerMessage::Elected(elected)] {
        let step = acceptor.handle(&message).expect("an election on an empty log");
        let mark = step.mark;
        mark.into_iter().for_each(|mark| acceptor.durable(mark));
    }
    acceptor
}

fn encoded_append() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.message(b'd', |out| append(&wal()).encode(ProtocolVersion::V3, out));
    bytes
}

fn one_frame(
    header: &SegmentHeader,
    entry: &Entry<'_>,
    sequence: u64,
    previous: u32,
) -> (Vec<u8>, u32) {
    let mut buffer = vec![0; 4 * WAL_BYTES];
    let mut form = FrameForm::new(buffer.len());
    form.push(&mut buffer, entry);
    let finished = form.finish(&mut buffer, UseCrc::new(header), sequence, sequence - 1, previous);
    buffer.truncate(finished.frame_bytes);
    (buffer, finished.crc)
}

/// A segment that a life filled with appends of one timeline.
fn segment() -> (RecoveryInput, Vec<u8>) {
    let header = segment_header();
    let key = TimelineKey::default();
    let mut bytes = vec![0; RECOVERED_BYTES as usize];
    let encoded = header.encode();
    bytes[..encoded.len()].copy_from_slice(&encoded);
    let block = SegmentHeader::decode(&bytes).expect("a header that was just encoded");
    let input = RecoveryInput {
        journal: JournalNumber(0),
        segments: vec![SegmentFile { file: 0, block }],
        snapshot: None,
        other_journals: BTreeMap::new(),
    };
    let history = TermHistory(vec![TermStart { term: TERM, lsn: START }]);
    let mut source = WalSource::new(SystemId(7), START);
    let (mut at, mut previous) = (FRAMES_OFFSET_BYTES as usize, 0);
    for sequence in 1..=FRAMES {
        let begin = source.position();
        let mut wal = Vec::new();
        let entry = match sequence {
            1 => Entry::PreviousEnd(PreviousEnd { end: None, corrupt: false }),
            2 => Entry::Change(key, Change::Create(create())),
            3 => {
                let history = history.clone();
                Entry::Change(key, Change::Elected { term: TERM, history, truncate_to: START })
            }
            _ => {
                source.next(WAL_BYTES, &mut wal);
                let end = source.position();
                let (commit_lsn, wal) = (START, wal.as_slice());
                let append =
                    Change::Append { term: TERM, begin, end, commit_lsn, record_end: end, wal };
                Entry::Change(key, append)
            }
        };
        let (frame, crc) = one_frame(&header, &entry, sequence, previous);
        bytes[at..at + frame.len()].copy_from_slice(&frame);
        (at, previous) = (at + frame.len(), crc);
    }
    (input, bytes)
}

fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

#[library_benchmark(config = limit(57_000))]
#[bench::one_append(wal())]
fn frame_encode(wal: Vec<u8>) -> u32 {
    let entry = Entry::Change(TimelineKey::default(), change(&wal));
    black_box(one_frame(&segment_header(), &entry, 2, 1)).1
}

#[library_benchmark(config = limit(500))]
#[bench::one_append(encoded_append())]
fn append_decode(bytes: Vec<u8>) -> usize {
    let (message, _) = message::decode(&bytes).expect("well formed").expect("whole");
    match ProposerMessage::decode(ProtocolVersion::V3, message.payload) {
        Ok(ProposerMessage::Append(request)) => black_box(request).wal.len(),
        other => panic!("expected an append, found {other:?}"),
    }
}

#[library_benchmark(config = limit(5_700))]
#[bench::one_append((elected(), wal()))]
fn acceptor_step((mut acceptor, wal): (Acceptor, Vec<u8>)) -> Acceptor {
    let step = acceptor.handle(&append(&wal)).expect("the append follows the log's end");
    assert!(black_box(step).mark.is_some());
    acceptor
}

#[library_benchmark(config = limit(178_000))]
#[bench::one_segment(segment())]
fn recovery_scan((input, bytes): (RecoveryInput, Vec<u8>)) -> u64 {
    let mut recovery = Recovery::new(input).expect("the files belong together");
    while recovery.wanted().is_some() {
        recovery.segment(&bytes).expect("its frames fit the state");
    }
    let recovered = black_box(recovery.finish());
    assert_eq!(recovered.last_sequence, FRAMES);
    recovered.last_sequence
}

library_benchmark_group!(
    name = append_path;
    benchmarks = frame_encode, append_decode, acceptor_step, recovery_scan
);

main!(library_benchmark_groups = append_path);
