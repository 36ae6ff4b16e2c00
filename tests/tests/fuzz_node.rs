//! A node's disk and its doors against hostile bytes: journals written by the real thing and then changed, and a node
//! process that is sent what no client or operator would send.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cap::Cap;
use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::journal::BLOCK_BYTES;
use firn_core::journal::entry::EntryBytes;
use firn_core::journal::recovery::{Recovered, Recovery, RecoveryInput, SegmentFile};
use firn_core::journal::segment::{
    FRAMES_OFFSET_BYTES, HEADER_BYTES, HeaderBlock, JournalNumber, SegmentHeader,
};
use firn_core::journal::snapshot::Snapshot;
use firn_core::journal::state::ShardState;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::journal::{entry, frame};
use firn_core::types::*;
use firn_core::wire::postgres::startup::{self, SSL_REQUEST_PACKET, encode_startup};
use firn_node::journal::{Journal, JournalOptions};
use firn_node::runtime::{Runtime, block_on};
use firn_tests::certificates::Authority;
use firn_tests::fuzz::{fuzz, mutate};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::recordings::{RecordKind, scenario, shared_directory};
use firn_tests::simulation::random::Random;
use firn_tools::client::NodeClient;
use firn_tools::local::process::resident_bytes;
use futures_util::future::{Either, select};

/// An allocation past this fails, and ends the test: far above what any journal or message here may ask for.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 1 << 30);

/// How long anything may take that must end: hours of a machine's bad days.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory of a node that was sent nothing but nonsense.
const NODE_MEMORY_BYTES_MAX: u64 = 1 << 30;
const START: Lsn = Lsn(0x50_1238);
const JOURNAL: JournalNumber = JournalNumber(0);
const TIMELINES: u8 = 3;

fn timeline(number: u8) -> TimelineKey {
    TimelineKey { tenant_id: TenantId(Id([number; 16])), timeline_id: TimelineId(Id([number; 16])) }
}

/// What a life of a journal does here: terms, votes and WAL of every timeline. Its end cuts off what it does beside that.
async fn live(runtime: &Runtime, data: &Path, life: u64, appends: u64) {
    let opened = Journal::open(runtime, data, JOURNAL, JournalOptions::small()).await;
    let (journal, _) = opened.unwrap();
    let mut random = Random::new(life);
    for number in 1..=TIMELINES {
        let key = timeline(number);
        let end = journal.state().timelines.get(&key).map(|timeline| timeline.state.write_lsn);
        let mut end = match end {
            Some(end) => end,
            None => {
                let membership =
                    Membership { generation: Generation(1), members: vec![], new_members: None };
                let create = Create {
                    membership,
                    postgres_version: PostgresVersion(170_006),
                    system_id: SystemId(1),
                    segment_size_bytes: 1 << 20,
                    start_lsn: START,
                    commit_lsn: START,
                };
                journal.append(key, Change::Create(create)).unwrap();
                START
            }
        };
        let (term, mut starts) = (Term(2 * life), Vec::new());
        starts.push(TermStart { term: Term(1), lsn: START });
        if life > 1 {
            starts.push(TermStart { term, lsn: end });
        }
        let elected = Change::Elected { term, history: TermHistory(starts), truncate_to: end };
        journal.append(key, elected).unwrap();
        for _ in 0..appends {
            journal.ready(key).await.unwrap();
            let wal = vec![number; 1 + random.index(if number == 1 { 9000 } else { 300 })];
            let begin = end;
            end = end + wal.len() as u64;
            let append =
                Change::Append { term, begin, end, commit_lsn: begin, record_end: end, wal: &wal };
            let ticket = journal.append(key, append).unwrap();
            if random.percent(10) {
                journal.durable(&ticket).await.unwrap();
            }
        }
        let vote = journal.append(key, Change::Vote { term: Term(2 * life + 1) }).unwrap();
        journal.witnessed(&vote).await.unwrap();
    }
    journal.close().await;
}

/// A data directory as it lies on the disk.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn read_image(directory: &Path) -> Image {
    let mut image = Image::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_path_buf();
                image.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    image
}

/// Journals that were really written: one young, one whose ring has turned, with snapshots and moved WAL.
fn images() -> Vec<Image> {
    [(1, 5), (2, 60), (2, 300)]
        .map(|(lives, appends)| {
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            let data = directory.path().to_path_buf();
            block_on(move |runtime| async move {
                for life in 1..=lives {
                    live(&runtime, &data, life, appends).await;
                }
            })
            .unwrap();
            read_image(directory.path())
        })
        .to_vec()
}

fn is_snapshot(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("SNAPSHOT")
}

fn is_segment(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("SEGMENT-")
}

/// Changes some bytes, as disks and attackers do. `true`: checksums were made to fit, so that nothing is known any more.
fn change(image: &mut Image, random: &mut Random) -> bool {
    let names: Vec<PathBuf> = image.keys().cloned().collect();
    let mut changed = Vec::new();
    for _ in 0..=random.below(3) {
        let other = image[&names[random.index(names.len())]].clone();
        let name = &names[random.index(names.len())];
        let bytes = image.get_mut(name).unwrap();
        changed.push(name.clone());
        if bytes.is_empty() {
            continue;
        }
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let at = random.index(used);
        let (sector, block) = (at - at % 512, at - at % BLOCK_BYTES);
        match random.below(8) {
            0 => bytes[sector..(sector + 512).min(used)].fill(0),
            1 => bytes.truncate(block),
            2 if block + BLOCK_BYTES <= bytes.len() && other.len() >= BLOCK_BYTES => {
                let from = random.index(other.len() / BLOCK_BYTES) * BLOCK_BYTES;
                bytes[block..block + BLOCK_BYTES].copy_from_slice(&other[from..from + BLOCK_BYTES]);
            }
            3 => *bytes = other,
            // The first bytes of a block are headers.
            4 | 5 => {
                let field = block + 4 * random.index(24);
                if field + 4 <= bytes.len() {
                    let values = [0, 1, 7, 8, 4095, 4096, 1 << 20, 1 << 31, u32::MAX];
                    let value: u32 = values[random.index(values.len())];
                    bytes[field..field + 4].copy_from_slice(&value.to_le_bytes());
                }
            }
            6 => mutate(bytes, &[other], random),
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    let forged = random.percent(60);
    if forged {
        for name in &changed {
            let bytes = image.get_mut(name).unwrap();
            if is_snapshot(name) {
                fit_crc(bytes, 12, 0);
            } else if is_segment(name) && bytes.len() > HEADER_BYTES {
                fit_segment(bytes);
            }
        }
    }
    forged
}

/// Writes the CRC32C of everything but the field itself, continuing `crc`.
fn fit_crc(bytes: &mut [u8], field: usize, crc: u32) -> u32 {
    if bytes.len() < field + 4 {
        return 0;
    }
    let crc = crc32c::crc32c_append(crc, &bytes[..field]);
    let crc = crc32c::crc32c_append(crc, &bytes[field + 4..]);
    bytes[field..field + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Makes every checksum in a segment fit what it covers: header, frames, their chain, entries.
fn fit_segment(bytes: &mut [u8]) {
    const PREVIOUS_CRC: usize = 28;
    const FRAME_CRC: usize = 36;
    fit_crc(&mut bytes[..HEADER_BYTES], 12, 0);
    let Ok(HeaderBlock::Valid(header)) = SegmentHeader::decode(bytes) else { return };
    let use_crc = crc32c::crc32c_append(crc32c::crc32c(&header.life_id.0), &header.use_id.0);
    let mut at = FRAMES_OFFSET_BYTES as usize;
    let mut previous = None;
    while let Some(rest) = bytes.get_mut(at..) {
        let Ok(found) = frame::peek(rest) else { return };
        let whole = &mut rest[..found.frame_bytes as usize];
        let mut entry_at = frame::HEADER_BYTES;
        let end = frame::HEADER_BYTES + found.entries_bytes as usize;
        while let Some(length) = whole[..end].get(entry_at..entry_at + 4) {
            let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
            let Some(entry) = whole[..end].get_mut(entry_at..entry_at + length.max(8)) else {
                break;
            };
            fit_crc(entry, 4, 0);
            entry_at += length.max(8);
        }
        if let Some(previous) = previous {
            whole[PREVIOUS_CRC..PREVIOUS_CRC + 4].copy_from_slice(&u32::to_le_bytes(previous));
        }
        previous = Some(fit_crc(whole, FRAME_CRC, use_crc));
        at += found.frame_bytes as usize;
    }
}

/// Recovery of a journal's files, as opening does it.
fn recover(image: &Image) -> Result<Recovered, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut segments, mut files) = (Vec::new(), Vec::new());
    for (_, bytes) in image.iter().filter(|(name, _)| is_segment(name)) {
        let block = match bytes.get(..BLOCK_BYTES) {
            Some(block) => SegmentHeader::decode(block).map_err(|error| text(&error))?,
            None => HeaderBlock::Blank,
        };
        segments.push(SegmentFile { file: files.len() as u32, block });
        files.push(bytes);
    }
    let snapshots = image.iter().rev().filter(|(name, _)| is_snapshot(name));
    let snapshot = snapshots.map(|(_, bytes)| Snapshot::decode(bytes)).find_map(Result::ok);
    let input =
        RecoveryInput { journal: JOURNAL, segments, snapshot, other_journals: BTreeMap::new() };
    let mut recovery = Recovery::new(input).map_err(|error| text(&error))?;
    let mut steps = 0;
    while let Some(file) = recovery.wanted() {
        steps += 1;
        assert!(steps <= 8 * (files.len() + 1), "recovery reads {} files for ever", files.len());
        recovery.segment(files[file as usize]).map_err(|error| text(&error))?;
    }
    Ok(recovery.finish())
}

#[test]
fn journal_recovery() {
    let mut images = images();
    for image in &mut images {
        image.retain(|name, _| is_segment(name) || is_snapshot(name));
    }
    let whole: Vec<Recovered> = images.iter().map(|image| recover(image).unwrap()).collect();
    assert!(whole.iter().all(|recovered| recovered.corruption.is_none()));
    fuzz("journal_recovery", &[vec![0]], |_, random| {
        let chosen = random.index(images.len());
        let (mut image, whole) = (images[chosen].clone(), &whole[chosen]);
        let forged = change(&mut image, random);
        let Ok(found) = recover(&image) else { return };
        if forged {
            return;
        }
        // Nobody forged a checksum: what is found is a prefix of what was written.
        assert!(found.last_sequence <= whole.last_sequence);
        for (key, timeline) in &found.state.timelines {
            let written = &whole.state.timelines[key].state;
            assert!(timeline.state.term <= written.term);
            assert!(timeline.state.commit_lsn <= written.commit_lsn);
            assert!(timeline.state.write_lsn <= written.write_lsn);
        }
        if found.last_sequence == whole.last_sequence {
            assert_eq!(found.state.timelines, whole.state.timelines);
        }
    });
}

/// The real journal opens what was changed: it refuses, or serves what it has.
#[test]
fn journal_opening() {
    let images = images();
    fuzz("journal_opening", &[vec![0]], |_, random| {
        let mut image = images[random.index(images.len())].clone();
        change(&mut image, random);
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        for (name, bytes) in &image {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let data = directory.path().to_path_buf();
        let opened = block_on(move |runtime| async move {
            let opening = Box::pin(open_and_use(&runtime, &data));
            match select(opening, Box::pin(runtime.sleep(PATIENCE))).await {
                Either::Left(_) => {}
                Either::Right(_) => panic!("a journal neither opens nor refuses"),
            }
        });
        opened.unwrap();
    });
}

async fn open_and_use(runtime: &Runtime, data: &Path) {
    let opened = Journal::open(runtime, data, JOURNAL, JournalOptions::small()).await;
    let Ok((journal, _)) = opened else { return };
    let keys: Vec<_> = {
        let state = journal.state();
        let timelines = state.timelines.iter();
        timelines.map(|(key, timeline)| (*key, timeline.state.clone())).collect()
    };
    for (key, state) in keys {
        for at in [START, state.commit_lsn] {
            let _ = journal.read_wal(key, at, 10_000).await;
        }
        if let Ok(ticket) = journal.append(key, Change::Vote { term: Term(state.term.0 | 64) }) {
            let _ = journal.durable(&ticket).await;
        }
    }
    journal.close().await;
}

/// Snapshots and entries whose checksums fit whatever stands in them.
#[test]
fn journal_formats_with_fitting_checksums() {
    let mut snapshots = Vec::new();
    let mut entries = Vec::new();
    for (name, bytes) in images().into_iter().flatten() {
        if is_snapshot(&name) {
            snapshots.push(bytes);
        } else if is_segment(&name) {
            let mut at = FRAMES_OFFSET_BYTES as usize;
            while let Some(Ok(header)) = bytes.get(at..).map(frame::peek) {
                let mut rest = &bytes[at + frame::HEADER_BYTES..][..header.entries_bytes as usize];
                while let Ok((_, after)) = EntryBytes::split(rest) {
                    if entries.len() < 2000 {
                        entries.push(rest[..rest.len() - after.len()].to_vec());
                    }
                    rest = after;
                }
                at += header.frame_bytes as usize;
            }
        }
    }
    // A journal that was closed while it wrote a snapshot leaves half of one behind.
    let (snapshots, states): (Vec<Vec<u8>>, Vec<ShardState>) = snapshots
        .into_iter()
        .filter_map(|bytes| Snapshot::decode(&bytes).ok().map(|found| (bytes, found.state)))
        .unzip();
    assert!(!snapshots.is_empty(), "no snapshots");
    assert!(!entries.is_empty(), "no entries");
    fuzz("journal_formats_with_fitting_checksums", &entries, |input, random| {
        let chosen = random.index(snapshots.len());
        let mut snapshot = snapshots[chosen].clone();
        for _ in 0..random.below(4) {
            mutate(&mut snapshot, &snapshots, random);
        }
        snapshot.resize(snapshot.len().next_multiple_of(BLOCK_BYTES), 0);
        let length = snapshot.len() as u64;
        if let Some(field) = snapshot.get_mut(16..24) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        fit_crc(&mut snapshot, 12, 0);
        let state = Snapshot::decode(&snapshot).map(|snapshot| snapshot.state);
        let mut state = state.unwrap_or_else(|_| states[chosen].clone());

        let mut bytes = input.to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let length = bytes.len() as u32;
        if let Some(field) = bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        fit_crc(&mut bytes, 4, 0);
        if let Ok((found, _)) = EntryBytes::split(&bytes)
            && let Ok(found) = found.decode()
        {
            let mut again = vec![0; found.encoded_bytes()];
            found.encode(&mut again);
            let again = EntryBytes::split(&again).unwrap().0.decode().unwrap();
            assert_eq!(format!("{again:?}"), format!("{found:?}"));
            let _: Result<(), entry::EntryError> = found.check();
            let _ = state.apply(&found, SegmentPlace { journal: JOURNAL, place: 9 });
        }
    });
}

fn startup_seeds() -> Vec<Vec<u8>> {
    let key =
        "tenant_id=11110000000000000000000000000005 timeline_id=22220000000000000000000000000501";
    let options = [
        format!("-c {key}"),
        format!("-c {key} protocol={{\"type\":\"vanilla\"}}"),
        format!("-c {key} protocol={{\"type\":\"interpreted\"}} a\\ b=c"),
        "ztenantid=xyz".to_string(),
    ];
    let mut seeds: Vec<Vec<u8>> = options
        .iter()
        .map(|options| {
            encode_startup(&[
                ("user", "firn"),
                ("database", "replication"),
                ("application_name", "wal_proposer_recovery"),
                ("options", options),
            ])
        })
        .collect();
    seeds.push(SSL_REQUEST_PACKET.to_vec());
    seeds.push([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30].to_vec());
    seeds.push([0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 0, 0, 0, 2].to_vec());
    seeds
}

#[test]
fn startup_packets() {
    fuzz("startup_packets", &startup_seeds(), |input, _| {
        let Ok(Some((packet, length))) = startup::decode(input) else { return };
        assert!((8..=input.len()).contains(&length));
        // More bytes behind a packet change nothing, fewer are not enough.
        let longer = [input, &[7; 9]].concat();
        assert_eq!(startup::decode(&longer).unwrap(), Some((packet, length)));
        assert_eq!(startup::decode(&input[..length - 1]), Ok(None));
    });
}

/// A node of its own, in memory, replaced before its disk grows large.
struct Target {
    node: NodeProcess,
    /// Goes away after the node.
    _folder: tempfile::TempDir,
    inputs: u32,
}

/// Inputs after which a fresh node takes over.
const INPUTS_PER_NODE: u32 = 2000;

impl Target {
    fn new() -> Target {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let shown = Authority::new(folder.path()).unwrap().issue("node").unwrap();
        let options = NodeOptions { shards: Some(2), volatile: false, arguments: Vec::new() };
        let mut node = NodeProcess::new("node", folder.path(), options).unwrap();
        let (certificate, key) = (shown.certificate.to_str().unwrap(), shown.key.to_str().unwrap());
        node.add_arguments(&["--tls-cert", certificate, "--tls-key", key, "--log", "error"]);
        node.start().unwrap();
        Target { node, _folder: folder, inputs: 0 }
    }

    /// The node lives, answers, and has not grown.
    fn check(&mut self) {
        assert!(self.node.is_running().unwrap(), "the node ended: {}", self.log());
        NodeClient::new(&self.node.url().unwrap(), None).status().unwrap();
        assert!(!self.log().contains("panicked"), "{}", self.log());
        let bytes = resident_bytes(self.node.pid().unwrap()).unwrap();
        assert!(bytes < NODE_MEMORY_BYTES_MAX, "the node holds {bytes} bytes");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.log()).unwrap()
    }

    fn next(&mut self) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(100) {
            self.check();
        }
        if self.inputs == INPUTS_PER_NODE {
            *self = Target::new();
        }
    }
}

/// The first bytes of a real TLS client.
fn client_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-alpn", "postgresql", "-connect", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs openssl: apt-get install openssl");
    let mut hello = vec![0; 4096];
    let count = listener.accept().unwrap().0.read(&mut hello).unwrap();
    hello.truncate(count);
    let _ = client.kill();
    let _ = client.wait();
    hello
}

/// Sends bytes, says that no more come, and waits until the node has closed.
fn send_and_end(address: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    for piece in pieces {
        // The node may have had enough already.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("the node does not close a connection that its client has left")
        }
        // Closed with bytes unread is a reset.
        _ => answer,
    }
}

/// Whole conversations of recorded clients, changed, to a node process.
#[test]
fn node_connections() {
    let mut seeds = startup_seeds();
    let hello = client_hello();
    seeds.push([&SSL_REQUEST_PACKET[..], &hello].concat());
    seeds.push(hello);
    for name in [
        "b1-first-start",
        "c4-divergence",
        "e1-commands",
        "e2-start-replication",
        "e5-acceptor-errors",
    ] {
        let connections = scenario(name).unwrap();
        let sent =
            connections.into_iter().map(|(_, recording)| recording.joined(RecordKind::ClientBytes));
        seeds.extend(sent.map(|mut bytes| {
            bytes.truncate(256 * 1024);
            bytes
        }));
    }
    let mut target = Target::new();
    fuzz("node_connections", &seeds, |input, random| {
        let (first, second) = input.split_at(random.index(input.len() + 1));
        let address = target.node.pg_address().unwrap();
        if random.percent(10) {
            // A client that is gone before it is answered.
            let _ = TcpStream::connect(&address).unwrap().write_all(first);
        } else {
            send_and_end(&address, &[first, second]);
        }
        target.next();
    });
    target.check();
}

#[test]
fn http_requests() {
    let tenant = "11110000000000000000000000000005";
    let id = "22220000000000000000000000000501";
    let timeline = format!("/v1/tenant/{tenant}/timeline/{id}");
    let of_timeline = |rest: &str| format!("{timeline}{rest}");
    let routes = [
        ("POST", "/v1/tenant/timeline".to_string()),
        ("PUT", of_timeline("/membership")),
        ("PUT", of_timeline("/exclude")),
        ("POST", of_timeline("/term_bump")),
        ("POST", of_timeline("/accept_loss")),
        ("GET", of_timeline("")),
        ("GET", of_timeline("/wal/000000010000000000000001")),
        ("GET", "/metrics".to_string()),
        ("DELETE", timeline.clone()),
        ("DELETE", format!("/v1/tenant/{tenant}")),
    ];
    let membership = r#"{"generation":1,"members":[{"id":7,"host":"127.0.0.1","pg_port":1}],"new_members":null}"#;
    let create = format!(
        r#"{{"tenant_id":"{tenant}","timeline_id":"{id}","mconf":{membership},"pg_version":170006,"system_id":7,"wal_seg_size":16777216,"start_lsn":"0/1500000"}}"#
    );
    let mut seeds = vec![create.into_bytes(), membership.into(), br#"{"term":5}"#.to_vec()];
    seeds.push(format!(r#"{{"mconf":{membership}}}"#).into_bytes());
    let path = shared_directory().unwrap().join("golden/neon/http/safekeeper.jsonl");
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        seeds.push(line["request"]["body"].to_string().into_bytes());
    }
    let mut target = Target::new();
    fuzz("http_requests", &seeds, |input, random| {
        let (method, path) = &routes[random.index(routes.len())];
        let mut path = path.clone().into_bytes();
        if random.percent(10) {
            mutate(&mut path, &seeds, random);
            path.retain(|byte| !byte.is_ascii_control() && *byte != b' ');
        }
        let length = if random.percent(95) { input.len() } else { random.index(1 << 40) };
        let mut head = format!("{method} ").into_bytes();
        head.extend(&path);
        head.extend(
            format!(
                " HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            )
            .bytes(),
        );
        if random.percent(5) {
            mutate(&mut head, &seeds, random);
        }
        let address = target.node.ports().unwrap().http.clone();
        let answer = send_and_end(&address, &[&head, input]);
        let status = answer.get(9..12).and_then(|code| std::str::from_utf8(code).ok());
        if let Some(status) = status.and_then(|code| code.parse::<u16>().ok()) {
            assert!(status < 500 || status == 503, "{method} {path:?} with {input:?}: {status}");
        }
        target.next();
    });
    target.check();
}
