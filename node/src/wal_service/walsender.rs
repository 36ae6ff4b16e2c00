//! What a stock replication client asks before it streams: who the cluster is, its settings, its timelines, its slots.
//!
//! Clients have to find here what they would find on a primary, so names, columns and error codes are Postgres'
//! (PostgreSQL src/backend/replication/walsender.c). Only settled Postgres timelines are told: a reader that was led to a
//! timeline of which nothing is committed yet could not come back when another primary goes on.

use std::collections::BTreeSet;
use std::rc::Rc;

use firn_core::types::{PostgresTimeline, PostgresVersion};
use firn_core::wire::postgres::message::{ColumnType, Encode};

use crate::shard::slots::SlotError;
use crate::shard::timeline::Timeline;
use crate::shard::wal_files::history_file;
use crate::wal_service::command::Question;

/// SQLSTATE `undefined_object`.
const UNDEFINED_OBJECT: &str = "42704";
/// SQLSTATE `duplicate_object`.
const DUPLICATE_OBJECT: &str = "42710";
/// SQLSTATE `undefined_file`.
pub const UNDEFINED_FILE: &str = "58P01";
/// SQLSTATE `configuration_limit_exceeded`.
const LIMIT_EXCEEDED: &str = "53400";

/// What the reference acceptor says to everyone, and this one when no replication client asks or nobody has told the
/// cluster's version: clients then use what every version understands.
const VERSION_UNKNOWN: &str = "14.1";

/// A refusal: its SQLSTATE and text.
pub type Refusal = (&'static str, String);

/// The parameter `server_version` of a cluster.
pub fn server_version(version: PostgresVersion) -> String {
    match version.major() {
        0 => VERSION_UNKNOWN.to_string(),
        major => format!("{major}.{}", version.0 % 10_000),
    }
}

/// Slots that end with their connection; a connection concerns one timeline.
#[derive(Default)]
pub struct TemporarySlots {
    timeline: Option<Rc<Timeline>>,
    /// Slots of this connection that exist, so no more than a timeline has.
    names: BTreeSet<String>,
}

impl Drop for TemporarySlots {
    fn drop(&mut self) {
        let Some(timeline) = &self.timeline else { return };
        for name in &self.names {
            // Another connection may have dropped it.
            let _ = timeline.slots().remove(name);
        }
    }
}

/// Answers a question.
pub fn answer(
    timeline: &Rc<Timeline>,
    question: &Question,
    temporary_slots: &mut TemporarySlots,
    answer: &mut Vec<u8>,
) -> Result<(), Refusal> {
    match question {
        Question::Show(name) => show(timeline, name, answer)?,
        Question::TimelineHistory(number) => timeline_history(timeline, *number, answer)?,
        Question::ReadSlot(name) => read_slot(timeline, name, answer),
        Question::CreateSlot { name, temporary } => {
            create_slot(timeline, name, answer)?;
            if *temporary {
                temporary_slots.timeline = Some(timeline.clone());
                temporary_slots.names.insert(name.clone());
            }
        }
        Question::DropSlot(name) => {
            timeline.slots().remove(name).map_err(refused_slot)?;
            temporary_slots.names.remove(name);
            answer.command_complete("DROP_REPLICATION_SLOT");
        }
    }
    Ok(())
}

/// `SHOW name`.
fn show(timeline: &Timeline, name: &str, answer: &mut Vec<u8>) -> Result<(), Refusal> {
    let version = timeline.with_acceptor(|acceptor| acceptor.state().postgres_version);
    let value = match name {
        // What pg_receivewal gives its files: nobody but their owner reads them.
        "data_directory_mode" => "0700".to_string(),
        "wal_segment_size" => segment_size(timeline.segment_size_bytes()),
        "server_version" => server_version(version),
        "server_version_num" => version.0.to_string(),
        _ => {
            let text = format!("unrecognized configuration parameter \"{name}\"");
            return Err((UNDEFINED_OBJECT, text));
        }
    };
    answer.row_description(&[(name, ColumnType::Text)]);
    answer.data_row(&[Some(&value)]);
    answer.command_complete("SHOW");
    Ok(())
}

/// As Postgres writes a size: in the largest unit that is whole.
fn segment_size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes.is_multiple_of(1024 * MIB) {
        true => format!("{}GB", bytes / (1024 * MIB)),
        false => format!("{}MB", bytes / MIB),
    }
}

/// `TIMELINE_HISTORY n`.
fn timeline_history(
    timeline: &Timeline,
    postgres_timeline: PostgresTimeline,
    answer: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let name = format!("{:08X}.history", postgres_timeline.0);
    let history = timeline.settled_postgres_history();
    let Some(text) = history_file(&history, postgres_timeline) else {
        let text = format!("could not open file \"pg_wal/{name}\": No such file or directory");
        return Err((UNDEFINED_FILE, text));
    };
    answer.row_description(&[("filename", ColumnType::Text), ("content", ColumnType::Bytes)]);
    answer.data_row(&[Some(&name), Some(&text)]);
    answer.command_complete("TIMELINE_HISTORY");
    Ok(())
}

/// `READ_REPLICATION_SLOT name`: a slot that nobody made is a row of nulls.
fn read_slot(timeline: &Timeline, name: &str, answer: &mut Vec<u8>) {
    answer.row_description(&[
        ("slot_type", ColumnType::Text),
        ("restart_lsn", ColumnType::Text),
        ("restart_tli", ColumnType::Int8),
    ]);
    match timeline.slots().position(name) {
        None => answer.data_row(&[None, None, None]),
        Some(position) => {
            let history = timeline.settled_postgres_history();
            let postgres_timeline = history.timeline_at(position).0.to_string();
            let position = position.to_string();
            answer.data_row(&[Some("physical"), Some(&position), Some(&postgres_timeline)]);
        }
    }
    answer.command_complete("READ_REPLICATION_SLOT");
}

/// `CREATE_REPLICATION_SLOT name PHYSICAL`: from the committed end on.
fn create_slot(timeline: &Timeline, name: &str, answer: &mut Vec<u8>) -> Result<(), Refusal> {
    let position = timeline.positions().commit_lsn;
    timeline.slots().create(name, position).map_err(refused_slot)?;
    answer.row_description(&[
        ("slot_name", ColumnType::Text),
        ("consistent_point", ColumnType::Text),
        ("snapshot_name", ColumnType::Text),
        ("output_plugin", ColumnType::Text),
    ]);
    answer.data_row(&[Some(name), Some("0/0"), None, None]);
    answer.command_complete("CREATE_REPLICATION_SLOT");
    Ok(())
}

/// What a client is told of a slot that it cannot have.
pub fn refused_slot(error: SlotError) -> Refusal {
    let code = match error {
        SlotError::Exists(_) => DUPLICATE_OBJECT,
        SlotError::Unknown(_) => UNDEFINED_OBJECT,
        SlotError::TooMany => LIMIT_EXCEEDED,
    };
    (code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_versions_are_written_as_postgres_does() {
        assert_eq!(segment_size(1 << 20), "1MB");
        assert_eq!(segment_size(16 << 20), "16MB");
        assert_eq!(segment_size(1 << 30), "1GB");
        assert_eq!(server_version(PostgresVersion(160_009)), "16.9");
        assert_eq!(server_version(PostgresVersion(0)), "14.1");
    }
}
