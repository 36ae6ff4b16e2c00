//! TLS on the Postgres port: stock clients, nodes among each other and a relay, through verified certificates that are
//! replaced while they run.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use firn_core::types::{Generation, Lsn, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::startup::{SSL_REQUEST_PACKET, encode_startup};
use firn_tests::certificates::{Authority, Issued, make_ed25519_key};
use firn_tests::cluster::{LIMIT, TestCluster, temporary_directory};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::local::postgres_install::PostgresInstall;
use firn_tests::postgres_versions::{postgres_version, postgres_versions};
use firn_tests::proposer::{HandmadeProposer, recorded_wal};
use firn_tests::readers::{ReceiveWal, conninfo, standby, wait_for};
use firn_tests::replay::error_text;
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A node with several shards, so that sockets move.
fn node(folder: &Path, shown: &Issued, arguments: &[&str]) -> NodeProcess {
    let options = NodeOptions { shards: Some(3), volatile: false, arguments: Vec::new() };
    let mut node = NodeProcess::new("node", folder, options).unwrap();
    node.add_arguments(&["--tls-cert", text(&shown.certificate), "--tls-key", text(&shown.key)]);
    node.add_arguments(arguments);
    node.start().unwrap();
    node
}

fn key(number: u128) -> TimelineKey {
    let id = |high: u128| format!("{:032x}", (high << 64) + number);
    TimelineKey { tenant_id: id(0xa).parse().unwrap(), timeline_id: id(0xb).parse().unwrap() }
}

/// psql of this Postgres asks a node, with further words in its connection string.
fn psql(install: &PostgresInstall, node: &NodeProcess, key: TimelineKey, words: &str) -> Output {
    psql_command(install, node, key, words).args(["-c", "TIMELINE_STATUS"]).output().unwrap()
}

fn psql_command(
    install: &PostgresInstall,
    node: &NodeProcess,
    key: TimelineKey,
    words: &str,
) -> Command {
    let port = node.pg_address().unwrap().rsplit_once(':').unwrap().1.to_string();
    let mut command = install.command_as_we_are("psql");
    command.env(
        "PGOPTIONS",
        format!("-c tenant_id={} timeline_id={}", key.tenant_id, key.timeline_id),
    );
    command.args(["-X", "-A", "-t"]);
    command.arg(format!("hostaddr=127.0.0.1 port={port} user=any dbname=any {words}"));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn stock_clients_verify_a_node_that_requires_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let shown = authority.issue("node").unwrap();
    let mut node = node(folder.path(), &shown, &[]);
    // Tenants of several shards, made in clear while that is allowed.
    let (start, wal) = recorded_wal().unwrap();
    let end = start + wal.len() as u64;
    for number in 0..6 {
        let address = node.pg_address().unwrap();
        let mut proposer = HandmadeProposer::connect(&address, key(number), Generation(0)).unwrap();
        proposer.greet(SystemId(7)).unwrap();
        proposer.vote(Term(1)).unwrap();
        proposer.elected(&[(Term(1), start)], start).unwrap();
        proposer.append_all(start, &wal).unwrap();
        proposer.wait_flushed(end).unwrap();
    }
    node.kill().unwrap();
    node.add_arguments(&["--tls-required"]);
    node.start().unwrap();

    let root = format!("sslrootcert={}", authority.certificate().display());
    let flushed = end.to_string();
    for install in postgres_versions().unwrap() {
        let verified = format!("host=localhost sslmode=verify-full {root}");
        for number in 0..6 {
            let output = psql(&install, &node, key(number), &verified);
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && answer.starts_with(&flushed), "{}", said(&output));
        }
        if install.major >= 17 {
            let direct = format!("{verified} sslnegotiation=direct");
            let output = psql(&install, &node, key(1), &direct);
            assert!(output.status.success(), "{}", said(&output));
        }
        let elsewhere = format!("host=elsewhere sslmode=verify-full {root}");
        let output = psql(&install, &node, key(1), &elsewhere);
        assert!(said(&output).contains("does not match host name"), "{}", said(&output));
        let output = psql(&install, &node, key(1), "host=localhost sslmode=disable");
        let refused = "this port requires TLS: use sslmode=require or more";
        assert!(said(&output).contains(refused), "{}", said(&output));
    }
}

/// What a node answers to bytes sent in clear, until it closes.
fn answer_to(node: &NodeProcess, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.pg_address().unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A node that closes with bytes unread resets the connection.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn what_breaks_tls_ends_its_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let shown = authority.issue("node").unwrap();
    let node = node(folder.path(), &shown, &[]);
    let request = SSL_REQUEST_PACKET.to_vec();

    // A startup message in clear behind the request, as a man in the middle would put it there.
    let stuffed = [request.clone(), encode_startup(&[("user", "any")])].concat();
    let answer = answer_to(&node, &stuffed);
    assert_eq!(error_text(&answer).unwrap(), "unencrypted bytes after the request for TLS");
    // No handshake, in the place of one and as the first bytes. Fatal alerts are records of type 21.
    let mut stream = TcpStream::connect(node.pg_address().unwrap()).unwrap();
    stream.write_all(&request).unwrap();
    let mut offered = [0];
    stream.read_exact(&mut offered).unwrap();
    assert_eq!(offered, *b"S");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    let answer = answer_to(&node, &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    // A handshake that never goes on; the node serves others meanwhile.
    let mut half_open = TcpStream::connect(node.pg_address().unwrap()).unwrap();
    half_open.write_all(&[0x16, 3, 1, 0x10, 0]).unwrap();

    // Direct TLS without the protocol's name is refused inside of TLS.
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-connect", &node.pg_address().unwrap()]);
    let output = openssl.stdin(Stdio::null()).output();
    let output = output.expect("this test needs openssl: apt-get install openssl");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("direct TLS without the application protocol postgresql"), "{answer}");

    let install = postgres_version().unwrap();
    let output = psql(&install, &node, key(1), "host=localhost sslmode=require");
    assert!(output.status.success(), "{}", said(&output));
    // In clear is allowed as well, where it is not forbidden.
    let output = psql(&install, &node, key(1), "host=localhost sslmode=disable");
    assert!(output.status.success(), "{}", said(&output));
}

/// Commits go through TLS only: relay to nodes, node to node (catch-up, fence).
#[test]
fn a_cluster_that_requires_tls_commits_catches_up_and_fences() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let shown = authority.issue("node").unwrap();
    let root = authority.certificate();
    let mut cluster =
        TestCluster::start(postgres_version().unwrap(), &NodeOptions::default()).unwrap();
    cluster.relay.kill().unwrap();
    for node in &mut cluster.nodes {
        node.kill().unwrap();
        node.add_arguments(&[
            "--tls-cert",
            text(&shown.certificate),
            "--tls-key",
            text(&shown.key),
        ]);
        node.add_arguments(&["--tls-required", "--tls-ca", text(&root)]);
        node.start().unwrap();
    }
    cluster.relay = cluster.relay_from(&cluster.postgres, "clear.log");
    cluster.relay.start().unwrap();
    cluster.wait_for_relay_line("this port requires TLS").unwrap();
    cluster.relay.kill().unwrap();

    let relay = cluster.relay_from(&cluster.postgres, "tls.log");
    cluster.relay = relay.with_argument("--tls-ca").with_argument(text(&root));
    cluster.relay.start().unwrap();
    cluster.commit("INSERT INTO t VALUES (1)").unwrap();

    // Several megabytes for one that was away, from the others: no relay is there to bring them.
    cluster.nodes[2].kill().unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(2, 60000)").unwrap();
    cluster.relay.kill().unwrap();
    let client = |node: &NodeProcess| NodeClient::new(&node.url().unwrap(), None);
    let committed = client(&cluster.nodes[0]).timeline(cluster.key).unwrap().commit_lsn;
    cluster.nodes[2].start().unwrap();
    let caught_up = || {
        let status = client(&cluster.nodes[2]).timeline(cluster.key)?;
        Ok((status.flush_lsn >= committed).then_some(()))
    };
    wait_until(LIMIT, caught_up).unwrap().expect("a node catches up from its peers through TLS");

    let fenced = cluster.run_firn(&["timeline", "fence"]).unwrap();
    let lsn = fenced.split_whitespace().find_map(|word| word.parse::<Lsn>().ok());
    assert!(lsn.is_some_and(|lsn| lsn >= committed), "{fenced}");
}

/// A psql that stays connected.
struct LongSession {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl LongSession {
    fn open(mut command: Command) -> LongSession {
        let command =
            command.args(["-v", "ON_ERROR_STOP=1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        LongSession { child, input, output }
    }

    /// Asks a question, and sees that it was answered without an error on the same connection.
    fn ask(&mut self) {
        writeln!(self.input, "TIMELINE_STATUS \\g\n\\echo answered").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "answered\n");
    }
}

impl Drop for LongSession {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAimNRAK61P3trG5xrXyAstxPjf8urQvyHUDY99nw8Uy4=
-----END PUBLIC KEY-----
";
/// Signed with the key's other half: `{"scope":"safekeeperdata"}`.
const TOKEN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNhZmVrZWVwZXJkYXRhIn0.3GaKgxbL5QLpy7HgM60sLSBBKVd-UfORyX88qJ7amATqky4b2TsNeQ04pwBfeZ7k0nvVl5EgX0AU88nSCxNrAg";

/// Reloads, and waits until the log has this many more lines with the text.
fn reload(node: &NodeProcess, line: &str) {
    let count = || fs::read_to_string(node.log()).unwrap().matches(line).count();
    let before = count();
    node.reload().unwrap();
    let said = || Ok((count() == before + 1).then_some(()));
    wait_until(LIMIT, said).unwrap().unwrap_or_else(|| panic!("the node never says {line:?}"));
}

const RELOADED: &str = "keys and certificates were read again";
const REFUSED: &str = "keys and certificates were not replaced: those in use stay";

#[test]
fn certificates_and_keys_are_replaced_while_connections_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        Authority::new(&place).unwrap()
    });
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let key_file = keys.join("first.pem");
    fs::write(&key_file, PUBLIC_KEY).unwrap();
    let shown = old.issue("node").unwrap();
    let node = node(folder.path(), &shown, &["--auth-public-key", text(&keys)]);
    let install = postgres_version().unwrap();
    let words = |authority: &Authority, token: &str| {
        let root = authority.certificate();
        format!(
            "host=localhost sslmode=verify-full sslrootcert={} password={token}",
            root.display()
        )
    };
    let try_with = |authority: &Authority, token: &str| {
        let output = psql(&install, &node, key(1), &words(authority, token));
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    };
    let status = |token| NodeClient::new(&node.url().unwrap(), Some(token)).timelines();

    try_with(&old, TOKEN).unwrap();
    let mut session = LongSession::open(psql_command(&install, &node, key(1), &words(&old, TOKEN)));
    session.ask();
    // Another authority, and another key beside the first.
    let replaced = new.issue("node").unwrap();
    fs::copy(&replaced.certificate, &shown.certificate).unwrap();
    reload(&node, REFUSED);
    try_with(&old, TOKEN).unwrap();
    fs::copy(&replaced.key, &shown.key).unwrap();
    reload(&node, RELOADED);
    assert!(try_with(&old, TOKEN).unwrap_err().contains("certificate verify failed"));
    try_with(&new, TOKEN).unwrap();

    // A broken key, then one that did not sign the token, then the right one again.
    fs::write(&key_file, "nothing").unwrap();
    reload(&node, REFUSED);
    try_with(&new, TOKEN).unwrap();
    assert!(status(TOKEN).is_ok());
    make_ed25519_key(folder.path(), &key_file).unwrap();
    reload(&node, RELOADED);
    assert!(try_with(&new, TOKEN).unwrap_err().contains("JWT authentication error"));
    assert!(status(TOKEN).is_err());
    fs::write(&key_file, PUBLIC_KEY).unwrap();
    reload(&node, RELOADED);
    try_with(&new, TOKEN).unwrap();
    assert!(status(TOKEN).is_ok());

    // Through all of it the first session stayed what it was.
    session.ask();
}

/// `pg_receivewal` and a hot standby read from nodes that demand TLS and a token.
#[test]
fn stock_readers_stream_through_tls_with_a_token() {
    let folder = temporary_directory().unwrap();
    let authority = Authority::new(folder.path()).unwrap();
    let shown = authority.issue("node").unwrap();
    let root = authority.certificate();
    let public_key = folder.path().join("key.pem");
    fs::write(&public_key, PUBLIC_KEY).unwrap();
    let install = postgres_version().unwrap();
    let mut cluster =
        TestCluster::start_with(install.clone(), &NodeOptions::default(), &["--wal-segsize=1"])
            .unwrap();
    cluster.postgres.configure(&[("wal_keep_size", "1GB")]).unwrap();
    cluster.postgres.stop().unwrap();
    cluster.postgres.start().unwrap();
    cluster.relay.kill().unwrap();
    for node in &mut cluster.nodes {
        node.kill().unwrap();
        node.add_arguments(&["--tls-cert", text(&shown.certificate)]);
        node.add_arguments(&["--tls-key", text(&shown.key)]);
        node.add_arguments(&["--tls-required", "--tls-ca", text(&root)]);
        node.add_arguments(&["--auth-public-key", text(&public_key), "--auth-token", TOKEN]);
        node.start().unwrap();
    }
    let relay = cluster.relay_from(&cluster.postgres, "tls.log");
    let relay = relay.with_argument("--tls-ca").with_argument(text(&root));
    cluster.relay = relay.with_argument("--auth-token").with_argument(TOKEN);
    cluster.relay.start().unwrap();

    let source = |token: &str| {
        let plain = conninfo(&cluster, &cluster.nodes[0]).unwrap();
        let named = plain.replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
        // Without a certificate of its own: the directory of the user that runs the test is not the server's to look at.
        let none = folder.path().join("none");
        format!(
            "{named} sslmode=verify-full sslrootcert={} sslcert={} password={token}",
            text(&root),
            text(&none)
        )
    };
    let mut refused = install.command("pg_receivewal").unwrap();
    refused.args(["--no-loop", "-D"]).arg(folder.path()).args(["-d", &source("wrong")]);
    let refused = refused.output().unwrap();
    assert!(!refused.status.success());
    assert!(said(&refused).contains("JWT authentication error"), "{}", said(&refused));

    let source = source(TOKEN);
    let received = cluster.path("received");
    let mut receiver = ReceiveWal::start(&install, &source, &received, &[]).unwrap();
    let mut reader = standby(&cluster, "reader", &cluster.nodes[0], &[]).unwrap();
    reader.configure(&[("primary_conninfo", &source)]).unwrap();
    reader.start().unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 20000)").unwrap();
    let finished = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let segment = cluster.postgres.sql(finished).unwrap();
    cluster.commit("SELECT pg_switch_wal()").unwrap();
    cluster.commit("INSERT INTO t VALUES (0)").unwrap();
    receiver.wait_for_segment(&segment).unwrap();
    wait_for(&mut reader, "SELECT count(*) FROM t", "20001").unwrap();
    receiver.stop().unwrap();
    let written = fs::read(cluster.postgres.data().join("pg_wal").join(&segment)).unwrap();
    assert!(fs::read(received.join(&segment)).unwrap() == written, "{segment} differs");
}
