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
    for (option, value) in [("--listen", any), ("--http", any), ("--shards", "1")] {
        if !arguments.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(arguments);
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

/// The one line of a node that does not start because of a mount made by `script`, which finds the folder above the data
/// directory as `$0`. The mount lies in a name space of its own and is gone with the process.
fn refusal_on_mount(script: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let node = node_command(&folder.path().join("data"), &[])?;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c"])
        .arg(format!("{script} && exec \"$@\""))
        .arg(folder.path())
        .arg(node.get_program())
        .args(node.get_args())
        .env("FIRN_LOG", "error")
        .output()
        .context("this test needs unshare (util-linux) and user name spaces")?;
    one_line(output)
}

#[test]
fn a_file_system_without_direct_io_is_refused() -> Result<()> {
    let line = refusal_on_mount("mount -t ramfs none \"$0\"")?;
    ensure!(line.contains("direct I/O"), "{line}");
    Ok(())
}

#[test]
fn a_read_only_mount_is_refused() -> Result<()> {
    let tmpfs = "mount -t tmpfs none \"$0\"";
    let read_only = "mount -o remount,ro \"$0\"";
    let line = refusal_on_mount(&format!("{tmpfs} && {read_only}"))?;
    ensure!(line.contains("cannot be written") && line.contains("Read-only"), "{line}");
    let line = refusal_on_mount(&format!("{tmpfs} && mkdir \"$0/data\" && {read_only}"))?;
    ensure!(line.contains("cannot write in the data directory"), "{line}");
    ensure!(line.contains("Read-only"), "{line}");
    Ok(())
}

#[test]
fn a_layout_of_a_newer_format_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = start_node(folder.path(), &[])?;
    node.kill()?;
    let file = node.data().join("layout");
    let mut block = fs::read(&file)?;
    block[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, &block)?;
    let line = refusal(&node.data(), &[])?;
    ensure!(line.contains("layout") && line.contains("version 2"), "{line}");
    Ok(())
}

#[test]
fn too_few_open_files_for_the_shards_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node_command(&folder.path().join("data"), &["--shards", "100"])?;
    let output = Command::new("prlimit")
        .arg("--nofile=64:64")
        .arg(node.get_program())
        .args(node.get_args())
        .env("FIRN_LOG", "error")
        .output()
        .context("this test needs prlimit (util-linux)")?;
    let line = one_line(output)?;
    ensure!(line.contains("cannot set up 100 io_urings"), "{line}");
    ensure!(line.contains("RLIMIT_NOFILE is 64 open files"), "{line}");
    Ok(())
}

/// To the kernel rings are locked memory, but for processes that may lock any amount: these give that right up first.
#[test]
fn too_little_locked_memory_for_the_shards_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (limit_bytes, rings) in [(0, "an io_uring"), (1_000_000, "100 io_urings")] {
        let node = node_command(&folder.path().join("data"), &["--shards", "100"])?;
        let output = Command::new("unshare")
            .args(["--user", "prlimit", &format!("--memlock={limit_bytes}:{limit_bytes}")])
            .arg(node.get_program())
            .args(node.get_args())
            .env("FIRN_LOG", "error")
            .output()
            .context("this test needs unshare and prlimit (util-linux), and user name spaces")?;
        let line = one_line(output)?;
        ensure!(line.contains(&format!("cannot set up {rings}")), "{line}");
        ensure!(line.contains(&format!("RLIMIT_MEMLOCK is {limit_bytes} bytes")), "{line}");
    }
    Ok(())
}

/// On a directory in memory, with the device that has a fixed time, and told to spin without a core of its own.
#[test]
fn a_modelled_device_in_memory_serves() -> Result<()> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let node = start_node(folder.path(), &["--device", "modelled", "--spin", "100us"])?;
    ensure!(NodeClient::new(&node.url()?, None).timelines()?.is_empty());
    let log = fs::read_to_string(node.log())?;
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    ensure!(
        warnings.len() == 1
            && warnings[0]
                .contains("shards have no cores of their own (--cores): they do not spin"),
        "{log}"
    );
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

    let mut unknown_version = startup(&options);
    unknown_version.query("START_WAL_PUSH (proto_version '9')");
    unknown_version.message(b'd', |out| out.extend_from_slice(b"g"));
    let text = answer_to(&node.pg_address()?, &unknown_version)?;
    ensure!(text == "unsupported protocol version 9", "{text}");

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
