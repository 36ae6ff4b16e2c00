//! Hostile bytes never panic, never loop and never allocate without bound: decoders and the acceptor.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::System;

use cap::Cap;
use firn_core::api;
use firn_core::consensus::acceptor::{Acceptor, create_on_push};
use firn_core::consensus::state::TimelineState;
use firn_core::journal::layout::Layout;
use firn_core::journal::snapshot::Snapshot;
use firn_core::journal::{entry, frame, segment};
use firn_core::postgres::wal::{Decoder, RecordScanner, WalVersion};
use firn_core::types::{Lsn, NodeId, TimelineKey};
use firn_core::wire::postgres::message::{self, Backend, Frontend};
use firn_core::wire::postgres::{replication, startup};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use firn_node::wal_service::command::{self, Command};
use firn_tests::fuzz::{fuzz, mutate};
use firn_tests::recordings::{RecordKind, scenario, shared_directory, unpacked};
use firn_tests::simulation::random::Random;

/// An allocation past this fails, and ends the test: far above what any input of a megabyte may ask for.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 1 << 30);

/// Everything that one side of these scenarios' connections sent.
fn recorded(scenarios: &[&str], kind: RecordKind) -> Vec<Vec<u8>> {
    let connections = scenarios.iter().flat_map(|name| scenario(name).unwrap());
    connections
        .map(|(_, recording)| recording.joined(kind))
        .filter(|bytes| bytes.len() > 8)
        .collect()
}

/// The payloads of the CopyData messages of connections to acceptors, a few of each kind and size.
fn payloads(scenarios: &[&str], kind: RecordKind) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for bytes in recorded(scenarios, kind) {
        let mut rest = bytes.as_slice();
        if kind == RecordKind::ClientBytes {
            while let Ok(Some((_, length))) = startup::decode(rest) {
                rest = &rest[length..];
            }
        } else if rest.first() == Some(&b'N') {
            rest = &rest[1..];
        }
        while let Ok(Some((message, length))) = message::decode(rest) {
            if message.tag == b'd' {
                found.push(message.payload.to_vec());
            }
            rest = &rest[length..];
        }
    }
    assert!(!found.is_empty(), "the recordings have no CopyData");
    found
}

#[test]
fn postgres_messages() {
    let scenarios = ["e1-commands", "e5-acceptor-errors", "e2-start-replication"];
    let mut seeds = recorded(&scenarios, RecordKind::ClientBytes);
    seeds.extend(recorded(&scenarios, RecordKind::ServerBytes));
    fuzz("postgres_messages", &seeds, |input, _| {
        let mut rest = input;
        while let Ok(Some((_, length))) = startup::decode(rest) {
            assert!(length > 0, "nothing was consumed");
            rest = &rest[length..];
        }
        while let Ok(Some((message, length))) = message::decode(rest) {
            let _ = Frontend::from_message(message);
            let _ = Backend::from_message(message);
            let _ = replication::FromServer::decode(message.payload);
            let _ = replication::FromReader::decode(message.payload);
            assert!(length > 0, "nothing was consumed");
            rest = &rest[length..];
        }
    });
}

#[test]
fn commands() {
    let seeds = [
        "START_REPLICATION SLOT \"standby_1\" PHYSICAL 0/3000000 TIMELINE 2",
        "START_REPLICATION PHYSICAL 1/1736DF0 (term='17')",
        "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')",
        "SET_POSTGRES_HISTORY (term='5') [{\"timeline\":1,\"lsn\":\"0/0\"}]",
        "EXCHANGE_POSITIONS {\"node_id\":1,\"fresh\":true,\"positions\":[]}",
        "CREATE_REPLICATION_SLOT \"x\" TEMPORARY PHYSICAL (RESERVE_WAL)",
        "READ_REPLICATION_SLOT \"x\"",
        "TIMELINE_HISTORY 2",
        "SHOW wal_segment_size",
    ];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    fuzz("commands", &seeds, |input, _| {
        let text = String::from_utf8_lossy(input);
        match command::parse(&text) {
            Ok(Command::StartReplication(start)) => {
                assert!(start.slot.is_none_or(|name| (1..64).contains(&name.len())));
                assert!(start.timeline.is_none_or(|timeline| timeline.0 > 0));
            }
            Ok(_) => {}
            // What is repeated of a hostile command is short.
            Err(error) => assert!(error.to_string().len() < 512),
        }
    });
}

#[test]
fn walproposer_messages() {
    let scenarios = ["b1-first-start", "c4-divergence", "e5-acceptor-errors"];
    let mut seeds = payloads(&scenarios, RecordKind::ClientBytes);
    seeds.extend(payloads(&scenarios, RecordKind::ServerBytes));
    fuzz("walproposer_messages", &seeds, |input, _| {
        for version in [ProtocolVersion::V2, ProtocolVersion::V3] {
            if let Ok(decoded) = ProposerMessage::decode(version, input) {
                let mut encoded = Vec::new();
                decoded.encode(version, &mut encoded);
                assert_eq!(ProposerMessage::decode(version, &encoded).unwrap(), decoded);
            }
            if let Ok(decoded) = AcceptorMessage::decode(version, input) {
                let mut encoded = Vec::new();
                decoded.encode(version, &mut encoded);
                assert_eq!(AcceptorMessage::decode(version, &encoded).unwrap(), decoded);
            }
        }
    });
}

/// Plays a stretch of recorded messages, some of them mutated or left out, to an acceptor; what it promised stays.
#[test]
fn acceptor() {
    const MESSAGES_MAX: u64 = 60;
    let seeds = payloads(&["c4-divergence", "e5-acceptor-errors"], RecordKind::ClientBytes);
    fuzz("acceptor", &seeds, |_, random| {
        let mut acceptor: Option<Acceptor> = None;
        let first = random.index(seeds.len());
        for number in 0..random.below(MESSAGES_MAX) as usize {
            let mut input = seeds[(first + number) % seeds.len()].clone();
            if random.percent(30) {
                mutate(&mut input, &seeds, random);
            }
            let Ok(message) = ProposerMessage::decode(ProtocolVersion::V3, &input) else {
                continue;
            };
            match &mut acceptor {
                None => acceptor = begin(&message),
                Some(acceptor) if random.percent(90) => step(acceptor, &message, random),
                Some(_) => {}
            }
        }
    });
}

fn step(acceptor: &mut Acceptor, message: &ProposerMessage<'_>, random: &mut Random) {
    let before = acceptor.state().clone();
    match acceptor.handle(message) {
        Ok(step) => {
            if let Some(mark) = step.mark.filter(|_| random.percent(70)) {
                acceptor.durable(mark);
            }
        }
        Err(_) => assert_eq!(acceptor.state(), &before, "a refused message changed the state"),
    }
    let after = acceptor.state();
    assert!(after.term >= before.term && after.commit_lsn >= before.commit_lsn);
    assert!(after.write_lsn >= after.commit_lsn && after.commit_lsn <= after.record_end_lsn);
}

/// The acceptor of the timeline that a greeting names.
fn begin(message: &ProposerMessage<'_>) -> Option<Acceptor> {
    let ProposerMessage::Greeting(greeting) = message else { return None };
    let key =
        TimelineKey { tenant_id: greeting.key.tenant_id, timeline_id: greeting.key.timeline_id };
    let create = create_on_push(key, greeting, true).ok()?;
    Some(Acceptor::new(key, NodeId(1), TimelineState::create(&create)))
}

#[test]
fn wal() {
    const SEGMENT_SIZE_BYTES: u32 = 16 << 20;
    let folder = shared_directory().unwrap().join("golden/neon/redo/wal");
    let segment = unpacked(&folder.join("000000010000000000000001.zst")).unwrap();
    // Windows of a few pages; the WAL of this segment begins behind its first 5 MB.
    let seeds: Vec<Vec<u8>> =
        segment.chunks(4 * 8192).skip(160).take(200).map(<[u8]>::to_vec).collect();
    fuzz("wal", &seeds, |input, random| {
        let start = Lsn(0x100_0000 + random.below(512) * 8192);
        let mut scanner = RecordScanner::new(start, SEGMENT_SIZE_BYTES);
        let mut decoder = Decoder::new(start, SEGMENT_SIZE_BYTES, WalVersion::from_major(17));
        let mut rest = input;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.index(rest.len()));
            scanner.push(piece);
            assert!(scanner.record_end() >= start);
            let mut piece = piece;
            while let Ok(Some(record)) = decoder.next(&mut piece) {
                assert!(record.end > record.start);
                for block in record.blocks() {
                    let _ = (block.tag(), block.data().len(), block.image().is_some());
                }
            }
            rest = after;
        }
        assert_eq!(scanner.position(), Lsn(start.0 + input.len() as u64));
    });
}

#[test]
fn journal_files() {
    let noise = |random: &mut Random, length: u64| {
        (0..length).map(|_| random.below(256) as u8).collect::<Vec<u8>>()
    };
    let mut random = Random::new(1);
    let mut seeds = vec![Layout::first(3).encode(), Layout::first(1).next(8).encode()];
    for magic in [&b"FIRNSEGM"[..], b"FIRNSNAP", b"FRAM"] {
        let mut file = magic.to_vec();
        file.extend(1_u32.to_le_bytes());
        file.extend(noise(&mut random, 8192));
        seeds.push(file);
    }
    fuzz("journal_files", &seeds, |input, _| {
        let _ = Layout::decode(input);
        let _ = Snapshot::decode(input);
        let _ = segment::SegmentHeader::decode(input);
        let _ = frame::peek(input);
        let mut rest = input;
        while let Ok((bytes, after)) = entry::EntryBytes::split(rest) {
            let _ = bytes.decode();
            assert!(after.len() < rest.len(), "nothing was consumed");
            rest = after;
        }
    });
}

#[test]
fn http_bodies() {
    let path = shared_directory().unwrap().join("golden/neon/http/safekeeper.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut seeds = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for body in [&line["request"]["body"], &line["response"]["body"]] {
            seeds.push(body.to_string().into_bytes());
        }
    }
    fuzz("http_bodies", &seeds, |input, _| {
        let _ = serde_json::from_slice::<api::CreateTimeline>(input);
        let _ = serde_json::from_slice::<api::TimelineStatus>(input);
        let _ = serde_json::from_slice::<api::TermBump>(input);
        let _ = serde_json::from_slice::<firn_core::consensus::membership::Membership>(input);
    });
}
