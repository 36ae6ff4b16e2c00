//! A node under a service manager: configuration checked without a start, and the unit that the repository ships.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use firn_core::journal::segment::HEADER_BYTES;
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::local::process::{Process, built_program};

/// `firn-node run --check-config` on free ports unless told otherwise.
struct Check {
    status: i32,
    /// What it says is wrong, without the program's name.
    problems: Vec<String>,
    notes: Vec<String>,
    summary: String,
}

fn check(data: &Path, arguments: &[&str]) -> Result<Check> {
    let mut command = Command::new(built_program("firn-node")?);
    command.args(["run", "--check-config", "--data"]).arg(data);
    let any = "127.0.0.1:0";
    for (option, value) in [("--listen", any), ("--http", any), ("--shards", "2")] {
        if !arguments.contains(&option) {
            command.args([option, value]);
        }
    }
    let output = command.args(arguments).output().context("cannot start firn-node")?;
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for line in String::from_utf8(output.stderr)?.lines() {
        let line = line.strip_prefix("firn-node: ").with_context(|| format!("a line {line:?}"))?;
        match line.strip_prefix("note: ") {
            Some(note) => notes.push(note.to_string()),
            None => problems.push(line.to_string()),
        }
    }
    let summary = String::from_utf8(output.stdout)?.trim_end().to_string();
    let status = output.status.code().context("it was killed")?;
    ensure!((status == 0) == problems.is_empty(), "status {status} with {problems:?}");
    Ok(Check { status, problems, notes, summary })
}

/// Every file below a directory with its content and time of change.
fn contents(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let changed = fs::metadata(&directory).unwrap().modified().unwrap();
        found.insert(directory.clone(), (Vec::new(), changed));
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let changed = fs::metadata(&path).unwrap().modified().unwrap();
                found.insert(path.clone(), (fs::read(&path).unwrap(), changed));
            }
        }
    }
    found
}

#[test]
fn a_good_configuration_is_said_to_be_and_nothing_changes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("missing/data");
    let found = check(&data, &[])?;
    ensure!(
        found.status == 0 && found.summary.starts_with("a new node can start"),
        "{}",
        found.summary
    );
    ensure!(!folder.path().join("missing").exists(), "the directory was made");
    let found = check(&data, &["--runtime", "glommio"])?;
    ensure!(found.status == 0 && found.notes.is_empty(), "{:?} {:?}", found.notes, found.problems);

    let options = NodeOptions { shards: Some(2), volatile: false, arguments: Vec::new() };
    let mut node = NodeProcess::new("node", folder.path(), options)?;
    node.start()?;
    let node_id = node.ports()?.node_id;
    node.kill()?;
    let before = contents(&node.data());
    let found = check(&node.data(), &[])?;
    ensure!(found.summary.starts_with(&format!("node {node_id} can start: 2 shards")));
    ensure!(found.notes.is_empty(), "{:?}", found.notes);
    let found = check(&node.data(), &["--shards", "1"])?;
    ensure!(found.notes == ["the number of shards changes from 2 to 1"], "{:?}", found.notes);
    ensure!(contents(&node.data()) == before, "the data directory was changed");
    node.start()
}

#[test]
fn every_problem_is_a_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let text = folder.path().join("no-key.pem");
    fs::write(&text, "nothing")?;
    let found = check(
        &text,
        &["--listen", &taken, "--http", "here", "--advertise", "host", "--shards", "0"]
            .iter()
            .chain(&["--auth-public-key", text.to_str().unwrap()])
            .chain(&["--ports-file", "/nowhere/ports.json"])
            .copied()
            .collect::<Vec<_>>(),
    )?;
    ensure!(found.status == 1);
    let expected = [
        "--http here",
        "--advertise host: expected HOST:PORT",
        "is not an Ed25519 public key",
        "--ports-file /nowhere/ports.json: No such file",
        &format!("--listen {taken}: Address already in use"),
        "--shards 0: expected 1 to 256",
        "no-key.pem: Not a directory",
    ];
    ensure!(found.problems.len() == expected.len(), "{:#?}", found.problems);
    for (line, expected) in found.problems.iter().zip(expected) {
        ensure!(line.contains(expected), "{expected:?} is not in {line:?}");
    }
    let found = check(&folder.path().join("data"), &["--listen", &taken, "--http", &taken])?;
    ensure!(found.problems.iter().any(|line| line.contains("are the same port")));
    Ok(())
}

#[test]
fn a_data_directory_that_would_be_refused_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = NodeOptions { shards: Some(2), volatile: false, arguments: Vec::new() };
    let mut node = NodeProcess::new("node", folder.path(), options)?;
    node.start()?;
    let (id, data) = (node.ports()?.node_id, node.data());
    let problem = |arguments: &[&str]| -> Result<String> {
        let mut found = check(&data, arguments)?;
        ensure!(found.problems.len() == 1, "{:?}", found.problems);
        Ok(found.problems.remove(0))
    };
    ensure!(problem(&[])?.ends_with("is in use by another firn-node process"));
    node.kill()?;
    ensure!(
        problem(&["--node-id", "1"])?.ends_with(&format!("belongs to node {id}, not to node 1"))
    );

    let layout = data.join("layout");
    let good = fs::read(&layout)?;
    fs::write(&layout, &good[..20])?;
    ensure!(problem(&[])?.contains("layout"));
    fs::write(&layout, good)?;

    let segment =
        contents(&data).into_keys().find(|path| path.to_str().unwrap().contains("SEGMENT-"));
    let segment = segment.context("a journal without a segment")?;
    let good = fs::read(&segment)?;
    let mut newer = good.clone();
    newer[8] = 99;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..12]), &newer[16..HEADER_BYTES]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &newer)?;
    let line = problem(&[])?;
    ensure!(line.contains("SEGMENT-") && line.contains("version 99"), "{line}");
    fs::write(&segment, &good)?;

    let identity = data.join("node");
    let mut block = fs::read(&identity)?;
    block[8] = 2;
    fs::write(&identity, &block)?;
    ensure!(
        problem(&[])?.ends_with("node has format version 2, expected 1: run a newer firn-node")
    );
    fs::remove_file(&identity)?;
    ensure!(problem(&[])?.contains("but no file `node`"));
    Ok(())
}

/// Assignments of the unit's section `[Service]`.
fn unit() -> Result<Vec<(String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/firn-node.service");
    let text = fs::read_to_string(path)?;
    let service = text.split("[Service]").nth(1).context("no [Service]")?;
    let service = service.split("\n[").next().unwrap_or_default();
    let lines = service.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (key, value) = line.split_once('=').with_context(|| format!("line {line:?}"))?;
            Ok((key.to_string(), value.to_string()))
        })
        .collect()
}

#[test]
fn the_unit_starts_a_node_that_says_when_it_serves() -> Result<()> {
    let unit = unit()?;
    let value = |key: &str| {
        let found = unit.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the unit has no {key}"))
    };
    ensure!(value("Type")? == "notify" && value("LimitMEMLOCK")? == "infinity");
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut words = value("ExecStart")?.split(' ');
    ensure!(words.next() == Some("/usr/bin/firn-node"));
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut command = Command::new(built_program("firn-node")?);
    for word in words {
        match word {
            "/var/lib/firn" => command.arg(&data),
            "$FIRN_NODE_OPTIONS" => {
                command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            }
            word => command.arg(word),
        };
    }
    command.env("NOTIFY_SOCKET", &socket);
    let log = folder.path().join("log");
    let _node = Process::start("node", &mut command, &log)?;
    let mut state = [0; 64];
    let count = manager.recv(&mut state).context("the node never says that it serves")?;
    ensure!(&state[..count] == b"READY=1");
    ensure!(fs::read_to_string(log)?.contains("node serves"));
    Ok(())
}
