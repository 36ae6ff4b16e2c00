//! What a node refuses: each with one clear line or protocol error, and with no harm to anything else.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use firn_core::types::TenantId;
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::startup::encode_startup;
use firn_core::wire::walproposer::ProtocolVersion;
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::local::process::built_program;
use firn_tests::replay::{Connection, error_text};
use firn_tools::client::NodeClient;

const TENANT: &str = "11110000000000000000000000000005";
const TIMELINE: &str = "22220000000000000000000000000501";

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAimNRAK61P3trG5xrXyAstxPjf8urQvyHUDY99nw8Uy4=
-----END PUBLIC KEY-----
";
/// Signed with the key's other half: `{"scope":"tenant","tenant_id":TENANT}`.
const TENANT_TOKEN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InRlbmFudCIsInRlbmFudF9pZCI6IjExMTEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA1In0.I2Pm-N5Y-_XSu-hHKLLUG7hP5EUoYvpjE497cdzxcYUqBp29J3Qri3Hn8lbzLsk-1A37TrECbidFouifWh5BDA";
/// `{"scope":"safekeeperdata"}`.
const NODE_TOKEN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNhZmVrZWVwZXJkYXRhIn0.3GaKgxbL5QLpy7HgM60sLSBBKVd-UfORyX88qJ7amATqky4b2TsNeQ04pwBfeZ7k0nvVl5EgX0AU88nSCxNrAg";

fn start_node(folder: &Path, arguments: &[&str]) -> Result<NodeProcess> {
    let arguments = arguments.iter().map(|argument| (*argument).to_string()).collect();
    let options = NodeOptions { shards: Some(1), volatile: false, arguments };
    let mut node = NodeProcess::new("node", folder, options)?;
    node.start()?;
    Ok(node)
}

fn node_command(data: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(built_program("firn-node")?);
    command.env("FIRN_LOG", "error").arg("run").arg("--data").arg(data);
    let any = "127.0.0.1:0";
    for (option, value) in [("--listen", any), ("--http", any)] {
        if !arguments.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(["--shards", "1"]).args(arguments);
    Ok(command)
}

/// The one line of a node that does not start.
fn refusal(data: &Path, arguments: &[&str]) -> Result<String> {
    one_line(node_command(data, arguments)?.output().context("cannot start firn-node")?)
}

fn one_line(output: Output) -> Result<String> {
    let text = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "ended with {}: {text}", output.status);
    ensure!(text.lines().count() == 1 && text.starts_with("firn-node: "), "not one line: {text}");
    Ok(text.trim_end().to_string())
}

#[test]
fn data_directories_that_are_not_ours_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = start_node(folder.path(), &["--node-id", "7"])?;
    let data = node.data();

    let line = refusal(&data, &[])?;
    ensure!(line.ends_with("is in use by another firn-node process"), "{line}");
    node.kill()?;

    let line = refusal(&data, &["--node-id", "8"])?;
    ensure!(line.ends_with("belongs to node 7, not to node 8"), "{line}");

    let file = data.join("node");
    let mut block = fs::read(&file)?;
    block[8] = 2;
    fs::write(&file, &block)?;
    let line = refusal(&data, &[])?;
    ensure!(
        line.ends_with("node has format version 2, expected 1: run a newer firn-node"),
        "{line}"
    );

    fs::remove_file(&file)?;
    let line = refusal(&data, &[])?;
    ensure!(line.contains("but no file `node`"), "{line}");
    Ok(())
}

#[test]
fn directories_that_cannot_be_written_are_refused() -> Result<()> {
    let line = refusal(Path::new("/proc/firn"), &[])?;
    ensure!(line.contains("data directory /proc/firn cannot be written"), "{line}");
    Ok(())
}

#[test]
fn a_file_system_without_direct_io_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node_command(&folder.path().join("data"), &[])?;
    let arguments: Vec<_> = node.get_args().collect();
    // A file system in memory without O_DIRECT, mounted in a name space of its own, gone with the process.
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c"])
        .arg("mount -t ramfs none \"$0\" && exec \"$@\"")
        .arg(folder.path())
        .arg(node.get_program())
        .args(arguments)
        .env("FIRN_LOG", "error")
        .output()
        .context("this test needs unshare (util-linux) and user name spaces")?;
    let line = one_line(output)?;
    ensure!(line.contains("direct I/O"), "{line}");
    Ok(())
}

#[test]
fn ports_in_use_and_open_doors_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for option in ["--listen", "--http"] {
        let line = refusal(&folder.path().join("data"), &[option, &address])?;
        ensure!(line.contains(&address) && line.contains("in use"), "{line}");
        let line = refusal(&folder.path().join("data"), &[option, "0.0.0.0:0"])?;
        ensure!(line.contains("without --auth-public-key a node serves loopback only"), "{line}");
    }
    Ok(())
}

fn startup(options: &str) -> Vec<u8> {
    encode_startup(&[("user", "postgres"), ("options", options)])
}

/// What a client is told that sends these bytes, until the node closes or is ready again.
fn answer_to(address: &str, bytes: &[u8]) -> Result<String> {
    let mut connection = Connection::open(address)?;
    connection.send(bytes)?;
    connection.wait_until(ProtocolVersion::V3, |_| false)?;
    error_text(&connection.received).context("an error was expected")
}

#[test]
fn what_is_no_postgres_client_is_told_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path(), &[])?;
    let address = node.pg_address()?;

    let text = answer_to(&address, b"\0\0\0\x08\0\x02\0\0")?;
    ensure!(text == "unsupported frontend protocol 2.0: expected 3.0", "{text}");
    let text = answer_to(&address, b"GET / HTTP/1.1\r\n\r\n")?;
    ensure!(text.contains("not a Postgres client?"), "{text}");
    let text = answer_to(&address, &startup("tenant_id=xyz"))?;
    ensure!(text.contains("expected 32 hex digits"), "{text}");
    let text = answer_to(&address, &[0x16, 3, 1, 0, 5])?;
    ensure!(text == "direct TLS is not configured on this port", "{text}");

    // The node serves on, and has made nothing of it.
    ensure!(NodeClient::new(&node.url()?, None).timelines()?.is_empty());
    Ok(())
}

#[test]
fn messages_out_of_bounds_end_their_connection_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path(), &[])?;
    let options = format!("-c tenant_id={TENANT} timeline_id={TIMELINE}");
    let mut bystander = Connection::open(&node.pg_address()?)?;
    bystander.send(&startup(&options))?;

    let mut oversized = startup(&options);
    oversized.query("START_WAL_PUSH (proto_version '3')");
    oversized.extend_from_slice(b"d\x7f\xff\xff\xff");
    let text = answer_to(&node.pg_address()?, &oversized)?;
    ensure!(text.contains("expected 4 to 1048576"), "{text}");

    let mut garbage = startup(&options);
    garbage.query("START_WAL_PUSH (proto_version '3')");
    garbage.message(b'd', |out| out.extend_from_slice(b"zzz"));
    let text = answer_to(&node.pg_address()?, &garbage)?;
    ensure!(!text.is_empty());

    let mut query = Vec::new();
    query.query("TIMELINE_STATUS");
    bystander.send(&query)?;
    let ready = |answers: &[firn_tests::replay::Answer]| answers.len() > 7;
    bystander.wait_until(ProtocolVersion::V3, ready)?;
    ensure!(!bystander.closed, "the other connection goes on");
    Ok(())
}

#[test]
fn tokens_open_what_they_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key.pem");
    fs::write(&key, PUBLIC_KEY)?;
    let node = start_node(folder.path(), &["--auth-public-key", key.to_str().unwrap()])?;
    let address = node.pg_address()?;
    let with_token = |tenant: &str, token: &str| {
        let mut bytes = startup(&format!("-c tenant_id={tenant} timeline_id={TIMELINE}"));
        bytes.password(token);
        bytes.query("START_REPLICATION 0/0");
        bytes.terminate();
        bytes
    };
    let other_tenant = "33330000000000000000000000000005";
    for (tenant, token) in [(other_tenant, TENANT_TOKEN), (TENANT, "x.y.z"), (TENANT, "")] {
        let text = answer_to(&address, &with_token(tenant, token))?;
        ensure!(text == "JWT authentication error", "{text}");
    }
    for (tenant, token) in [(TENANT, TENANT_TOKEN), (other_tenant, NODE_TOKEN)] {
        let text = answer_to(&address, &with_token(tenant, token))?;
        ensure!(text.contains("was not found"), "let in, but no such timeline: {text}");
    }

    let client = |token| NodeClient::new(&node.url().unwrap(), token);
    ensure!(client(None).status().is_ok(), "everyone may ask who the node is");
    for token in [None, Some("x.y.z"), Some(TENANT_TOKEN)] {
        ensure!(client(token).timelines().is_err(), "{token:?} does not open the whole node");
    }
    ensure!(client(Some(NODE_TOKEN)).timelines()?.is_empty());
    let tenant_id: TenantId = TENANT.parse()?;
    ensure!(tenant_id.to_string() == TENANT);
    Ok(())
}
