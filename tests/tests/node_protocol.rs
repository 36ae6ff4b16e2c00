//! A running node against the recorded clients of a real acceptor: the same answers, but for the differences that are
//! named here with their reasons.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use firn_core::api::CreateTimeline;
use firn_core::consensus::membership::Membership;
use firn_core::types::{Generation, Lsn, PostgresVersion, SystemId, Term, TimelineKey};
use firn_core::wire::walproposer::{AcceptorMessage, ProtocolVersion};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::proposer::{HandmadeProposer, RECORDED_COMMIT, RECORDED_START, recorded_wal};
use firn_tests::recordings::{RecordKind, Recording, scenario};
use firn_tests::replay::{Answer, Connection, recorded_answers, replay, replay_around, version_of};
use firn_tools::client::NodeClient;

fn start_node(folder: &Path) -> Result<NodeProcess> {
    let arguments = ["--node-id", "1"].map(str::to_string).to_vec();
    let options = NodeOptions { shards: Some(2), volatile: false, arguments };
    let mut node = NodeProcess::new("node", folder, options)?;
    node.start()?;
    Ok(node)
}

/// The connections of a proposer, or of a tool in its place, to acceptor 1.
fn proposer_connections(scenario_name: &str) -> Result<Vec<(String, Recording)>> {
    let mut connections = scenario(scenario_name)?;
    connections.retain(|(name, _)| name.ends_with("-compute-sk1"));
    ensure!(!connections.is_empty(), "{scenario_name} has no proposer");
    Ok(connections)
}

fn connection(connections: &[(String, Recording)], number: &str) -> Recording {
    let found = connections.iter().find(|(name, _)| name.starts_with(number));
    found.unwrap_or_else(|| panic!("no connection {number}")).1.clone()
}

fn check(name: &str, recording: &Recording, address: &str) -> Result<()> {
    let version = version_of(recording);
    let replayed = replay(recording, address).with_context(|| name.to_string())?;
    let (expected, mut found) = (recorded_answers(recording, version)?, replayed.answers(version)?);
    // A stream that its reader ended: the reference closes, we complete the command as Postgres does.
    if expected.ends_with(&[copy_done(), Answer::Closed])
        && let Some(done) = found.iter().rposition(|answer| *answer == copy_done())
    {
        let completion = found.split_off(done + 1);
        let right = |answer: &Answer| {
            matches!(answer, Answer::Exact { tag: 'C' | 'Z', .. } | Answer::Closed)
        };
        ensure!(completion.iter().all(right), "{name}: {completion:?}");
        let completed = |answer: &Answer| matches!(answer, Answer::Exact { tag: 'C', .. });
        let closes = completion == [Answer::Closed];
        ensure!(closes || completion.iter().any(completed), "{name}: {completion:?}");
    }
    ensure!(
        comparable(&expected) == comparable(&found),
        "{name}: expected {expected:#?}\nfound {found:#?}"
    );
    Ok(())
}

fn copy_done() -> Answer {
    Answer::Exact { tag: 'c', payload: Vec::new() }
}

/// Without what may differ between two right acceptors: rows (their shape is compared), and the end of the connection
/// after the client's own.
fn comparable(answers: &[Answer]) -> Vec<Answer> {
    let mut answers = answers.to_vec();
    for answer in &mut answers {
        match answer {
            Answer::Row(values) => values.truncate(2),
            // Kept lazily: it may be lower after a kill that the recorded acceptor did not have.
            Answer::Vote(AcceptorMessage::VoteResponse(vote)) => vote.truncate_lsn = Lsn::INVALID,
            _ => {}
        }
    }
    if answers.last() == Some(&Answer::Closed) {
        answers.pop();
    }
    answers
}

fn replay_proposer(scenarios: [&str; 5]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = start_node(folder.path())?;
    for (index, scenario_name) in scenarios.iter().enumerate() {
        for (name, recording) in proposer_connections(scenario_name)? {
            check(&format!("{scenario_name}/{name}"), &recording, &node.pg_address()?)?;
        }
        // The third scenario begins with an acceptor that was killed; ours must bear it at any time.
        if index % 2 == 1 {
            node.kill()?;
            node.start()?;
        }
    }
    Ok(())
}

#[test]
fn a_real_proposer_of_protocol_3_gets_the_recorded_answers() -> Result<()> {
    replay_proposer([
        "a1-first-start",
        "a2-walproposer-restart",
        "a3-safekeeper-restart",
        "a4-stop-sync-restart",
        "a5-crash-sync-restart",
    ])
}

#[test]
fn a_real_proposer_of_protocol_2_gets_the_recorded_answers() -> Result<()> {
    replay_proposer([
        "b1-first-start",
        "b2-walproposer-restart",
        "b3-safekeeper-restart",
        "b4-stop-sync-restart",
        "b5-crash-sync-restart",
    ])
}

#[test]
fn errors_of_proposers_are_answered_as_recorded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path())?;
    let address = node.pg_address()?;
    let connections = proposer_connections("e5-acceptor-errors")?;
    for (name, recording) in &connections {
        match &name[..3] {
            "005" => stale_proposer(&connections, &address)?,
            // Runs in the middle of the one before.
            "006" => {}
            // The cluster's number changes on a timeline that has WAL: the reference overwrites it, we refuse.
            "011" => refused(name, recording, &address, "XX000")?,
            // Creation is not allowed: the reference closes without a word, we say why.
            "015" => refused(name, recording, &address, "XX000")?,
            _ => check(name, recording, &address)?,
        }
    }
    Ok(())
}

/// A proposer that learns from its append that another one was elected.
fn stale_proposer(connections: &[(String, Recording)], address: &str) -> Result<()> {
    let (stale, newer) = (connection(connections, "005"), connection(connections, "006"));
    let is_later = |time_us: u64| time_us > 12_000;
    let mut ran = false;
    let replayed = replay_around(&stale, address, |record| {
        if record.kind == RecordKind::ClientBytes && is_later(record.time_us) && !ran {
            ran = true;
            check("006", &newer, address)?;
        }
        Ok(())
    })?;
    ensure!(ran, "the other proposer ran in between");
    let answers = replayed.answers(ProtocolVersion::V3)?;
    let last = answers.iter().rev().find(|answer| matches!(answer, Answer::Appended { .. }));
    // The reference may let a second answer with its positions follow; ours says the term and nothing else.
    ensure!(matches!(last, Some(Answer::Appended { term: Term(10), .. })), "{last:?}");
    Ok(())
}

fn refused(name: &str, recording: &Recording, address: &str, sqlstate: &str) -> Result<()> {
    let mut connection = Connection::open(address)?;
    connection.send(&recording.joined(RecordKind::ClientBytes))?;
    let version = version_of(recording);
    connection.wait_until(version, |_| false)?;
    let answers = firn_tests::replay::answers(&connection.received, version, true)?;
    let expected = [Answer::Error(sqlstate.to_string()), Answer::Closed];
    ensure!(answers.ends_with(&expected), "{name}: {answers:?}");
    Ok(())
}

/// The timeline that the recordings of commands and readers are about.
fn recorded_timeline() -> TimelineKey {
    TimelineKey {
        tenant_id: "11110000000000000000000000000001".parse().unwrap(),
        timeline_id: "22220000000000000000000000000001".parse().unwrap(),
    }
}

const RECORDED_SYSTEM_ID: SystemId = SystemId(7_710_948_517_785_714_850);
const RECORDED_TERM: Term = Term(17);

/// Brings a node into the state that the readers were recorded in, with the WAL that they were sent.
fn push_recorded_wal(node: &NodeProcess) -> Result<()> {
    let create = CreateTimeline {
        key: recorded_timeline(),
        mconf: Membership::default(),
        pg_version: PostgresVersion(170_008),
        system_id: Some(RECORDED_SYSTEM_ID),
        wal_seg_size: None,
        start_lsn: RECORDED_START,
        commit_lsn: None,
        to_be_added: false,
    };
    NodeClient::new(&node.url()?, None).create(&create)?;
    let (start, wal) = recorded_wal()?;
    let mut proposer =
        HandmadeProposer::connect(&node.pg_address()?, recorded_timeline(), Generation(0))?;
    proposer.greet(RECORDED_SYSTEM_ID)?;
    proposer.vote(RECORDED_TERM)?;
    proposer.elected(&[(RECORDED_TERM, start)], start)?;
    let end = proposer.append_all(start, &wal)?;
    proposer.append(end, &[], RECORDED_COMMIT)?;
    proposer.wait_flushed(end)
}

#[test]
fn readers_get_the_recorded_wal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = start_node(folder.path())?;
    push_recorded_wal(&node)?;
    // Before and after a crash: from memory, then from the disk.
    for _ in 0..2 {
        for (name, recording) in proposer_connections("e2-start-replication")? {
            check(&name, &recording, &node.pg_address()?)?;
        }
        node.kill()?;
        node.start()?;
    }
    Ok(())
}

#[test]
fn commands_are_answered_as_recorded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let node = start_node(folder.path())?;
    push_recorded_wal(&node)?;
    for (name, recording) in proposer_connections("e1-commands")? {
        // Ids that are none: the reference closes without a word, we say why.
        if recorded_answers(&recording, ProtocolVersion::V3)? == [Answer::Closed] {
            refused(&name, &recording, &node.pg_address()?, "08P01")?;
            continue;
        }
        // The reference knows no SHOW, without which stock pg_receivewal does not begin.
        let sent = recording.joined(RecordKind::ClientBytes);
        if sent.windows(5).any(|text| text == b"SHOW ") {
            continue;
        }
        check(&name, &recording, &node.pg_address()?)?;
    }
    Ok(())
}
