//! A node's HTTP port against the recorded requests to a real acceptor's: the same status, and every recorded field with
//! the recorded value.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::recordings::shared_directory;
use serde_json::{Value, json};

/// What the recorder did on timelines of its own, in order. The other requests look at timelines with other histories.
const REPLAYED: &[&str] = &[
    "node status",
    "unknown timeline",
    "create",
    "the same again",
    "status of the created timeline",
    "term bump",
    "term bump to 5",
    "term bump to a lower term",
    "membership switch",
    "membership without this node",
    "delete",
    "delete again",
    "create after delete",
    "unknown path",
    "create with a membership",
    "membership wrapped in mconf",
    "membership",
    "same generation",
    "without this node",
    "exclude",
];

fn start_node(folder: &Path) -> Result<NodeProcess> {
    let arguments = ["--node-id", "1"].map(str::to_string).to_vec();
    let options = NodeOptions { shards: Some(1), volatile: false, arguments };
    let mut node = NodeProcess::new("node", folder, options)?;
    node.start()?;
    Ok(node)
}

fn request(address: &str, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok((status, body.to_string()))
}

/// Whether `found` has every field of `expected` with its value.
fn has_all(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| has_all(value, found))),
        _ => expected == found,
    }
}

#[test]
fn recorded_requests_get_the_recorded_answers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path())?;
    let address = node.ports()?.http.clone();
    let recorded =
        fs::read_to_string(shared_directory()?.join("golden/neon/http/safekeeper.jsonl"))?;
    let mut replayed = 0;
    for line in recorded.lines() {
        let recorded: Value = serde_json::from_str(line)?;
        let note = recorded["note"].as_str().unwrap();
        if !REPLAYED.contains(&note) {
            continue;
        }
        let (asked, answered) = (&recorded["request"], &recorded["response"]);
        let (method, path) = (asked["method"].as_str().unwrap(), asked["path"].as_str().unwrap());
        let (status, body) = request(&address, method, path, &asked["body"])?;
        let expected = match note {
            // The reference reports an internal error; there is nothing internal about it.
            "create after delete" => 409,
            // The reference ignores other members of a generation that it has; see docs/records/010.
            "same generation" => 409,
            _ => u16::try_from(answered["status"].as_u64().unwrap())?,
        };
        ensure!(status == expected, "{note}: expected {expected}, found {status} {body}");
        if status == 200 {
            let found: Value = serde_json::from_str(&body)?;
            ensure!(has_all(&answered["body"], &found), "{note}: {} / {found}", answered["body"]);
        } else if note == "unknown path" {
            ensure!(answered["body"] == json!(body), "{note}: {body}");
        } else {
            // Texts differ; their shape does not.
            let found: Value = serde_json::from_str(&body)?;
            ensure!(found["msg"].as_str().is_some_and(|text| !text.is_empty()), "{note}: {body}");
        }
        replayed += 1;
    }
    ensure!(replayed == REPLAYED.len(), "{replayed} of {} were replayed", REPLAYED.len());

    let (status, metrics) = request(&address, "GET", "/metrics", &Value::Null)?;
    ensure!(status == 200 && metrics.contains("firn_timelines{shard=\"0\"} 0"), "{metrics}");
    let device = "firn_append_stage_seconds_bucket{le=\"+Inf\",shard=\"0\",stage=\"device\"} ";
    ensure!(metrics.contains(device) && !metrics.contains(&format!("{device}0\n")), "{metrics}");
    Ok(())
}

#[test]
fn bad_requests_are_told_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path())?;
    let address = node.ports()?.http.clone();
    let ids = "11110000000000000000000000000004/timeline/222200000000000000000000000000c1";
    let cases = [
        ("POST", "/v1/tenant/timeline".to_string(), json!({"tenant_id": "x"}), 400),
        ("GET", "/v1/tenant/xyz/timeline/abc".to_string(), Value::Null, 400),
        ("GET", format!("/v1/tenant/{ids}"), Value::Null, 404),
        ("POST", format!("/v1/tenant/{ids}/fence"), Value::Null, 404),
        ("GET", format!("/v1/tenant/{ids}/wal/000000010000000000000001"), Value::Null, 404),
        ("PATCH", "/v1/status".to_string(), Value::Null, 405),
        ("POST", "/v1/tenant/timeline".to_string(), json!("x".repeat(100_000)), 413),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = request(&address, method, &path, &body)?;
        ensure!(
            status == expected,
            "{method} {path}: expected {expected}, found {status} {answer}"
        );
        let answer: Value = serde_json::from_str(&answer).context(answer)?;
        ensure!(answer["msg"].is_string(), "{method} {path}: {answer}");
    }
    Ok(())
}
