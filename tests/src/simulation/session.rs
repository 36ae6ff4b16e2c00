//! One connection to the simulated primary: Postgres' physical replication protocol, server side, without a socket.
//!
//! Bytes go in, bytes come out; the caller moves them. It answers what a follower of a primary asks (PostgreSQL
//! documentation, "Streaming Replication Protocol"), refuses a slot that another session streams from, ends a historic
//! timeline's stream as Postgres does, and takes a status message as the reason to acknowledge commits.

use std::str::FromStr;

use firn_core::types::{Lsn, PostgresTimeline};
use firn_core::wire::postgres::message::{self, ColumnType, Encode, Frontend};
use firn_core::wire::postgres::replication::{FromReader, FromServer};
use firn_core::wire::postgres::startup::{self, StartupPacket};

use super::ledger::Ledger;
use super::primary::Primary;

/// Most WAL in one message, as Postgres' MAX_SEND_SIZE.
const WAL_MESSAGE_BYTES_MAX: u64 = 128 * 1024;

/// What all sessions of one primary share: its replication slot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot {
    restart_lsn: Option<Lsn>,
    /// The session that streams through it.
    active: Option<u32>,
}

impl Slot {
    /// No session lives any more: the primary died.
    pub fn release(&mut self) {
        self.active = None;
    }
}

/// The primary as a session sees it.
#[derive(Debug)]
pub struct Host<'a> {
    /// The machine.
    pub primary: &'a mut Primary,
    /// Its slot.
    pub slot: &'a mut Slot,
    /// What its clients know.
    pub ledger: &'a mut Ledger,
    /// Microseconds since 2000-01-01.
    pub now_us: i64,
}

/// The session is over; the connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Startup,
    Idle,
    Streaming { position: Lsn, ends: Option<(Lsn, PostgresTimeline)>, with_slot: bool },
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    process_id: u32,
    received: Vec<u8>,
    state: State,
    keepalive_sent: bool,
}

impl Session {
    /// A connection that was accepted just now; no two of a primary's life have the same number.
    pub fn new(process_id: u32) -> Session {
        Session { process_id, received: Vec::new(), state: State::Startup, keepalive_sent: false }
    }

    /// Takes received bytes, appends the answers to `out`.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Closed> {
        self.received.extend_from_slice(bytes);
        while self.step(host, out)? {}
        Ok(())
    }

    /// Appends WAL that was flushed since, at most one message. Whether there was any.
    pub fn stream(&mut self, host: &mut Host<'_>, out: &mut Vec<u8>) -> bool {
        let State::Streaming { position, ends, with_slot } = self.state else { return false };
        let available = host.primary.flushed();
        let end = ends.map_or(available, |(end, _)| end.min(available));
        if let Some((switch, next)) = ends
            && position >= switch
        {
            out.copy_done();
            out.row_description(&[
                ("next_tli", ColumnType::Int4),
                ("next_tli_startpos", ColumnType::Text),
            ]);
            out.data_row(&[Some(&next.0.to_string()), Some(&switch.to_string())]);
            out.command_complete("SELECT");
            out.command_complete("START_STREAMING");
            out.ready_for_query();
            self.leave_stream(host);
            return true;
        }
        if position >= end {
            if !self.keepalive_sent {
                self.keepalive_sent = true;
                let keepalive = FromServer::Keepalive {
                    server_end: available,
                    sent_at_us: host.now_us,
                    reply_requested: true,
                };
                out.message(b'd', |out| keepalive.encode(out));
            }
            return false;
        }
        let to = end.min(position + WAL_MESSAGE_BYTES_MAX);
        let wal = FromServer::Wal {
            start: position,
            server_end: available,
            sent_at_us: host.now_us,
            wal: host.primary.wal().read(position, to),
        };
        out.message(b'd', |out| wal.encode(out));
        self.state = State::Streaming { position: to, ends, with_slot };
        self.keepalive_sent = false;
        true
    }

    /// The connection is gone.
    pub fn close(&mut self, host: &mut Host<'_>) {
        self.leave_stream(host);
    }

    fn leave_stream(&mut self, host: &mut Host<'_>) {
        if host.slot.active == Some(self.process_id) {
            host.slot.active = None;
        }
        self.state = State::Idle;
    }

    fn step(&mut self, host: &mut Host<'_>, out: &mut Vec<u8>) -> Result<bool, Closed> {
        if self.state == State::Startup {
            let Some((packet, length)) = startup::decode(&self.received).map_err(|_| Closed)?
            else {
                return Ok(false);
            };
            self.received.drain(..length);
            self.start(&packet, out)?;
            return Ok(true);
        }
        let received = std::mem::take(&mut self.received);
        let Some((message, length)) = message::decode(&received).map_err(|_| Closed)? else {
            self.received = received;
            return Ok(false);
        };
        let message = Frontend::from_message(message).map_err(|_| Closed)?;
        self.answer(&message, host, out)?;
        self.received = received[length..].to_vec();
        Ok(true)
    }

    fn start(&mut self, packet: &StartupPacket, out: &mut Vec<u8>) -> Result<(), Closed> {
        match packet {
            StartupPacket::SslRequest | StartupPacket::GssEncryptionRequest => out.push(b'N'),
            StartupPacket::CancelRequest => return Err(Closed),
            StartupPacket::Startup(_) => {
                out.authentication_ok();
                out.parameter_status("client_encoding", "UTF8");
                out.parameter_status("server_version", "16.9");
                out.message(b'K', |out| {
                    out.extend_from_slice(&self.process_id.to_be_bytes());
                    out.extend_from_slice(&[0; 4]);
                });
                out.ready_for_query();
                self.state = State::Idle;
            }
        }
        Ok(())
    }

    fn answer(
        &mut self,
        message: &Frontend<'_>,
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Closed> {
        match (message, self.state) {
            (Frontend::Terminate, _) => Err(Closed),
            (Frontend::Query(text), State::Idle) => {
                if let Err((code, text)) = self.query(text, host, out) {
                    out.error_response(code, &text);
                    out.ready_for_query();
                }
                Ok(())
            }
            (Frontend::CopyData(payload), State::Streaming { with_slot, .. }) => {
                self.status(payload, with_slot, host)
            }
            (Frontend::CopyDone, State::Streaming { .. }) => {
                out.copy_done();
                out.command_complete("COPY 0");
                out.command_complete("START_STREAMING");
                out.ready_for_query();
                self.leave_stream(host);
                Ok(())
            }
            // What was on its way when the stream ended.
            (Frontend::CopyData(_) | Frontend::CopyDone, State::Idle) => Ok(()),
            _ => Err(Closed),
        }
    }

    fn status(
        &mut self,
        payload: &[u8],
        with_slot: bool,
        host: &mut Host<'_>,
    ) -> Result<(), Closed> {
        match FromReader::decode(payload).map_err(|_| Closed)? {
            FromReader::StandbyStatus { flush, .. } if with_slot => {
                if flush.is_valid() {
                    host.slot.restart_lsn = Some(flush);
                }
                host.primary.acknowledge(flush, host.ledger);
            }
            _ => {}
        }
        Ok(())
    }

    fn query(
        &mut self,
        text: &str,
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), (&'static str, String)> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let cluster = host.primary.wal().cluster();
        let timeline = host.primary.wal().timeline();
        match words.as_slice() {
            ["IDENTIFY_SYSTEM"] => row(
                out,
                &[
                    ("systemid", Some(cluster.system_id.to_string())),
                    ("timeline", Some(timeline.0.to_string())),
                    ("xlogpos", Some(host.primary.flushed().to_string())),
                    ("dbname", None),
                ],
            ),
            ["SHOW", name] => {
                let value = match *name {
                    "in_hot_standby" => "off".to_string(),
                    "server_version_num" => cluster.postgres_version.0.to_string(),
                    "fsync" | "synchronous_commit" => "on".to_string(),
                    "wal_segment_size" => format!("{}MB", cluster.segment_size_bytes >> 20),
                    "synchronous_standby_names" => "firn".to_string(),
                    _ => {
                        let text = format!("unrecognized configuration parameter \"{name}\"");
                        return Err(("42704", text));
                    }
                };
                row(out, &[(name, Some(value))]);
            }
            ["TIMELINE_HISTORY", number] => {
                if *number != timeline.0.to_string() {
                    return Err(("58P01", format!("no history of timeline {number}")));
                }
                let name = format!("{:08X}.history", timeline.0);
                row(
                    out,
                    &[("filename", Some(name)), ("content", Some(host.primary.wal().history()))],
                );
            }
            ["READ_REPLICATION_SLOT", _] => {
                let kind = host.slot.restart_lsn.map(|_| "physical".to_string());
                let restart_lsn = host.slot.restart_lsn.map(|lsn| lsn.to_string());
                let restart_timeline = host.slot.restart_lsn.map(|_| timeline.0.to_string());
                row(
                    out,
                    &[
                        ("slot_type", kind),
                        ("restart_lsn", restart_lsn),
                        ("restart_tli", restart_timeline),
                    ],
                );
            }
            ["CREATE_REPLICATION_SLOT", name, ..] => {
                host.slot.restart_lsn = Some(host.primary.wal().start());
                row(
                    out,
                    &[
                        ("slot_name", Some((*name).to_string())),
                        ("consistent_point", Some("0/0".to_string())),
                        ("snapshot_name", None),
                        ("output_plugin", None),
                    ],
                );
            }
            ["START_REPLICATION", rest @ ..] => return self.start_replication(rest, host, out),
            ["SELECT", ..] => {
                out.row_description(&[
                    ("application_name", ColumnType::Text),
                    ("pid", ColumnType::Int4),
                ]);
                out.command_complete("SELECT 0");
            }
            _ => return Err(("42601", format!("the simulated primary does not know {text:?}"))),
        }
        out.ready_for_query();
        Ok(())
    }

    fn start_replication(
        &mut self,
        words: &[&str],
        host: &mut Host<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), (&'static str, String)> {
        let with_slot = words.contains(&"SLOT");
        let syntax = || ("42601", format!("START_REPLICATION {words:?}"));
        let position = words.iter().find_map(|word| Lsn::from_str(word).ok()).ok_or_else(syntax)?;
        let wal = host.primary.wal();
        let timeline = words
            .iter()
            .skip_while(|word| **word != "TIMELINE")
            .nth(1)
            .map_or(Ok(wal.timeline().0), |text| text.parse())
            .map_err(|_| syntax())?;
        let ends = wal
            .switches()
            .iter()
            .find(|switch| switch.parent.0 == timeline)
            .map(|switch| (switch.at, PostgresTimeline(timeline + 1)));
        if ends.is_none() && timeline != wal.timeline().0 {
            return Err((
                "XX000",
                format!("requested timeline {timeline} is not in this server's history"),
            ));
        }
        if position < wal.start() {
            return Err((
                "58P01",
                format!("requested WAL segment of {position} has already been removed"),
            ));
        }
        if position > ends.map_or(host.primary.flushed(), |(end, _)| end) {
            return Err((
                "XX000",
                format!("requested starting point {position} is ahead of the WAL"),
            ));
        }
        if with_slot {
            if host.slot.restart_lsn.is_none() {
                return Err(("42704", "replication slot does not exist".to_string()));
            }
            if host.slot.active.is_some_and(|process_id| process_id != self.process_id) {
                return Err(("55006", "replication slot is active".to_string()));
            }
            host.slot.active = Some(self.process_id);
        }
        out.copy_both();
        self.state = State::Streaming { position, ends, with_slot };
        Ok(())
    }
}

/// One row of texts with its description and completion.
fn row(out: &mut Vec<u8>, columns: &[(&str, Option<String>)]) {
    let description: Vec<_> = columns.iter().map(|(name, _)| (*name, ColumnType::Text)).collect();
    let values: Vec<_> = columns.iter().map(|(_, value)| value.as_deref()).collect();
    out.row_description(&description);
    out.data_row(&values);
    out.command_complete("SELECT 1");
}
