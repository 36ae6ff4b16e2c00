//! The receive side of a connection: bytes from the socket, whole messages out of them.

use std::io;

use firn_core::wire::postgres::message::{self, HEADER_BYTES, Message, MessageError};
use thiserror::Error;

use crate::runtime::Stream;
use crate::wal_service::connections::{NoRoom, Room};

/// Room for one receive: many small appends, or a good part of a large one.
pub const RECEIVE_BYTES: usize = 32 * 1024;

/// Why no further message comes.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The peer ended the connection, between two messages or inside one.
    #[error("connection closed by the client")]
    Closed,
    /// The socket failed.
    #[error("receive: {0}")]
    Io(#[from] io::Error),
    /// Too many long messages at once.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A message that cannot be one.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Bytes that were received and not used yet. Owned by one connection's task.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Vec<u8>,
    /// Bytes before this are used.
    used: usize,
    /// Of a node's own connections: what longer messages are taken from.
    room: Option<Room>,
}

impl Received {
    /// Begins with bytes that came behind the startup message.
    pub fn new(bytes: Vec<u8>, room: Room) -> Received {
        Received { bytes, used: 0, room: Some(room) }
    }

    /// What is not used yet.
    pub fn unused(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Passes over bytes.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.used, "only what was received is used");
        self.used += count;
    }

    /// Whether a whole message is there.
    pub fn has_message(&self) -> Result<bool, MessageError> {
        Ok(message::decode(self.unused())?.is_some())
    }

    /// The next whole message, if there is one; it borrows from the received bytes.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, MessageError> {
        match message::decode(&self.bytes[self.used..])? {
            Some((_, length)) => {
                let start = self.used;
                self.used += length;
                let whole = &self.bytes[start..start + length];
                Ok(Some(Message { tag: whole[0], payload: &whole[HEADER_BYTES..] }))
            }
            None => Ok(None),
        }
    }

    /// Receives more bytes. Only what is left of an incomplete message moves to the buffer's front.
    pub async fn fill(&mut self, stream: &Stream) -> Result<(), ReceiveError> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let missing = self.missing_bytes();
        if let Some(room) = &mut self.room {
            room.grow_to(self.bytes.len() + missing)?;
        }
        self.bytes.reserve(missing.max(RECEIVE_BYTES));
        let (result, bytes) = stream.recv(std::mem::take(&mut self.bytes)).await;
        self.bytes = bytes;
        match result? {
            0 => Err(ReceiveError::Closed),
            _ => Ok(()),
        }
    }

    /// Length of the message that is being received, as far as it says so already.
    pub fn expected_bytes(&self) -> usize {
        match self.unused().first_chunk::<HEADER_BYTES>() {
            Some([_, length @ ..]) => 1 + u32::from_be_bytes(*length) as usize,
            None => 0,
        }
    }

    /// How many bytes the incomplete message at the front still needs. `next_message` has checked its length.
    fn missing_bytes(&self) -> usize {
        match self.bytes.first_chunk::<HEADER_BYTES>() {
            Some([_, length @ ..]) => {
                let length = u32::from_be_bytes(*length) as usize;
                (1 + length).min(message::MESSAGE_BYTES_MAX + 1).saturating_sub(self.bytes.len())
            }
            None => 0,
        }
    }
}
