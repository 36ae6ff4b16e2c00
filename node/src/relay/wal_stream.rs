//! Reading WAL: from a primary, across its timelines, and from an acceptor.

use bytes::Bytes;
use firn_core::relay::history_file::TimelinePath;
use firn_core::types::{Lsn, Term, TimelineKey};
use firn_core::wire::postgres::message::{Backend, Encode};
use firn_core::wire::postgres::replication::FromServer;

use super::acceptor::{AcceptorError, AcceptorOptions, open_acceptor};
use super::postgres::connection::{Connection, ConnectionError, refusal};
use super::postgres::transport::Transport;
use super::primary::{self, PrimaryError, PrimaryOptions};
use crate::runtime::Runtime;

/// What a stream gives.
#[derive(Debug)]
pub enum WalEvent {
    /// WAL that continues what came before.
    Wal(Bytes),
    /// The sender has nothing more for now.
    Keepalive {
        /// Whether it wants a status at once.
        reply_requested: bool,
    },
}

enum Received {
    Event(WalEvent),
    TimelineEnded,
}

/// A stream of one server's WAL.
struct WalStream {
    connection: Connection,
    position: Lsn,
}

impl WalStream {
    async fn next(&mut self) -> Result<Received, PrimaryError> {
        let expected = self.position;
        let message = self.connection.receive().await?;
        let payload = match Backend::from_message(message).map_err(ConnectionError::from)? {
            Backend::CopyData(payload) => payload,
            Backend::CopyDone => return Ok(Received::TimelineEnded),
            Backend::Error { .. } => return Err(primary::wal_error(refusal(message), expected)),
            // A server that shuts down sent all its WAL and completes the command.
            Backend::Other(b'C') => return Err(ConnectionError::Closed.into()),
            _ => {
                let (tag, during) = (message.tag.into(), "streaming WAL");
                return Err(ConnectionError::Unexpected { tag, during }.into());
            }
        };
        Ok(Received::Event(match FromServer::decode(payload)? {
            FromServer::Wal { start, .. } if start != expected => {
                return Err(PrimaryError::Gap { expected, found: start });
            }
            FromServer::Wal { wal, .. } => {
                self.position = expected + wal.len() as u64;
                WalEvent::Wal(Bytes::copy_from_slice(wal))
            }
            FromServer::Keepalive { reply_requested, .. } => {
                WalEvent::Keepalive { reply_requested }
            }
        }))
    }
}

/// A primary's WAL, followed from one of its timelines to the next.
pub struct PrimaryWal {
    stream: WalStream,
    path: TimelinePath,
    slot: Option<String>,
}

impl PrimaryWal {
    /// Streams from `at` on. Through a slot the primary keeps what was not reported as flushed.
    pub async fn open(
        runtime: &Runtime,
        options: &PrimaryOptions,
        path: &TimelinePath,
        slot: Option<&str>,
        at: Lsn,
    ) -> Result<PrimaryWal, PrimaryError> {
        let mut connection = primary::open_replication(runtime, options).await?;
        primary::start_replication(&mut connection, path, slot, at).await?;
        let stream = WalStream { connection, position: at };
        Ok(PrimaryWal { stream, path: path.clone(), slot: slot.map(str::to_string) })
    }

    /// The position of the next byte.
    pub fn position(&self) -> Lsn {
        self.stream.position
    }

    /// For a task that sends status while another receives.
    pub fn transport(&self) -> Transport {
        self.stream.connection.transport()
    }

    /// The server process that sends.
    pub fn process_id(&self) -> Option<i32> {
        self.stream.connection.process_id()
    }

    /// Whether the next message is here already.
    pub fn has_message(&self) -> bool {
        self.stream.connection.has_message()
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<WalEvent, PrimaryError> {
        loop {
            match self.stream.next().await? {
                Received::Event(event) => return Ok(event),
                Received::TimelineEnded => self.follow().await?,
            }
        }
    }

    /// The server sent all of a timeline that it left: answers the end, passes over the result that names the next
    /// one, and goes on there.
    async fn follow(&mut self) -> Result<(), PrimaryError> {
        let connection = &mut self.stream.connection;
        let mut done = Vec::new();
        done.copy_done();
        connection.send(done).await?;
        loop {
            let message = connection.receive().await?;
            match Backend::from_message(message).map_err(ConnectionError::from)? {
                Backend::ReadyForQuery => break,
                Backend::Error { .. } => return Err(refusal(message).into()),
                _ => {}
            }
        }
        let at = self.stream.position;
        tracing::info!(%at, timeline = self.path.timeline_at(at).0, "following the primary's next timeline");
        let slot = self.slot.as_deref();
        primary::start_replication(&mut self.stream.connection, &self.path, slot, at).await
    }
}

/// An acceptor's WAL.
pub struct AcceptorWal(WalStream);

impl AcceptorWal {
    /// Streams from `at` on: what is committed, or, as the proposer of `term`, all that is flushed.
    pub async fn open(
        runtime: &Runtime,
        options: &AcceptorOptions,
        address: &str,
        key: TimelineKey,
        at: Lsn,
        term: Option<Term>,
    ) -> Result<AcceptorWal, AcceptorError> {
        let mut connection = open_acceptor(runtime, options, address, key).await?;
        let term = term.map_or(String::new(), |term| format!(" (term='{term}')"));
        let command = format!("START_REPLICATION PHYSICAL {at}{term}");
        connection.start_copy_both(&command).await?;
        Ok(AcceptorWal(WalStream { connection, position: at }))
    }

    /// The next piece of WAL.
    pub async fn next(&mut self) -> Result<Bytes, AcceptorError> {
        loop {
            match self.0.next().await {
                Ok(Received::Event(WalEvent::Wal(wal))) => return Ok(wal),
                Ok(Received::Event(WalEvent::Keepalive { .. })) => {}
                Ok(Received::TimelineEnded) => return Err(ConnectionError::Closed.into()),
                Err(PrimaryError::Connection(error)) => return Err(error.into()),
                Err(other) => return Err(AcceptorError::Stream(other.to_string())),
            }
        }
    }
}
