//! A reader's connection: WAL out, status and feedback in.
//!
//! Without a term a reader gets what is committed; with a term all that is durable here, as long as the term is this
//! acceptor's. A reader that names a Postgres timeline, as every stock client does, gets that timeline's WAL, is told at
//! its end which one follows, and goes on with commands. Reading the socket and writing to it are two halves of one
//! task; only the writing half sends ([`sender`]).

mod pages;
mod sender;

use std::cell::Cell;
use std::rc::Rc;

use firn_core::consensus::postgres_history::PostgresSwitch;
use firn_core::journal::wal_file::wal_file_name;
use firn_core::types::{Lsn, PostgresTimeline};
use firn_core::wire::postgres::message::{ColumnType, Encode, Frontend};
use firn_core::wire::postgres::replication::FromReader;
use firn_core::wire::postgres::startup::ReadProtocol;
use futures_util::future::{Either, select};
use thiserror::Error;

use crate::runtime::sync::Notify;
use crate::shard::metrics::Count;
use crate::shard::readers::{Feedback, ReaderEntry};
use crate::shard::timeline::Timeline;
use crate::wal_service::command::StartReplication;
use crate::wal_service::receive::{ReceiveError, Received};
use crate::wal_service::session::{INTERNAL_ERROR, SUCCESSFUL, Session, SessionError};
use crate::wal_service::walsender::{self, Refusal, UNDEFINED_FILE};
use sender::Sender;

/// Postgres' page size; messages that do not end the available WAL end at a page.
const PAGE_BYTES: u64 = 8192;

/// What the connection does when the stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It goes on with commands.
    NextCommand,
    /// It is closed.
    Close,
}

/// Why a stream ends. Its text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum End {
    /// The client said CopyDone: it is answered by the same.
    #[error("copy done")]
    Done,
    /// All of the Postgres timeline was sent, and CopyDone; this one follows.
    #[error("end of timeline")]
    Switched(PostgresSwitch),
    /// The client left without a word.
    #[error("closed")]
    Closed,
    /// The client said CopyFail.
    #[error("received CopyFail")]
    CopyFail,
    /// Nobody writes and the reader has all.
    #[error(
        "ending streaming to {reader:?} at {position}, receiver is caughtup and there is no computes"
    )]
    CaughtUp { reader: Option<String>, position: Lsn },
    /// Any error.
    #[error("{0}")]
    Failed(String),
}

/// Streams WAL until either side ends it. What is left to say then is appended to `answer`.
pub async fn serve(
    session: &mut Session,
    timeline: &Rc<Timeline>,
    asked: &StartReplication,
    answer: &mut Vec<u8>,
) -> Result<After, SessionError> {
    if let Err((code, text)) = begin(timeline, asked) {
        answer.error_response(code, &text);
        return Ok(After::NextCommand);
    }
    let mut copy = Vec::new();
    copy.copy_both();
    session.send(copy).await?;
    let end = stream(session, timeline, asked).await?;
    let mut last = Vec::new();
    match &end {
        End::Closed => return Ok(After::Close),
        End::Switched(next) => {
            answer_next_timeline(*next, answer);
            return Ok(After::NextCommand);
        }
        End::Done if asked.timeline.is_some() => {
            answer.copy_done();
            complete(answer);
            return Ok(After::NextCommand);
        }
        End::Done => last.copy_done(),
        End::CopyFail | End::CaughtUp { .. } => last.error_response(SUCCESSFUL, &end.to_string()),
        End::Failed(text) => {
            tracing::info!(reason = text, "stream to a reader ends");
            last.error_response(INTERNAL_ERROR, text);
        }
    }
    session.send(last).await?;
    Ok(After::Close)
}

/// Judges a start before the stream begins. One exactly where the timeline is left begins a stream and ends it: a primary
/// answers without a stream there, with which walreceivers get along and pg_receivewal does not.
fn begin(timeline: &Timeline, asked: &StartReplication) -> Result<(), Refusal> {
    if let Some(number) = asked.timeline {
        let history = timeline.settled_postgres_history();
        if !history.contains(number) {
            let text = format!("requested timeline {} is not in this server's history", number.0);
            return Err((INTERNAL_ERROR, text));
        }
        let segment_bytes = timeline.segment_size_bytes();
        let first = history.begin_of(number).segment_start(segment_bytes);
        if asked.start < first.max(timeline.first_readable_lsn()) {
            let name = wal_file_name(number, asked.start, segment_bytes as u32);
            let text = format!("requested WAL segment {name} has already been removed");
            return Err((UNDEFINED_FILE, text));
        }
        if let Some(next) = history.after(number).filter(|next| next.lsn < asked.start) {
            return Err((INTERNAL_ERROR, not_in_history(asked.start, number, next)));
        }
    }
    if let Some(name) = &asked.slot {
        timeline.slots().enter(name, asked.start).map_err(walsender::refused_slot)?;
    }
    Ok(())
}

fn not_in_history(start: Lsn, timeline: PostgresTimeline, next: PostgresSwitch) -> String {
    format!(
        "requested starting point {start} on timeline {} is not in this server's history, which left it at {}",
        timeline.0, next.lsn
    )
}

/// What ends the stream of a timeline that another one follows.
fn answer_next_timeline(next: PostgresSwitch, answer: &mut Vec<u8>) {
    answer.row_description(&[
        ("next_tli", ColumnType::Int8),
        ("next_tli_startpos", ColumnType::Text),
    ]);
    answer.data_row(&[Some(&next.timeline.0.to_string()), Some(&next.lsn.to_string())]);
    complete(answer);
}

/// Postgres completes a stream twice, and its clients count on it.
fn complete(answer: &mut Vec<u8>) {
    answer.command_complete("START_STREAMING");
    answer.command_complete("START_REPLICATION");
}

async fn stream(
    session: &mut Session,
    timeline: &Rc<Timeline>,
    asked: &StartReplication,
) -> Result<End, SessionError> {
    if session.parameters.read_protocol == ReadProtocol::Interpreted {
        return Ok(End::Failed(
            "interpreted WAL is not offered: ask for protocol {\"type\":\"vanilla\"}".into(),
        ));
    }
    let Session { shard, stream, received, place, parameters, .. } = session;
    let name = Some(parameters.application_name.clone()).filter(|name| !name.is_empty());
    let reader = timeline.readers().enter(place.id(), name);
    reader.update(|entry| entry.sent_lsn = asked.start);
    let _counted = Counted::new(&shard.metrics().counters.readers);
    let signals = Signals::default();
    let sender = Sender { shard, timeline, stream, reader: &reader, asked };
    let sending = sender.run(&signals);
    let receiving = async {
        let receiving =
            Receiving { timeline, reader: &reader, slot: asked.slot.as_deref(), signals: &signals };
        let end = loop {
            match receiving.handle(received) {
                Ok(Some(end)) => break end,
                Ok(None) => {}
                Err(error) => break End::Failed(error),
            }
            match received.fill(stream).await {
                Ok(()) => place.heard(),
                Err(ReceiveError::Closed | ReceiveError::Io(_)) => break End::Closed,
                Err(error) => break End::Failed(error.to_string()),
            }
        };
        signals.set(end);
    };
    let end = match select(std::pin::pin!(sending), std::pin::pin!(receiving)).await {
        Either::Left((end, receiving)) => match end? {
            End::Switched(next) => {
                // The client ends its direction too before it hears what follows.
                receiving.await;
                End::Switched(next)
            }
            end => end,
        },
        // The receiving half said why before it ended; the sending half finishes its message and stops.
        Either::Right(((), sending)) => sending.await?,
    };
    Ok(match (end, signals.end.take()) {
        (End::Switched(next), None | Some(End::Done)) => End::Switched(next),
        (End::Switched(_), Some(other)) => other,
        (end, _) => end,
    })
}

/// A reader in a gauge.
struct Counted<'a>(&'a Count);

impl Counted<'_> {
    fn new(count: &Count) -> Counted<'_> {
        count.increment();
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

/// What the receiving half tells the sending one.
#[derive(Default)]
struct Signals {
    /// Why to stop.
    end: Cell<Option<End>>,
    /// Whether the client waits for a sign of life.
    reply_due: Cell<bool>,
    notify: Notify,
}

impl Signals {
    fn set(&self, end: End) {
        self.end.set(Some(end));
        self.notify.notify_all();
    }
}

/// The receiving half of a reader's connection.
struct Receiving<'a> {
    timeline: &'a Timeline,
    reader: &'a ReaderEntry,
    slot: Option<&'a str>,
    signals: &'a Signals,
}

impl Receiving<'_> {
    fn handle(&self, received: &mut Received) -> Result<Option<End>, String> {
        while let Some(message) = received.next_message().map_err(|error| error.to_string())? {
            match Frontend::from_message(message).map_err(|error| error.to_string())? {
                Frontend::CopyData(payload) => {
                    let message = FromReader::decode(payload).map_err(|error| error.to_string())?;
                    self.apply(message);
                }
                Frontend::CopyDone => return Ok(Some(End::Done)),
                Frontend::CopyFail => return Ok(Some(End::CopyFail)),
                Frontend::Terminate => return Ok(Some(End::Closed)),
                Frontend::Sync | Frontend::Flush => {}
                _ => return Err("unexpected message during streaming".to_string()),
            }
        }
        Ok(None)
    }

    fn apply(&self, message: FromReader) {
        match message {
            FromReader::StandbyStatus { flush, apply, reply_requested, .. } => {
                self.reader
                    .update(|entry| entry.feedback = entry.feedback.with_status(flush, apply));
                if let Some(slot) = self.slot {
                    let committed = self.timeline.positions().commit_lsn;
                    self.timeline.slots().advance(slot, flush.min(committed));
                }
                if reply_requested {
                    self.signals.reply_due.set(true);
                    self.signals.notify.notify_all();
                }
            }
            FromReader::HotStandbyFeedback { sent_at_us, xmin, catalog_xmin } => {
                self.reader.update(|entry| {
                    entry.feedback = entry.feedback.with_xmin(sent_at_us, xmin, catalog_xmin);
                });
            }
            FromReader::PageserverFeedback(feedback) => {
                let remote_consistent_lsn = feedback.remote_consistent_lsn;
                self.reader.update(|entry| {
                    entry.feedback = Feedback::Pageserver { remote_consistent_lsn }
                });
                self.timeline.spread_pageserver_feedback(feedback);
            }
        }
    }
}
