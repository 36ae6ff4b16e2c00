//! The Postgres that the relay follows: who it is, how it is set, its slot, its WAL.

use firn_core::relay::history_file::{HistoryFileError, TimelinePath};
use firn_core::types::{Lsn, PostgresTimeline, PostgresVersion, SystemId};
use firn_core::wire::postgres::replication::ReplicationError;
use thiserror::Error;

use super::postgres::connection::{Connection, ConnectionError};
use super::postgres::conninfo::Conninfo;
use crate::runtime::Runtime;

/// Versions whose WAL Firn understands.
const MAJOR_VERSIONS: std::ops::RangeInclusive<u32> = 15..=18;

/// The setting by which `firn postgres run` says that a data directory is used once.
const SINGLE_USE_SETTING: &str = "firn.single_use_run";

/// SQLSTATE of a setting that does not exist (PostgreSQL src/backend/utils/errcodes.txt).
const UNDEFINED_OBJECT: &str = "42704";
/// SQLSTATE of a slot that another session streams from.
const OBJECT_IN_USE: &str = "55006";
/// SQLSTATE of a WAL file that is not there any more.
const UNDEFINED_FILE: &str = "58P01";
/// SQLSTATE of a slot that lost its WAL.
const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// Why a Postgres cannot be followed.
#[derive(Debug, Error)]
pub enum PrimaryError {
    /// The connection.
    #[error("postgres at {0}")]
    Connection(#[from] ConnectionError),
    /// An answer that does not say what it should.
    #[error("postgres answered {found:?} to {command}")]
    Answer {
        /// What was asked.
        command: &'static str,
        /// The answer.
        found: String,
    },
    /// Its timeline history.
    #[error("postgres sent a broken timeline history: {0}")]
    History(#[from] HistoryFileError),
    /// A message inside the WAL stream.
    #[error("postgres sent a broken WAL stream: {0}")]
    Stream(#[from] ReplicationError),
    /// WAL that does not continue what came before.
    #[error("postgres sent WAL at {found}, expected {expected}")]
    Gap {
        /// Where it should have gone on.
        expected: Lsn,
        /// Where it went on.
        found: Lsn,
    },
    /// It is a standby now.
    #[error(
        "postgres is in recovery: a relay follows primaries; it retries until this one is promoted"
    )]
    InRecovery,
    /// A version whose WAL is not understood.
    #[error("postgres {0} is not supported, expected a major version from 15 to 18")]
    Version(u32),
    /// It may lose what it says it has.
    #[error(
        "postgres runs with fsync=off: after a crash its WAL may differ from what it sent; set fsync=on, or start it by `firn postgres run`"
    )]
    FsyncOff,
    /// The slot is someone else's, or of another kind.
    #[error("replication slot {slot:?} is not physical: choose another name with --slot")]
    SlotKind {
        /// The slot.
        slot: String,
    },
    /// WAL that the quorum lacks is not on the primary any more.
    #[error(
        "postgres no longer has WAL from {at} on ({reason}): the relay's replication slot was dropped or invalidated (max_slot_wal_keep_size). Nothing was changed; stop postgres, restore the missing segments from an archive into pg_wal and start both again, or rebuild the primary from the quorum (firn timeline rebuild)"
    )]
    WalGone {
        /// First byte that is needed.
        at: Lsn,
        /// What Postgres said.
        reason: String,
    },
}

impl PrimaryError {
    /// Whether trying again cannot help: someone has to act.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            PrimaryError::Version(_)
                | PrimaryError::FsyncOff
                | PrimaryError::SlotKind { .. }
                | PrimaryError::WalGone { .. }
        )
    }

    /// Whether the slot is streamed by another session at the moment.
    pub fn is_slot_in_use(&self) -> bool {
        matches!(self, PrimaryError::Connection(error) if error.code() == Some(OBJECT_IN_USE))
    }
}

/// How to reach the primary, and as whom.
#[derive(Debug, Clone)]
pub struct PrimaryOptions {
    /// Connection string, parsed.
    pub conninfo: Conninfo,
    /// The slot.
    pub slot: String,
    /// Name that `synchronous_standby_names` lists.
    pub application_name: String,
}

/// What a primary said about itself.
#[derive(Debug, Clone)]
pub struct Primary {
    /// The cluster.
    pub system_id: SystemId,
    /// Its version.
    pub version: PostgresVersion,
    /// Bytes in a WAL segment.
    pub segment_size_bytes: u32,
    /// The timelines that its WAL went through.
    pub path: TimelinePath,
    /// WAL up to here is on its disk.
    pub flush_lsn: Lsn,
}

impl Primary {
    /// Connects, asks, and checks that it can be followed at all.
    pub async fn identify(
        runtime: &Runtime,
        options: &PrimaryOptions,
    ) -> Result<(Primary, Connection), PrimaryError> {
        let mut connection = open_replication(runtime, options).await?;
        if connection.show("in_hot_standby").await? == "on" {
            return Err(PrimaryError::InRecovery);
        }
        let version = number(&mut connection, "server_version_num").await?;
        let version = PostgresVersion(version);
        if !MAJOR_VERSIONS.contains(&version.major()) {
            return Err(PrimaryError::Version(version.major()));
        }
        check_fsync(&mut connection).await?;
        let segment_size_bytes = segment_size_bytes(&connection.show("wal_segment_size").await?)?;
        let (system_id, timeline, flush_lsn) = identify_system(&mut connection).await?;
        let path = timeline_path(&mut connection, timeline).await?;
        let primary = Primary { system_id, version, segment_size_bytes, path, flush_lsn };
        Ok((primary, connection))
    }
}

impl Primary {
    /// Where its WAL ends by now, and the timelines that it went through.
    pub async fn refresh(&self, connection: &mut Connection) -> Result<Primary, PrimaryError> {
        let (system_id, timeline, flush_lsn) = identify_system(connection).await?;
        let path = timeline_path(connection, timeline).await?;
        Ok(Primary { system_id, path, flush_lsn, ..self.clone() })
    }
}

/// A replication session.
pub async fn open_replication(
    runtime: &Runtime,
    options: &PrimaryOptions,
) -> Result<Connection, PrimaryError> {
    let parameters =
        [("replication", "true"), ("application_name", options.application_name.as_str())];
    Ok(Connection::open(runtime, &options.conninfo, &parameters).await?)
}

/// A primary without fsync may lose what it sent, so it is followed only where `firn postgres run` made sure that its
/// directory is used once: it never comes back from a crash.
async fn check_fsync(connection: &mut Connection) -> Result<(), PrimaryError> {
    if connection.show("fsync").await? == "on" {
        return Ok(());
    }
    let run = match connection.show(SINGLE_USE_SETTING).await {
        Err(error) if error.code() == Some(UNDEFINED_OBJECT) => String::new(),
        run => run?,
    };
    if run.is_empty() || connection.show("restart_after_crash").await? != "off" {
        return Err(PrimaryError::FsyncOff);
    }
    tracing::warn!(run, "postgres runs with fsync=off: only the quorum keeps its WAL");
    Ok(())
}

async fn number(connection: &mut Connection, name: &'static str) -> Result<u32, PrimaryError> {
    let text = connection.show(name).await?;
    text.parse().map_err(|_| PrimaryError::Answer { command: name, found: text })
}

/// `SHOW` gives the size with a unit.
fn segment_size_bytes(text: &str) -> Result<u32, PrimaryError> {
    let shift = match text.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => 64,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    digits
        .parse::<u32>()
        .ok()
        .and_then(|count| count.checked_mul(1u32.checked_shl(shift)?))
        .filter(|size| size.is_power_of_two() && (1 << 20..=1 << 30).contains(size))
        .ok_or_else(|| PrimaryError::Answer {
            command: "SHOW wal_segment_size",
            found: text.to_string(),
        })
}

async fn identify_system(
    connection: &mut Connection,
) -> Result<(SystemId, PostgresTimeline, Lsn), PrimaryError> {
    let rows = connection.query("IDENTIFY_SYSTEM").await?;
    let parsed = match rows.as_slice() {
        [row] => match row.as_slice() {
            [Some(system_id), Some(timeline), Some(position), ..] => {
                system_id.parse().ok().zip(timeline.parse().ok()).zip(position.parse::<Lsn>().ok())
            }
            _ => None,
        },
        _ => None,
    };
    match parsed {
        Some(((system_id, timeline), position)) => {
            Ok((SystemId(system_id), PostgresTimeline(timeline), position))
        }
        None => {
            Err(PrimaryError::Answer { command: "IDENTIFY_SYSTEM", found: format!("{rows:?}") })
        }
    }
}

async fn timeline_path(
    connection: &mut Connection,
    timeline: PostgresTimeline,
) -> Result<TimelinePath, PrimaryError> {
    // The first timeline has no history file.
    if timeline == PostgresTimeline(1) {
        return Ok(TimelinePath::first(timeline));
    }
    let rows = connection.query(&format!("TIMELINE_HISTORY {}", timeline.0)).await?;
    match rows.first().map(Vec::as_slice) {
        Some([_, Some(content)]) => Ok(TimelinePath::parse(timeline, content)?),
        _ => Err(PrimaryError::Answer { command: "TIMELINE_HISTORY", found: format!("{rows:?}") }),
    }
}

/// Makes sure that there is a slot which keeps WAL, and gives the position from which it does.
pub async fn ensure_slot(connection: &mut Connection, slot: &str) -> Result<Lsn, PrimaryError> {
    let quoted = quote_identifier(slot);
    match read_slot(connection, slot, &quoted).await? {
        Some(restart_lsn) if restart_lsn.is_valid() => return Ok(restart_lsn),
        Some(_) => {
            // Postgres took its WAL away, or it never reserved any. From version 16 on a slot that lost its WAL keeps
            // none ever after, also while it is streamed from.
            tracing::warn!(
                slot,
                "the replication slot keeps no WAL (invalidated by max_slot_wal_keep_size?): making it anew"
            );
            connection.query(&format!("DROP_REPLICATION_SLOT {quoted}")).await?;
        }
        None => {}
    }
    connection.query(&format!("CREATE_REPLICATION_SLOT {quoted} PHYSICAL RESERVE_WAL")).await?;
    tracing::info!(slot, "created the replication slot");
    read_slot(connection, slot, &quoted).await?.ok_or_else(|| PrimaryError::Answer {
        command: "READ_REPLICATION_SLOT",
        found: "no slot after its creation".to_string(),
    })
}

async fn read_slot(
    connection: &mut Connection,
    slot: &str,
    quoted: &str,
) -> Result<Option<Lsn>, PrimaryError> {
    let rows = match connection.query(&format!("READ_REPLICATION_SLOT {quoted}")).await {
        // Of a logical slot.
        Err(error) if error.code() == Some("0A000") => {
            return Err(PrimaryError::SlotKind { slot: slot.to_string() });
        }
        rows => rows?,
    };
    match rows.first().map(Vec::as_slice) {
        Some([Some(kind), restart_lsn, ..]) if kind == "physical" => {
            let lsn = restart_lsn.as_deref().and_then(|text| text.parse().ok());
            Ok(Some(lsn.unwrap_or(Lsn::INVALID)))
        }
        Some([None, ..]) => Ok(None),
        _ => Err(PrimaryError::Answer {
            command: "READ_REPLICATION_SLOT",
            found: format!("{rows:?}"),
        }),
    }
}

/// Begins to stream WAL at `at`, through the slot if one is named.
pub async fn start_replication(
    connection: &mut Connection,
    path: &TimelinePath,
    slot: Option<&str>,
    at: Lsn,
) -> Result<(), PrimaryError> {
    let slot = slot.map_or(String::new(), |slot| format!("SLOT {} ", quote_identifier(slot)));
    let timeline = path.timeline_at(at).0;
    let command = format!("START_REPLICATION {slot}PHYSICAL {at} TIMELINE {timeline}");
    connection.start_copy_both(&command).await.map_err(|error| wal_error(error, at))
}

/// Tells WAL that is gone from any other refusal.
pub fn wal_error(error: ConnectionError, at: Lsn) -> PrimaryError {
    let gone = match error.code() {
        Some(UNDEFINED_FILE) => true,
        Some(OBJECT_NOT_IN_PREREQUISITE_STATE) => error.to_string().contains("slot"),
        _ => false,
    };
    if gone { PrimaryError::WalGone { at, reason: error.to_string() } } else { error.into() }
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
