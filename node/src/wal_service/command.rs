//! The commands of the Postgres port: text to values, pure.

mod replication;

use firn_core::api::PeerReport;
use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::types::Term;
use thiserror::Error;

pub use replication::{Question, StartReplication};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Becomes a proposer's connection.
    StartWalPush {
        /// Version of the walproposer protocol. Not checked here: an unknown one fails at the first message.
        protocol_version: u32,
        /// Whether an unknown timeline may be made.
        allow_timeline_creation: bool,
    },
    /// Streams WAL.
    StartReplication(StartReplication),
    /// What stock clients ask before they stream.
    Walsender(Question),
    /// Firn's own, from a relay: which Postgres timelines wrote the log. Names of WAL files follow from it.
    SetPostgresHistory {
        /// The relay's term: only the elected proposer tells.
        term: Term,
        /// The history.
        history: PostgresHistory,
    },
    /// Firn's own, from a fence: asks for what the last relay told.
    PostgresHistory,
    /// Tells about the cluster.
    IdentifySystem,
    /// Tells positions.
    TimelineStatus,
    /// Firn's own, from another node: all that the HTTP API tells of a timeline.
    TimelineState,
    /// Firn's own, from another node: the positions of timelines that both hold.
    ExchangePositions(PeerReport),
    /// `set datestyle to ...`: changes nothing, but some drivers insist on it.
    SetDatestyle,
}

/// A command that is not understood. The connection stays usable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No such command.
    #[error("unsupported command {0}")]
    Unsupported(String),
    /// A slot for logical decoding, for which a catalog is needed.
    #[error(
        "logical replication slots are not offered here: make it on the primary or on a standby that streams from here"
    )]
    LogicalSlot,
    /// A position or an option that does not parse.
    #[error("failed to parse {name} command {text}")]
    Malformed {
        /// The command.
        name: &'static str,
        /// All of its text.
        text: String,
    },
}

/// Longest part of a command that an error repeats, in bytes.
const ECHO_BYTES_MAX: usize = 256;

/// Understands a query. Names are case-sensitive, as in the reference acceptor; text behind what is known is ignored.
pub fn parse(text: &str) -> Result<Command, CommandError> {
    let malformed = |name| CommandError::Malformed { name, text: echo(text) };
    if let Some(rest) = text.strip_prefix("START_WAL_PUSH") {
        parse_push(rest).ok_or_else(|| malformed("START_WAL_PUSH"))
    } else if let Some(rest) = text.strip_prefix("START_REPLICATION") {
        let start = replication::parse_start(rest);
        start.map(Command::StartReplication).ok_or_else(|| malformed("START_REPLICATION"))
    } else if let Some(rest) = text.strip_prefix("SET_POSTGRES_HISTORY") {
        parse_history(rest).ok_or_else(|| malformed("SET_POSTGRES_HISTORY"))
    } else if text.starts_with("POSTGRES_HISTORY") {
        Ok(Command::PostgresHistory)
    } else if text.starts_with("IDENTIFY_SYSTEM") {
        Ok(Command::IdentifySystem)
    } else if let Some(rest) = text.strip_prefix("EXCHANGE_POSITIONS ") {
        let report = serde_json::from_str(rest).map_err(|_| malformed("EXCHANGE_POSITIONS"))?;
        Ok(Command::ExchangePositions(report))
    } else if text.starts_with("TIMELINE_STATE") {
        Ok(Command::TimelineState)
    } else if text.starts_with("TIMELINE_STATUS") {
        Ok(Command::TimelineStatus)
    } else if text.get(..17).is_some_and(|head| head.eq_ignore_ascii_case("set datestyle to ")) {
        Ok(Command::SetDatestyle)
    } else {
        replication::parse_question(text).map(Command::Walsender)
    }
}

fn echo(text: &str) -> String {
    let mut end = text.len().min(ECHO_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

/// ` (proto_version '3', allow_timeline_creation 'false')`, or nothing. Unknown keys are ignored.
fn parse_push(rest: &str) -> Option<Command> {
    let mut protocol_version = 2;
    let mut allow_timeline_creation = true;
    let rest = rest.trim();
    if !rest.is_empty() {
        let inside = rest.strip_prefix('(')?.strip_suffix(')')?;
        for pair in inside.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once(char::is_whitespace)?;
            let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            match name {
                "proto_version" => protocol_version = value.parse().ok()?,
                "allow_timeline_creation" => allow_timeline_creation = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(Command::StartWalPush { protocol_version, allow_timeline_creation })
}

/// The text of [`Command::SetPostgresHistory`], for a relay.
pub fn set_postgres_history(term: Term, history: &PostgresHistory) -> String {
    let json = serde_json::to_string(history).expect("a history has no keys that are not texts");
    format!("SET_POSTGRES_HISTORY (term='{term}') {json}")
}

/// ` (term='N') [{"timeline":1,"lsn":"0/0"},...]`.
fn parse_history(rest: &str) -> Option<Command> {
    let (term, json) = rest.trim_start().strip_prefix("(term='")?.split_once("')")?;
    let history = serde_json::from_str(json).ok()?;
    Some(Command::SetPostgresHistory { term: Term(term.parse().ok()?), history })
}

#[cfg(test)]
mod tests;
