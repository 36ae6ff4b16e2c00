//! What a node bounds, on real processes: connections, what one client can make it hold, silent clients, a full disk, a slow
//! disk, ten thousand timelines. Whoever is within bounds is served meanwhile.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use firn_core::api::CreateTimeline;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::*;
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::startup::encode_startup;
use firn_core::wire::walproposer::{ProposerMessage, ProtocolVersion, VoteRequest};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::proposer::{HandmadeProposer, RECORDED_START, recorded_wal};
use firn_tests::replay::error_text;
use firn_tools::client::NodeClient;
use firn_tools::clock::{now, wait_until};
use firn_tools::local::process::resident_bytes;

/// How long what must happen may take.
const LIMIT: Duration = Duration::from_secs(120);

fn key(number: u64) -> TimelineKey {
    let id = |high: u64| format!("{high:016x}{number:016x}");
    TimelineKey { tenant_id: id(0xa).parse().unwrap(), timeline_id: id(0xb).parse().unwrap() }
}

fn node(folder: &Path, shards: u32, arguments: &[&str]) -> NodeProcess {
    let options = NodeOptions { shards: Some(shards), volatile: false, arguments: Vec::new() };
    let mut node = NodeProcess::new("node", folder, options).unwrap();
    node.add_arguments(arguments);
    node.start().unwrap();
    node
}

/// A proposer that may append from the returned position on.
fn proposer(node: &NodeProcess, key: TimelineKey) -> (HandmadeProposer, Lsn, Vec<u8>) {
    let (start, wal) = recorded_wal().unwrap();
    let address = node.pg_address().unwrap();
    let mut proposer = HandmadeProposer::connect(&address, key, Generation(0)).unwrap();
    proposer.greet(SystemId(7)).unwrap();
    proposer.vote(Term(1)).unwrap();
    proposer.elected(&[(Term(1), start)], start).unwrap();
    (proposer, start, wal)
}

fn memory_bytes(node: &NodeProcess) -> u64 {
    resident_bytes(node.pid().unwrap()).unwrap()
}

/// Lets this process have as many sockets as the test needs.
fn raise_open_files() {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--nofile=20000:20000"]).status();
    let raised = raised.expect("this test needs prlimit (util-linux)");
    assert!(raised.success(), "this test needs 20,000 open files (ulimit -n)");
}

/// A client that has started its session; `None` when it was refused, with what it was told.
fn session(address: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&encode_startup(&[("user", "any")])).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(error_text(&answer).unwrap_or_default()),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(error_text(&answer).unwrap_or_default());
            }
            Err(error) => panic!("a session neither begins nor is refused: {error}"),
        }
    }
    Ok(stream)
}

/// The limit of open files that a login gives is raised by the node itself.
#[test]
fn five_thousand_connections_are_served_and_too_many_are_told() {
    const SERVED: usize = 5000;
    const MEMORY_BYTES_MAX: u64 = 600 << 20;
    raise_open_files();
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), 1, &[]);
    let pid = node.pid().unwrap().to_string();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(files[3], files[4], "the soft limit is not raised to the hard one");

    let address = node.pg_address().unwrap();
    let mut sessions: Vec<TcpStream> = (0..SERVED).map(|_| session(&address).unwrap()).collect();
    // All of them live, and one more that writes is not in their way.
    let (mut writer, start, wal) = proposer(&node, key(1));
    let end = writer.append_all(start, &wal).unwrap();
    writer.wait_flushed(end).unwrap();
    let mut query = Vec::new();
    query.query("SET datestyle TO 'ISO'");
    for session in &mut sessions {
        session.write_all(&query).unwrap();
    }
    for session in &mut sessions {
        let mut answer = [0; 1];
        session.read_exact(&mut answer).unwrap();
    }
    let memory = memory_bytes(&node);
    assert!(memory < MEMORY_BYTES_MAX, "{SERVED} connections take {memory} bytes");

    // Beyond the bound each is told why; a place that is given back can be taken.
    let refused = loop {
        match session(&address) {
            Ok(session) => sessions.push(session),
            Err(reason) => break reason,
        }
        assert!(sessions.len() < 10_000, "there is no bound");
    };
    assert_eq!(refused, "too many connections");
    sessions.truncate(SERVED);
    let served = || Ok(session(&address).ok());
    wait_until(LIMIT, served).unwrap().expect("places come back");
}

/// A client that sends and never reads is held back by its own socket; others go on, and the node's memory stays.
#[test]
fn floods_hold_back_their_sender_only() {
    const FLOOD_BYTES_MAX: usize = 1 << 30;
    const MEMORY_BYTES_MAX: u64 = 600 << 20;
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), 1, &[]);
    let (mut neighbour, start, wal) = proposer(&node, key(1));
    let (flooding, ..) = proposer(&node, key(2));

    // Votes for the same term: each is answered, none is read.
    let mut flood = Vec::new();
    for _ in 0..4096 {
        let vote = VoteRequest { generation: Generation(0), term: Term(1) };
        flood.message(b'd', |out| {
            ProposerMessage::VoteRequest(vote).encode(ProtocolVersion::V3, out)
        });
    }
    // Blocked when nothing was taken for so long; a slow node only makes the test longer.
    let mut stream = flooding.connection.stream;
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut sent = 0;
    let blocked = loop {
        match stream.write(&flood[sent % flood.len()..]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < FLOOD_BYTES_MAX, "nothing holds the flood back");
    };
    assert!(matches!(blocked.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{blocked}");

    let end = neighbour.append_all(start, &wal).unwrap();
    neighbour.wait_flushed(end).unwrap();
    let memory = memory_bytes(&node);
    assert!(memory < MEMORY_BYTES_MAX, "after {sent} bytes the node holds {memory} bytes");

    // Queries in thousands behind each other, without reading: the same.
    let mut stream = session(&node.pg_address().unwrap()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut query = Vec::new();
    for _ in 0..4096 {
        query.query("SET datestyle TO 'ISO'");
    }
    let mut sent = 0;
    while let Ok(count) = stream.write(&query[sent % query.len()..]) {
        sent += count;
        assert!(sent < FLOOD_BYTES_MAX, "nothing holds the flood back");
    }
    assert!(NodeClient::new(&node.url().unwrap(), None).status().is_ok());
}

/// Clients that connect and say nothing, or too little, are gone after ten seconds; others are served meanwhile.
#[test]
fn silent_clients_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), 1, &[]);
    let address = node.pg_address().unwrap();
    let beginnings: [&[u8]; 3] = [b"", &[0, 0, 0], &[0, 0, 0x20, 0, 0, 3, 0, 0, b'u']];
    let started = now();
    let silent = beginnings.map(|bytes| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    });
    session(&address).unwrap();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "the node closes");
    }
    assert!(started.elapsed() > Duration::from_secs(8), "who is slow is given some time");
    session(&address).unwrap();
}

/// A node on a file system of its own, which fills up and gets room again.
#[test]
fn a_full_disk_refuses_wal_and_takes_it_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let options = NodeOptions { shards: Some(1), volatile: false, arguments: Vec::new() };
    let mut prepared = NodeProcess::new("node", &disk, options).unwrap();
    // The mount is the node's own, so it goes with it; the ports file and the log lie beside it.
    let script = "mount -t tmpfs -o size=700m none \"$0/data\" && exec \"$@\"";
    fs::create_dir(prepared.data()).unwrap();
    prepared.wrap(&[
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        disk.to_str().unwrap(),
    ]);
    prepared.start().expect("this test needs unshare (util-linux) and user name spaces");
    let node = prepared;
    let inside = Path::new("/proc").join(node.pid().unwrap().to_string()).join("root");
    let filler = inside.join(node.data().strip_prefix("/").unwrap()).join("filler");

    let (mut writer, start, wal) = proposer(&node, key(1));
    let end = writer.append_all(start, &wal).unwrap();
    writer.wait_flushed(end).unwrap();
    let mut file = fs::File::create(&filler).unwrap();
    let block = vec![1; 1 << 20];
    while file.write_all(&block).is_ok() {}
    drop(file);

    // The ring has no other segment to go to: at some point the node takes no more, and says why.
    let mut refused = None;
    for number in 2..500 {
        let (mut writer, ..) = proposer(&node, key(number));
        if let Err(error) = writer.append_all(start, &wal).and_then(|end| writer.wait_flushed(end))
        {
            refused = Some((number, format!("{error:#}")));
            break;
        }
    }
    let (number, refused) = refused.expect("a full disk takes everything");
    assert!(refused.contains("journal is full"), "{refused}");
    // Votes are given all the same, and what is there can be read.
    let address = node.pg_address().unwrap();
    let mut other = HandmadeProposer::connect(&address, key(1), Generation(0)).unwrap();
    other.greet(SystemId(7)).unwrap();
    other.vote(Term(5)).unwrap();
    let client = NodeClient::new(&node.url().unwrap(), None);
    assert_eq!(client.timeline(key(1)).unwrap().flush_lsn, end);

    fs::remove_file(&filler).unwrap();
    // The node looks for room at intervals of its own, and takes WAL as soon as it has found it.
    let again = || {
        let mut writer = HandmadeProposer::connect(&address, key(number + 1), Generation(0))?;
        writer.greet(SystemId(7))?;
        writer.vote(Term(1 + client.timeline(key(number + 1))?.acceptor_state.term.0))?;
        let term = client.timeline(key(number + 1))?.acceptor_state.term;
        writer.elected(&[(term, start)], start)?;
        let taken = writer.append_all(start, &wal).and_then(|end| writer.wait_flushed(end));
        Ok(taken.ok())
    };
    wait_until(LIMIT, again).unwrap().expect("WAL is taken again once there is room");
}

fn create(number: u64, node_id: NodeId) -> CreateTimeline {
    let member = Member { id: node_id, host: "127.0.0.1".to_string(), pg_port: 1 };
    CreateTimeline {
        key: key(number),
        mconf: Membership { generation: Generation(1), members: vec![member], new_members: None },
        pg_version: PostgresVersion(170_006),
        system_id: Some(SystemId(7)),
        wal_seg_size: None,
        start_lsn: RECORDED_START,
        commit_lsn: None,
        to_be_added: false,
    }
}

#[test]
fn ten_thousand_timelines_are_made_survive_a_restart_and_take_wal() {
    const TIMELINES: u64 = 10_000;
    const MEMORY_BYTES_MAX: u64 = 300 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut node = node(folder.path(), 2, &[]);
    let node_id = node.ports().unwrap().node_id;
    let url = node.url().unwrap();
    std::thread::scope(|scope| {
        for part in 0..8 {
            let client = NodeClient::new(&url, None);
            scope.spawn(move || {
                for number in (part..TIMELINES).step_by(8) {
                    client.create(&create(number, node_id)).unwrap();
                }
            });
        }
    });
    node.kill().unwrap();
    node.start().unwrap();
    let client = NodeClient::new(&url, None);
    assert_eq!(client.timelines().unwrap().len() as u64, TIMELINES);
    let memory = memory_bytes(&node);
    assert!(memory < MEMORY_BYTES_MAX, "{TIMELINES} timelines take {memory} bytes");
    let (start, wal) = recorded_wal().unwrap();
    for number in [0, TIMELINES / 2, TIMELINES - 1] {
        let address = node.pg_address().unwrap();
        let mut writer = HandmadeProposer::connect(&address, key(number), Generation(1)).unwrap();
        writer.greet(SystemId(7)).unwrap();
        writer.vote(Term(1)).unwrap();
        writer.elected(&[(Term(1), start)], start).unwrap();
        let end = writer.append_all(start, &wal).unwrap();
        writer.wait_flushed(end).unwrap();
    }
}
