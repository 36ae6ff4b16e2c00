//! Replaying the client's side of a recorded connection against a node, and comparing the answers.
//!
//! The replay keeps the recording's order: what the client sent after an answer is sent after our answer to the same.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use firn_core::types::{Lsn, Term};
use firn_core::wire::postgres::message::{self, HEADER_BYTES};
use firn_core::wire::postgres::replication::FromServer;
use firn_core::wire::walproposer::{AcceptorMessage, ProtocolVersion};

use firn_tools::clock;

use crate::recordings::{Record, RecordKind, Recording};

/// Longest wait for an answer that the recording has.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// One thing that a server said, as far as two servers can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The one byte that answers a request for encryption.
    Encryption(u8),
    /// A message that has to be the same, byte for byte.
    Exact {
        /// Its tag.
        tag: char,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A row; which values two nodes share depends on the timeline.
    Row(Vec<u8>),
    /// An error: its SQLSTATE. Texts differ.
    Error(String),
    /// A greeting, without the node id.
    Greeting {
        /// The acceptor's term.
        term: Term,
    },
    /// A vote response, as it is.
    Vote(AcceptorMessage),
    /// The last of any number of append responses in a row.
    Appended {
        /// Its term.
        term: Term,
        /// Its flush position.
        flush_lsn: Lsn,
    },
    /// WAL, any number of messages in a row.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The server closed.
    Closed,
}

/// Reads what a server said. Keepalives are left out: how many there are is a matter of time.
pub fn answers(bytes: &[u8], version: ProtocolVersion, closed: bool) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut rest = bytes;
    if rest.first() == Some(&b'N') && rest.get(1) == Some(&b'R') {
        answers.push(Answer::Encryption(b'N'));
        rest = &rest[1..];
    }
    while let Some((found, length)) = message::decode(rest)? {
        let answer = match found.tag {
            b'd' => data(found.payload, version)?,
            b'E' => Some(Answer::Error(sqlstate(found.payload)?)),
            b'D' => Some(Answer::Row(found.payload.to_vec())),
            tag => Some(Answer::Exact { tag: tag.into(), payload: found.payload.to_vec() }),
        };
        rest = &rest[length..];
        match (answers.last_mut(), answer) {
            (_, None) => {}
            (Some(last @ Answer::Appended { .. }), Some(next @ Answer::Appended { .. })) => {
                *last = next;
            }
            (Some(Answer::Wal { bytes, .. }), Some(Answer::Wal { bytes: more, .. })) => {
                bytes.extend(more);
            }
            (_, Some(next)) => answers.push(next),
        }
    }
    if closed {
        answers.push(Answer::Closed);
    }
    Ok(answers)
}

fn data(payload: &[u8], version: ProtocolVersion) -> Result<Option<Answer>> {
    if let Ok(from_server) = FromServer::decode(payload) {
        return Ok(match from_server {
            FromServer::Keepalive { .. } => None,
            FromServer::Wal { start, wal, .. } => Some(Answer::Wal { start, bytes: wal.to_vec() }),
        });
    }
    Ok(Some(match AcceptorMessage::decode(version, payload)? {
        AcceptorMessage::Greeting(greeting) => Answer::Greeting { term: greeting.term },
        AcceptorMessage::AppendResponse(response) => {
            Answer::Appended { term: response.term, flush_lsn: response.flush_lsn }
        }
        vote @ AcceptorMessage::VoteResponse(_) => Answer::Vote(vote),
    }))
}

fn sqlstate(payload: &[u8]) -> Result<String> {
    let fields = payload.split(|byte| *byte == 0);
    let code = fields.filter_map(|field| field.strip_prefix(b"C")).next();
    Ok(String::from_utf8(code.context("an error without SQLSTATE")?.to_vec())?)
}

/// The text of the first error in what a server said.
pub fn error_text(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while let Ok(Some((found, length))) = message::decode(rest) {
        if found.tag == b'E' {
            let mut fields = found.payload.split(|byte| *byte == 0);
            let text = fields.find_map(|field| field.strip_prefix(b"M"))?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = &rest[length..];
    }
    None
}

/// What a replayed connection gave.
#[derive(Debug)]
pub struct Replayed {
    /// All bytes from our server.
    pub received: Vec<u8>,
    /// Whether our server closed.
    pub closed: bool,
}

impl Replayed {
    /// What our server said.
    pub fn answers(&self, version: ProtocolVersion) -> Result<Vec<Answer>> {
        answers(&self.received, version, self.closed)
    }
}

/// What the recorded server said.
pub fn recorded_answers(recording: &Recording, version: ProtocolVersion) -> Result<Vec<Answer>> {
    let closed = recorded_close(recording, version)?;
    answers(&recording.joined(RecordKind::ServerBytes), version, closed)
}

/// Whether the recorded server closed of its own accord or after its client, and not because it was killed.
fn recorded_close(recording: &Recording, version: ProtocolVersion) -> Result<bool> {
    let ended = |kind| recording.records.iter().any(|record| record.kind == kind);
    let said = answers(&recording.joined(RecordKind::ServerBytes), version, false)?;
    let said_why = match said.last() {
        None | Some(Answer::Error(_) | Answer::Exact { tag: 'c', .. }) => true,
        // Creation refused: the reference says nothing behind CopyBoth.
        Some(Answer::Exact { tag: 'W', .. }) => true,
        Some(_) => false,
    };
    Ok(ended(RecordKind::ServerClosed) && (ended(RecordKind::ClientClosed) || said_why))
}

/// The version of the walproposer protocol that a recorded client asks for.
pub fn version_of(recording: &Recording) -> ProtocolVersion {
    let sent = recording.joined(RecordKind::ClientBytes);
    let asks_v3 = sent.windows(17).any(|window| window == b"proto_version '3'");
    if asks_v3 { ProtocolVersion::V3 } else { ProtocolVersion::V2 }
}

/// Replays the client's side, waiting before each of its messages for as many answers as the recorded client had had.
pub fn replay(recording: &Recording, address: &str) -> Result<Replayed> {
    replay_around(recording, address, |_| Ok(()))
}

/// As [`replay`]; `before` is called before each of the client's messages, once the answers before it are there.
pub fn replay_around(
    recording: &Recording,
    address: &str,
    mut before: impl FnMut(&Record) -> Result<()>,
) -> Result<Replayed> {
    let version = version_of(recording);
    let mut connection = Connection::open(address)?;
    let mut heard = Vec::new();
    let last_client = recording
        .records
        .iter()
        .rposition(|record| {
            matches!(record.kind, RecordKind::ClientBytes | RecordKind::ClientClosed)
        })
        .unwrap_or(0);
    for (index, record) in recording.records.iter().enumerate() {
        match record.kind {
            RecordKind::ServerBytes => heard.extend_from_slice(&record.bytes),
            RecordKind::ServerClosed => {
                connection.wait_for(&answers(&heard, version, true)?, version)?;
            }
            RecordKind::ClientBytes => {
                connection.wait_for(&answers(&heard, version, false)?, version)?;
                before(record)?;
                // Our server may have closed where the recorded one did a moment later.
                if let Err(error) = connection.stream.write_all(&record.bytes) {
                    ensure!(connection.closed || is_reset(&error), "send: {error}");
                }
            }
            RecordKind::ClientClosed => {
                connection.wait_for(&answers(&heard, version, false)?, version)?;
                // The peer may be gone already.
                let _ = connection.stream.shutdown(std::net::Shutdown::Write);
            }
        }
        if index == last_client {
            let rest = &recording.records[index + 1..];
            let server = rest.iter().filter(|record| record.kind == RecordKind::ServerBytes);
            heard.extend(server.flat_map(|record| record.bytes.iter().copied()));
            let closed = recorded_close(recording, version)?;
            connection.wait_for(&answers(&heard, version, closed)?, version)?;
            break;
        }
    }
    Ok(Replayed { received: connection.received, closed: connection.closed })
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// A connection whose answers are kept.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// All bytes from the server.
    pub received: Vec<u8>,
    /// Whether it closed.
    pub closed: bool,
}

impl Connection {
    /// Connects.
    pub fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Connection { stream, received: Vec::new(), closed: false })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    /// Receives until there are as many answers as wanted, with the last append as far.
    pub fn wait_for(&mut self, wanted: &[Answer], version: ProtocolVersion) -> Result<()> {
        self.wait_until(version, |answers| {
            answers.len() > wanted.len()
                || (answers.len() == wanted.len() && reaches(answers.last(), wanted.last()))
        })
        .with_context(|| format!("waiting for {:?}", wanted.last()))
    }

    /// Receives until the answers are as wanted, or the server closed.
    pub fn wait_until(
        &mut self,
        version: ProtocolVersion,
        wanted: impl Fn(&[Answer]) -> bool,
    ) -> Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        let started = clock::now();
        loop {
            let found = answers(&self.received, version, self.closed)?;
            if self.closed || wanted(&found) {
                return Ok(());
            }
            // Keepalives come for ever.
            ensure!(started.elapsed() < ANSWER_LIMIT, "nothing more after {found:?}");
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if is_reset(&error) => self.closed = true,
                Err(error) => bail!("no answer after {found:?}: {error}"),
            }
        }
    }
}

/// Whether an answer that grows is as long as the wanted one.
fn reaches(found: Option<&Answer>, wanted: Option<&Answer>) -> bool {
    match (found, wanted) {
        (
            Some(Answer::Appended { flush_lsn, term }),
            Some(Answer::Appended { flush_lsn: wanted, term: wanted_term }),
        ) => flush_lsn >= wanted || term != wanted_term,
        (Some(Answer::Wal { bytes, .. }), Some(Answer::Wal { bytes: wanted, .. })) => {
            bytes.len() >= wanted.len()
        }
        _ => true,
    }
}

/// Bytes of one message with tag and length.
pub fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.push(tag);
    bytes.extend_from_slice(&(payload.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
