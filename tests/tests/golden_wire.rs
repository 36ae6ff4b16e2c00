//! Every recorded message between real proposers, acceptors and WAL readers is understood, and written again it is the
//! same bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use firn_core::wire::postgres::replication::{FromReader, FromServer};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use firn_tests::recordings::conversation::{Conversation, Message, Sender};
use firn_tests::recordings::{scenario, shared_directory};

/// Messages that are malformed on purpose, and how they differ: scenario and connection, tag of the message.
const MALFORMED: &[(&str, &str, Oddity)] = &[
    // A vote request with one byte behind it, which acceptors ignore: written again it is one byte shorter.
    ("e5-acceptor-errors", "019-compute-sk1", Oddity::OneByteBehind(b'v')),
    // A message of an unknown kind.
    ("e5-acceptor-errors", "020-compute-sk1", Oddity::Unknown(b'q')),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oddity {
    OneByteBehind(u8),
    Unknown(u8),
}

/// How many messages of each kind were checked.
type Counts = BTreeMap<String, usize>;

fn scenarios() -> Result<Vec<String>> {
    let folder = shared_directory()?.join("golden/neon/wire");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

#[test]
fn every_message_with_an_acceptor_reads_and_writes_the_same_bytes() -> Result<()> {
    let mut counts = Counts::new();
    for scenario_name in scenarios()? {
        for (name, recording) in scenario(&scenario_name)? {
            if !name.contains("-sk") {
                continue;
            }
            let place = format!("{scenario_name}/{name}");
            let conversation = recording.conversation().with_context(|| place.clone())?;
            let oddity = MALFORMED.iter().find(|(scenario, connection, _)| {
                *scenario == scenario_name && *connection == name
            });
            check(&conversation, oddity.map(|(_, _, oddity)| *oddity), &mut counts)
                .with_context(|| place.clone())?;
        }
    }
    println!("{counts:?}");
    for kind in ["V2 g", "V2 v", "V2 e", "V2 a", "V3 g", "V3 v", "V3 e", "V3 a"] {
        for sender in ["Client", "Server"] {
            let answered = !(kind.ends_with('e') && sender == "Server");
            let count = counts.get(&format!("{sender} {kind}")).copied().unwrap_or(0);
            ensure!((count > 0) == answered, "{sender} {kind}: {count} messages");
        }
    }
    for kind in ["Server w", "Server k", "Client r", "Client h", "Client z"] {
        ensure!(counts.contains_key(kind), "no message {kind}");
    }
    Ok(())
}

fn check(conversation: &Conversation, oddity: Option<Oddity>, counts: &mut Counts) -> Result<()> {
    let query = conversation.first_query();
    let copy_data = conversation.messages.iter().filter(|message| message.tag == b'd');
    if query.starts_with("START_WAL_PUSH") {
        let version = match query {
            query if query.contains("proto_version '3'") => ProtocolVersion::V3,
            query if query.contains("proto_version '2'") => ProtocolVersion::V2,
            // Version 9 does not exist: nothing can be said of its messages.
            _ => return Ok(()),
        };
        for message in copy_data {
            check_push(message, version, oddity, counts).with_context(|| {
                format!("{:?}", &message.payload[..message.payload.len().min(80)])
            })?;
        }
        return Ok(());
    }
    // A pageserver reads records decoded and filtered: only its own kind understands that stream.
    let interpreted = conversation.messages.iter().any(|message| {
        message.sender == Sender::Server && message.tag == b'd' && message.payload[0] == b'0'
    });
    for message in copy_data {
        if !(interpreted && message.payload[0] == b'0') {
            check_replication(message, counts)?;
        }
    }
    Ok(())
}

fn check_push(
    message: &Message,
    version: ProtocolVersion,
    oddity: Option<Oddity>,
    counts: &mut Counts,
) -> Result<()> {
    let bytes = &message.payload;
    let tag = bytes[0];
    let mut written = Vec::new();
    match message.sender {
        Sender::Client => match ProposerMessage::decode(version, bytes) {
            Ok(decoded) => decoded.encode(version, &mut written),
            Err(error) => {
                ensure!(oddity == Some(Oddity::Unknown(tag)), "{error}");
                return Ok(());
            }
        },
        Sender::Server => AcceptorMessage::decode(version, bytes)?.encode(version, &mut written),
    }
    if oddity == Some(Oddity::OneByteBehind(tag)) && message.sender == Sender::Client {
        written.push(bytes[bytes.len() - 1]);
    }
    ensure!(written == *bytes, "written again: {:?}", &written[..written.len().min(80)]);
    let kind = format!("{:?} {version:?} {}", message.sender, char::from(tag));
    *counts.entry(kind).or_default() += 1;
    Ok(())
}

fn check_replication(message: &Message, counts: &mut Counts) -> Result<()> {
    let bytes = &message.payload;
    let mut written = Vec::new();
    match message.sender {
        Sender::Client => FromReader::decode(bytes)?.encode(&mut written),
        Sender::Server => FromServer::decode(bytes)?.encode(&mut written),
    }
    ensure!(written == *bytes, "written again: {written:?}, recorded: {bytes:?}");
    let kind = format!("{:?} {}", message.sender, char::from(bytes[0]));
    *counts.entry(kind).or_default() += 1;
    Ok(())
}
