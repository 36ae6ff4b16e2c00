//! The sending half of a reader's connection.
//!
//! Nothing waits for it: it holds no place of the journal while it sends, and what it has read and not sent is bounded
//! by [`READ_AHEAD_BYTES_MAX`]. A message costs one copy and one send; a read of the journal gives several messages when
//! the reader is behind.

use std::rc::Rc;
use std::time::Duration;

use firn_core::consensus::postgres_history::PostgresSwitch;
use firn_core::types::{Lsn, PostgresTimeline, Term};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::replication::{FromServer, POSTGRES_EPOCH_UNIX_US};
use futures_util::future::select;

use super::pages::foreign_page;
use super::{End, PAGE_BYTES, Signals};
use crate::journal::READ_BYTES_MAX;
use crate::runtime::Stream;
use crate::shard::Shard;
use crate::shard::readers::{Feedback, ReaderEntry};
use crate::shard::timeline::{ReadError, Timeline};
use crate::wal_service::command::StartReplication;
use crate::wal_service::session::SessionError;

/// Most WAL in one message: 16 pages, as walproposers send.
const CHUNK_BYTES_MAX: u64 = 128 * 1024;
/// Most WAL that a reader has in memory: one read of the journal, in which a moved file's piece is read whole anyway.
const READ_AHEAD_BYTES_MAX: u64 = READ_BYTES_MAX as u64;
/// How long nothing is said to a reader that has everything.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Sends one reader its WAL.
pub(super) struct Sender<'a> {
    pub(super) shard: &'a Shard,
    pub(super) timeline: &'a Rc<Timeline>,
    pub(super) stream: &'a Stream,
    pub(super) reader: &'a ReaderEntry,
    pub(super) asked: &'a StartReplication,
}

/// WAL that was read and not sent yet.
struct ReadAhead {
    begin: Lsn,
    wal: Vec<u8>,
}

/// Up to where WAL may go to the reader now, and what comes behind that.
struct Available {
    end: Lsn,
    /// The timeline that follows the reader's, which ends at `end`.
    next: Option<PostgresSwitch>,
}

impl Sender<'_> {
    /// Sends until the stream ends. `Err`: the socket failed.
    pub(super) async fn run(&self, signals: &Signals) -> Result<End, SessionError> {
        let mut position = self.asked.start;
        let first = self.timeline.first_readable_lsn();
        if position < first {
            return Ok(End::Failed(format!(
                "Requested streaming from {position}, which is before the start of the timeline {first}"
            )));
        }
        let mut ahead = ReadAhead { begin: position, wal: Vec::new() };
        loop {
            // Taken before the conditions are looked at, so that no change is missed.
            let changed = self.timeline.changed();
            let signalled = signals.notify.notified();
            if let Some(end) = signals.end.take() {
                return Ok(end);
            }
            let available = match self.available() {
                Ok(available) => available,
                Err(end) => return Ok(end),
            };
            if signals.reply_due.take() {
                self.send_keepalive(available.end, false).await?;
            }
            if position < available.end {
                position = match self.send_chunk(position, available.end, &mut ahead).await? {
                    Ok(position) => position,
                    Err(end) => return Ok(end),
                };
                self.reader.update(|entry| entry.sent_lsn = position);
                continue;
            }
            if let Some(next) = available.next {
                return self.end_of_timeline(position, next).await;
            }
            let (changed, signalled) = (std::pin::pin!(changed), std::pin::pin!(signalled));
            let wake = select(changed, signalled);
            if self.shard.runtime().within(KEEPALIVE_INTERVAL, wake).await.is_none() {
                if let Some(end) = self.caught_up(position, available.end) {
                    return Ok(end);
                }
                self.send_keepalive(available.end, true).await?;
            }
        }
    }

    fn available(&self) -> Result<Available, End> {
        let positions = self.timeline.positions();
        if self.timeline.is_deleted() {
            return Err(End::Failed(format!("timeline {} was deleted", self.timeline.key())));
        }
        let next =
            self.asked.timeline.and_then(|number| self.timeline.postgres_timeline_after(number));
        match (self.asked.term, next) {
            (None, Some(next)) => Ok(Available { end: next.lsn, next: Some(next) }),
            (None, None) => Ok(Available { end: positions.commit_lsn, next: None }),
            (Some(term), _) if term == positions.term => {
                Ok(Available { end: positions.flush_lsn, next: None })
            }
            (Some(term), _) => Err(End::Failed(wrong_term(term, positions.term))),
        }
    }

    async fn end_of_timeline(
        &self,
        position: Lsn,
        next: PostgresSwitch,
    ) -> Result<End, SessionError> {
        if position > next.lsn {
            let timeline = self.asked.timeline.expect("only a timeline that was named ends");
            return Ok(End::Failed(super::not_in_history(position, timeline, next)));
        }
        let mut done = Vec::new();
        done.copy_done();
        self.stream.send_all(done).await.0.map_err(SessionError::Send)?;
        self.shard.metrics().counters.reader_switches.increment();
        Ok(End::Switched(next))
    }

    async fn send_chunk(
        &self,
        position: Lsn,
        available: Lsn,
        ahead: &mut ReadAhead,
    ) -> Result<Result<Lsn, End>, SessionError> {
        if ahead.begin + ahead.wal.len() as u64 == position {
            *ahead = match self.read_ahead(position, available).await {
                Ok(ahead) => ahead,
                Err(end) => return Ok(Err(end)),
            };
        }
        // The end may have come nearer since it was read: a timeline turned out to end there.
        let read = available.min(ahead.begin + ahead.wal.len() as u64);
        let end = chunk_end(position, read, CHUNK_BYTES_MAX, self.timeline.segment_size_bytes());
        let wal = &ahead.wal[(position - ahead.begin) as usize..(end - ahead.begin) as usize];
        self.send_message(FromServer::Wal {
            start: position,
            server_end: available,
            sent_at_us: self.now_us(),
            wal,
        })
        .await?;
        self.shard.metrics().counters.read_bytes.add(wal.len() as u64);
        if end == ahead.begin + ahead.wal.len() as u64 {
            // Who waits for more keeps no memory.
            *ahead = ReadAhead { begin: end, wal: Vec::new() };
        }
        Ok(Ok(end))
    }

    async fn read_ahead(&self, position: Lsn, available: Lsn) -> Result<ReadAhead, End> {
        let segment_bytes = self.timeline.segment_size_bytes();
        let end = chunk_end(position, available, READ_AHEAD_BYTES_MAX, segment_bytes);
        let wal = self.timeline.read_wal(position, (end - position) as usize).await;
        let wal = wal.map_err(|error| End::Failed(error.to_string()))?;
        if wal.is_empty() {
            // A newer proposer has cut it off since the position was looked at.
            return Err(End::Failed(ReadError::CutOff { position }.to_string()));
        }
        if self.asked.timeline.is_some() {
            self.check_timeline(position, &wal)?;
        }
        Ok(ReadAhead { begin: position, wal })
    }

    /// Refuses WAL of a Postgres timeline that this node was not told of.
    fn check_timeline(&self, position: Lsn, wal: &[u8]) -> Result<(), End> {
        let foreign = self.timeline.with_acceptor(|acceptor| {
            let state = acceptor.state();
            foreign_page(wal, position, state.local_start_lsn, &state.postgres_history)
        });
        match foreign {
            None => Ok(()),
            Some((page, PostgresTimeline(found))) => Err(End::Failed(format!(
                "WAL at {page} is of Postgres timeline {found}, and nobody has told this node where that begins"
            ))),
        }
    }

    async fn send_keepalive(
        &self,
        available: Lsn,
        reply_requested: bool,
    ) -> Result<(), SessionError> {
        let sent_at_us = self.now_us();
        self.send_message(FromServer::Keepalive {
            server_end: available,
            sent_at_us,
            reply_requested,
        })
        .await
    }

    async fn send_message(&self, message: FromServer<'_>) -> Result<(), SessionError> {
        let mut bytes = Vec::new();
        bytes.message(b'd', |out| message.encode(out));
        self.stream.send_all(bytes).await.0.map_err(SessionError::Send)
    }

    /// Whether the reader is a page server that has made everything durable while nobody writes.
    fn caught_up(&self, position: Lsn, available: Lsn) -> Option<End> {
        let Feedback::Pageserver { remote_consistent_lsn } = self.reader.feedback() else {
            return None;
        };
        let stock = self.asked.timeline.is_some();
        let idle = self.asked.term.is_none() && !stock && !self.timeline.has_proposer();
        let done = remote_consistent_lsn.is_valid() && remote_consistent_lsn >= available;
        (idle && (done || !available.is_valid()))
            .then(|| End::CaughtUp { reader: self.reader.name(), position })
    }

    fn now_us(&self) -> i64 {
        self.shard.runtime().unix_time_us() - POSTGRES_EPOCH_UNIX_US
    }
}

fn wrong_term(asked: Term, current: Term) -> String {
    format!("failed to acquire term {asked}, current term {current}")
}

/// Where a message or a read that begins at `position` ends: within a segment, and at a page when more is available.
fn chunk_end(position: Lsn, available: Lsn, bytes_max: u64, segment_bytes: u64) -> Lsn {
    let segment_end = position.segment_start(segment_bytes) + segment_bytes;
    let limit = position + bytes_max;
    let end = available.min(segment_end);
    if end <= limit { end } else { Lsn(limit.0 - limit.0 % PAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn chunks_end_at_pages_segments_or_the_available_end() {
        let end = |position, available| {
            chunk_end(Lsn(position), Lsn(available), CHUNK_BYTES_MAX, SEGMENT).0
        };
        assert_eq!(end(0x16F_2830, 0x173_BC10), 0x171_2000);
        assert_eq!(end(0x171_2000, 0x173_BC10), 0x173_2000);
        assert_eq!(end(0x173_2000, 0x173_BC10), 0x173_BC10);
        assert_eq!(end(0x1FF_F000, 0x300_0000), 0x200_0000);
        assert_eq!(end(0x1FE_0000, 0x300_0000), 0x200_0000);
        assert_eq!(end(0x1FD_FFFF, 0x300_0000), 0x1FF_E000);
    }
}
