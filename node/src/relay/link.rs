//! The proposer's stream to one acceptor: connects, connects again, sends what the proposer says, hears what the acceptor
//! answers. A slow acceptor holds up its own stream only.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use firn_core::consensus::proposer::Next;
use firn_core::types::{Lsn, NodeId, Term};
use firn_core::wire::WireError;
use firn_core::wire::postgres::message::{Backend, Encode, HEADER_BYTES};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use futures_util::future::{Either, select};
use thiserror::Error;

use super::acceptor::{ACCEPTOR_TIMEOUT, AcceptorError, open_acceptor};
use super::members_wal::MembersWal;
use super::postgres::connection::{Connection, ConnectionError, refusal, within};
use super::postgres::transport::Transport;
use super::session::Session;
use super::survey::START_WAL_PUSH;
use crate::runtime::MonotonicTime;
use crate::runtime::sync::Notify;
use crate::wal_service::command::set_postgres_history;

/// Pause before an acceptor is connected to again.
const RECONNECT: Duration = Duration::from_millis(500);

/// An acceptor that says nothing for so long is connected to again. Heartbeats ask for an answer every second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Pause before the other acceptors are asked again for older WAL that none of them gave.
const DONOR_RETRY: Duration = Duration::from_millis(500);

/// Why a stream to an acceptor ended.
#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Acceptor(#[from] AcceptorError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Refused(String),
}

/// One acceptor's place in a session.
pub struct Link {
    /// `host:port`.
    pub(super) address: String,
    /// There may be something to send.
    pub(super) wake: Notify,
    /// The connection is to be closed, for this reason.
    refused: RefCell<Option<String>>,
    /// When the acceptor last said something; `None` while there is no connection.
    heard: Cell<Option<MonotonicTime>>,
}

impl Link {
    /// Not connected yet.
    pub fn new(address: &str) -> Link {
        Link {
            address: address.to_string(),
            wake: Notify::new(),
            refused: RefCell::new(None),
            heard: Cell::new(None),
        }
    }

    /// Closes the connection.
    pub fn refuse(&self, reason: String) {
        *self.refused.borrow_mut() = Some(reason);
        self.wake.notify_all();
    }

    /// Closes a connection on which nothing was heard for too long.
    pub fn check_silence(&self, now: MonotonicTime) {
        if self.heard.get().is_some_and(|heard| now - heard > SILENCE_MAX) {
            self.refuse(format!("said nothing for {SILENCE_MAX:?}"));
        }
    }
}

impl Session {
    /// Keeps a stream to the acceptor for as long as the session lives.
    pub(super) async fn run_link(&self, node: NodeId) {
        let link = &self.links[&node];
        let mut last_reason = String::new();
        if self.late.contains(&node) {
            self.elected.wait_until(Option::is_some).await;
        }
        loop {
            let Err(error) = self.stream_to(node).await;
            self.proposer.borrow_mut().disconnected(node);
            link.heard.set(None);
            link.refused.take();
            let reason = error.to_string();
            if reason != last_reason {
                tracing::warn!(node = node.0, address = link.address, "acceptor: {reason}");
                last_reason = reason;
            }
            self.runtime.sleep(RECONNECT).await;
        }
    }

    async fn stream_to(&self, node: NodeId) -> Result<Infallible, LinkError> {
        let link = &self.links[&node];
        let options = &self.options;
        let mut connection =
            open_acceptor(&self.runtime, &options.acceptor, &link.address, options.key).await?;
        connection.start_copy_both(START_WAL_PUSH).await?;
        link.heard.set(Some(self.runtime.now()));
        self.proposer.borrow_mut().connected(node);
        let transport = connection.transport();
        let hear = std::pin::pin!(self.hear(node, &mut connection));
        let send = std::pin::pin!(self.send(node, transport));
        match select(hear, send).await {
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        }
    }

    async fn hear(
        &self,
        node: NodeId,
        connection: &mut Connection,
    ) -> Result<Infallible, LinkError> {
        let link = &self.links[&node];
        loop {
            let message = connection.receive().await?;
            match Backend::from_message(message).map_err(ConnectionError::from)? {
                Backend::CopyData(payload) => {
                    let message = AcceptorMessage::decode(ProtocolVersion::V3, payload)?;
                    link.heard.set(Some(self.runtime.now()));
                    self.message(node, &message);
                }
                Backend::Error { .. } => return Err(refusal(message).into()),
                Backend::CopyDone => return Err(ConnectionError::Closed.into()),
                _ => {
                    let (tag, during) = (message.tag.into(), "proposing");
                    return Err(ConnectionError::Unexpected { tag, during }.into());
                }
            }
        }
    }

    async fn send(&self, node: NodeId, transport: Transport) -> Result<Infallible, LinkError> {
        let link = &self.links[&node];
        let mut older = None;
        loop {
            let woken = link.wake.notified();
            if let Some(reason) = link.refused.take() {
                return Err(LinkError::Refused(reason));
            }
            let next = self.proposer.borrow_mut().next(node);
            match next {
                Ok(None) => woken.await,
                Ok(Some(Next::Message(message))) => {
                    let mut out = Vec::new();
                    out.message(b'd', |out| message.encode(ProtocolVersion::V3, out));
                    transport.send(out).await.map_err(ConnectionError::from)?;
                    if let ProposerMessage::Elected(elected) = &message {
                        self.tell_history(node, elected.term).await?;
                    }
                }
                Ok(Some(Next::Wal { begin, end })) => {
                    let length_bytes = (end - begin) as usize;
                    let found = self.window.borrow().get(begin, length_bytes);
                    let wal = match found {
                        Some(wal) => wal,
                        // Not here yet: the primary's stream is on its way to it.
                        None if begin >= self.window.borrow().start() => {
                            woken.await;
                            continue;
                        }
                        None => match self.older_wal(node, begin, length_bytes, &mut older).await {
                            Some(wal) => wal,
                            None => continue,
                        },
                    };
                    if let Some(head) = self.frame(node, begin, &wal) {
                        let length_bytes = wal.len() as u64;
                        transport.send_parts(head, wal).await.map_err(ConnectionError::from)?;
                        let (metrics, now) = (&self.relay.metrics, self.runtime.now());
                        metrics.sent(begin + length_bytes, length_bytes, now);
                        self.sent.notify_all();
                    }
                }
                Err(action) => self.perform(action),
            }
        }
    }

    /// Tells the acceptor, on a connection of its own, which Postgres timelines wrote the log.
    async fn tell_history(&self, node: NodeId, term: Term) -> Result<(), LinkError> {
        let (address, options) = (&self.links[&node].address, &self.options);
        let command = set_postgres_history(term, &self.postgres_history.borrow());
        let mut connection =
            open_acceptor(&self.runtime, &options.acceptor, address, options.key).await?;
        within(&self.runtime, ACCEPTOR_TIMEOUT, connection.query(&command)).await?;
        Ok(())
    }

    /// Everything of an append's message before its WAL.
    fn frame(&self, node: NodeId, begin: Lsn, wal: &Bytes) -> Option<Vec<u8>> {
        let mut proposer = self.proposer.borrow_mut();
        let append = proposer.append(node, begin, wal)?;
        let mut head = Vec::with_capacity(HEADER_BYTES + APPEND_HEADER_BYTES_MAX);
        head.message(b'd', |out| append.encode_header(ProtocolVersion::V3, out));
        // The message's length counts the WAL, which follows from where it lies.
        let length_bytes = head.len() - 1 + wal.len();
        let length = u32::try_from(length_bytes).expect("an append is at most 128 KiB");
        head[1..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
        Some(head)
    }

    /// WAL that the window does not hold any more, from the other acceptors. `None`: try again.
    async fn older_wal(
        &self,
        node: NodeId,
        at: Lsn,
        length_bytes: usize,
        older: &mut Option<OlderWal>,
    ) -> Option<Bytes> {
        let mut wal = match older.take() {
            Some(wal) if wal.at == at => wal,
            _ => {
                tracing::info!(node = node.0, from = %at, "acceptor lags: reading from others");
                OlderWal::new(at, self.proposer.borrow().term())
            }
        };
        if wal.left.is_empty() {
            let others = |at| {
                let mut others = self.sources(at);
                others.retain(|source| source.node != node);
                others
            };
            match wal.stream.next(&self.reach(), others).await {
                Ok(read) => wal.left = read,
                Err(_) => {
                    *older = Some(wal);
                    self.runtime.sleep(DONOR_RETRY).await;
                    return None;
                }
            }
        }
        let piece = wal.left.split_to(wal.left.len().min(length_bytes));
        wal.at = at + piece.len() as u64;
        *older = Some(wal);
        self.relay.metrics.counters.older_wal_bytes.add(piece.len() as u64);
        Some(piece)
    }
}

/// Bytes of an append before its WAL, in version 3 of the protocol.
const APPEND_HEADER_BYTES_MAX: usize = 64;

/// A stream of WAL that other acceptors hold.
struct OlderWal {
    stream: MembersWal,
    /// Position of the first byte of `left`.
    at: Lsn,
    left: Bytes,
}

impl OlderWal {
    fn new(at: Lsn, term: Term) -> OlderWal {
        OlderWal { stream: MembersWal::new(at, Some(term)), at, left: Bytes::new() }
    }
}
