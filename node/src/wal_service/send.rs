//! A reader's connection: WAL out, status and feedback in.
//!
//! Without a term a reader gets what is committed; with a term all that is durable here, as long as the term is this
//! acceptor's. Reading the socket and writing to it are two halves of one task; only the writing half sends.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::types::{Lsn, Term};
use firn_core::wire::postgres::message::{Encode, Frontend};
use firn_core::wire::postgres::replication::{
    FromReader, FromServer, POSTGRES_EPOCH_UNIX_US, ReplicationError,
};
use firn_core::wire::postgres::startup::ReadProtocol;
use futures_util::future::{Either, select};
use thiserror::Error;

use crate::runtime::sync::Notify;
use crate::shard::readers::{Feedback, ReaderEntry};
use crate::shard::timeline::{ReadError, Timeline};
use crate::wal_service::receive::{ReceiveError, Received};
use crate::wal_service::session::{INTERNAL_ERROR, SUCCESSFUL, Session, SessionError};

/// Most WAL in one message: 16 pages, as walproposers send.
const CHUNK_BYTES_MAX: u64 = 128 * 1024;
/// Postgres' page size; chunks that do not end the available WAL end at a page.
const PAGE_BYTES: u64 = 8192;
/// How long nothing is said to a reader that has everything.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a stream ends. Its text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum End {
    /// The client said CopyDone: it is answered by the same.
    #[error("copy done")]
    Done,
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

/// Streams WAL from `start` until either side ends it.
pub async fn serve(
    session: Session,
    timeline: Rc<Timeline>,
    start: Lsn,
    term: Option<Term>,
) -> Result<(), SessionError> {
    let mut answer = Vec::new();
    answer.copy_both();
    session.send(answer).await?;

    let Session { shard, stream, mut received, place, parameters } = session;
    let name = Some(parameters.application_name).filter(|name| !name.is_empty());
    let reader = timeline.readers().enter(place.id(), name);
    shard.metrics().counters.readers.increment();
    let stop = Stop::default();
    let end = if parameters.read_protocol == ReadProtocol::Interpreted {
        End::Failed(
            "interpreted WAL is not offered: ask for protocol {\"type\":\"vanilla\"}".into(),
        )
    } else {
        let sending = async {
            let sender =
                Sender { shard: &shard, timeline: &timeline, stream: &stream, reader: &reader };
            sender.run(start, term, &stop).await
        };
        let receiving = async {
            let end = loop {
                match handle_received(&mut received, &timeline, &reader) {
                    Ok(Some(end)) => break end,
                    Ok(None) => {}
                    Err(error) => break End::Failed(error),
                }
                match received.fill(&stream).await {
                    Ok(()) => place.heard(),
                    Err(ReceiveError::Closed | ReceiveError::Io(_)) => break End::Closed,
                    Err(error) => break End::Failed(error.to_string()),
                }
            };
            stop.set(end);
        };
        match select(std::pin::pin!(sending), std::pin::pin!(receiving)).await {
            Either::Left((end, _)) => end?,
            // The receiving half said why before it ended; the sending half finishes its message and stops.
            Either::Right(((), sending)) => sending.await?,
        }
    };
    shard.metrics().counters.readers.decrement();
    let mut last = Vec::new();
    match &end {
        End::Closed => return Ok(()),
        End::Done => last.copy_done(),
        End::CopyFail | End::CaughtUp { .. } => last.error_response(SUCCESSFUL, &end.to_string()),
        End::Failed(text) => {
            tracing::info!(reason = text, "stream to a reader ends");
            last.error_response(INTERNAL_ERROR, text);
        }
    }
    stream.send_all(last).await.0.map_err(SessionError::Send)
}

/// How the receiving half stops the sending one.
#[derive(Default)]
struct Stop {
    end: Cell<Option<End>>,
    notify: Notify,
}

impl Stop {
    fn set(&self, end: End) {
        self.end.set(Some(end));
        self.notify.notify_all();
    }
}

fn handle_received(
    received: &mut Received,
    timeline: &Timeline,
    reader: &ReaderEntry,
) -> Result<Option<End>, String> {
    while let Some(message) = received.next_message().map_err(|error| error.to_string())? {
        match Frontend::from_message(message).map_err(|error| error.to_string())? {
            Frontend::CopyData(payload) => {
                let message = FromReader::decode(payload);
                apply_feedback(message, timeline, reader).map_err(|error| error.to_string())?;
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

fn apply_feedback(
    message: Result<FromReader, ReplicationError>,
    timeline: &Timeline,
    reader: &ReaderEntry,
) -> Result<(), ReplicationError> {
    match message? {
        FromReader::StandbyStatus { flush, apply, .. } => {
            reader.update(|entry| entry.feedback = entry.feedback.with_status(flush, apply));
        }
        FromReader::HotStandbyFeedback { sent_at_us, xmin, catalog_xmin } => {
            reader.update(|entry| {
                entry.feedback = entry.feedback.with_xmin(sent_at_us, xmin, catalog_xmin);
            });
        }
        FromReader::PageserverFeedback(feedback) => {
            let remote_consistent_lsn = feedback.remote_consistent_lsn;
            reader.update(|entry| entry.feedback = Feedback::Pageserver { remote_consistent_lsn });
            timeline.spread_pageserver_feedback(feedback);
        }
    }
    Ok(())
}

struct Sender<'a> {
    shard: &'a crate::shard::Shard,
    timeline: &'a Rc<Timeline>,
    stream: &'a crate::runtime::Stream,
    reader: &'a ReaderEntry,
}

impl Sender<'_> {
    /// Sends until the stream ends. `Err`: the socket failed.
    async fn run(&self, start: Lsn, term: Option<Term>, stop: &Stop) -> Result<End, SessionError> {
        let first = self.timeline.first_readable_lsn();
        if start < first {
            return Ok(End::Failed(format!(
                "Requested streaming from {start}, which is before the start of the timeline {first}"
            )));
        }
        let mut position = start;
        loop {
            // Taken before the conditions are looked at, so that no change is missed.
            let changed = self.timeline.changed();
            let stopped = stop.notify.notified();
            if let Some(end) = stop.end.take() {
                return Ok(end);
            }
            let available = match self.available(term) {
                Ok(available) => available,
                Err(end) => return Ok(end),
            };
            if position < available {
                position = match self.send_chunk(position, available).await? {
                    Ok(position) => position,
                    Err(error) => return Ok(End::Failed(error.to_string())),
                };
                self.reader.update(|entry| entry.sent_lsn = position);
                continue;
            }
            let (changed, stopped) = (std::pin::pin!(changed), std::pin::pin!(stopped));
            let wake = select(changed, stopped);
            let timer = std::pin::pin!(self.shard.runtime().sleep(KEEPALIVE_INTERVAL));
            if let Either::Right(_) = select(wake, timer).await {
                if let Some(end) = self.caught_up(position, available, term) {
                    return Ok(end);
                }
                self.send_keepalive(available).await?;
            }
        }
    }

    /// End of what this reader may have now.
    fn available(&self, term: Option<Term>) -> Result<Lsn, End> {
        let positions = self.timeline.positions();
        if self.timeline.is_deleted() {
            return Err(End::Failed(format!("timeline {} was deleted", self.timeline.key())));
        }
        match term {
            None => Ok(positions.commit_lsn),
            Some(term) if term == positions.term => Ok(positions.flush_lsn),
            Some(term) => Err(End::Failed(format!(
                "failed to acquire term {term}, current term {}",
                positions.term
            ))),
        }
    }

    async fn send_chunk(
        &self,
        position: Lsn,
        available: Lsn,
    ) -> Result<Result<Lsn, ReadError>, SessionError> {
        let segment_bytes = self.timeline.segment_size_bytes();
        let end = chunk_end(position, available, segment_bytes);
        let wal = match self.timeline.read_wal(position, (end - position) as usize).await {
            Ok(wal) => wal,
            Err(error) => return Ok(Err(error)),
        };
        if wal.is_empty() {
            // A newer proposer has cut it off since the position was looked at.
            return Ok(Err(ReadError::CutOff { position }));
        }
        self.send_message(FromServer::Wal {
            start: position,
            server_end: available,
            sent_at_us: self.now_us(),
            wal: &wal,
        })
        .await?;
        self.shard.metrics().counters.read_bytes.add(wal.len() as u64);
        Ok(Ok(position + wal.len() as u64))
    }

    async fn send_keepalive(&self, available: Lsn) -> Result<(), SessionError> {
        let sent_at_us = self.now_us();
        self.send_message(FromServer::Keepalive {
            server_end: available,
            sent_at_us,
            reply_requested: true,
        })
        .await
    }

    async fn send_message(&self, message: FromServer<'_>) -> Result<(), SessionError> {
        let mut bytes = Vec::new();
        bytes.message(b'd', |out| message.encode(out));
        self.stream.send_all(bytes).await.0.map_err(SessionError::Send)
    }

    /// Whether the reader is a page server that has made everything durable while nobody writes.
    fn caught_up(&self, position: Lsn, available: Lsn, term: Option<Term>) -> Option<End> {
        let Feedback::Pageserver { remote_consistent_lsn } = self.reader.feedback() else {
            return None;
        };
        let idle = term.is_none() && !self.timeline.has_proposer();
        let done = remote_consistent_lsn.is_valid() && remote_consistent_lsn >= available;
        (idle && (done || !available.is_valid()))
            .then(|| End::CaughtUp { reader: self.reader.name(), position })
    }

    fn now_us(&self) -> i64 {
        self.shard.runtime().unix_time_us() - POSTGRES_EPOCH_UNIX_US
    }
}

/// Where a message that begins at `position` ends.
fn chunk_end(position: Lsn, available: Lsn, segment_bytes: u64) -> Lsn {
    let segment_end = position.segment_start(segment_bytes) + segment_bytes;
    let limit = position + CHUNK_BYTES_MAX;
    let end = available.min(segment_end);
    if end <= limit { end } else { Lsn(limit.0 - limit.0 % PAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn chunks_end_at_pages_segments_or_the_available_end() {
        let end = |position, available| chunk_end(Lsn(position), Lsn(available), SEGMENT).0;
        assert_eq!(end(0x16F_2830, 0x173_BC10), 0x171_2000);
        assert_eq!(end(0x171_2000, 0x173_BC10), 0x173_2000);
        assert_eq!(end(0x173_2000, 0x173_BC10), 0x173_BC10);
        assert_eq!(end(0x1FF_F000, 0x300_0000), 0x200_0000);
        assert_eq!(end(0x1FE_0000, 0x300_0000), 0x200_0000);
        assert_eq!(end(0x1FD_FFFF, 0x300_0000), 0x1FF_E000);
    }
}
