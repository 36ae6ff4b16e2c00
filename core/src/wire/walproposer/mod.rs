//! Messages between proposer and acceptor: Neon's walproposer protocol, versions 2 and 3, each message one CopyData.
//!
//! Format: `docs/formats.md`, "walproposer protocol". Version 3 is big-endian with a one-byte tag, version 2
//! little-endian with an eight-byte tag; the version is chosen by the START_WAL_PUSH command, never in the messages.
//! Version 2 carries no membership: it reads as generation 0 and is not written.
//!
//! A decoder of proposers' messages ignores bytes behind the last field, as every acceptor out there does; a decoder of
//! acceptors' messages refuses them, as every proposer does. WAL in an append is a slice of the receive buffer.
//!
//! Read first: [`messages`].

pub mod feedback;
pub mod messages;
mod v2;
mod v3;

pub use feedback::{HotStandbyFeedback, PageserverFeedback};
pub use messages::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ProposerElected,
    ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};

use crate::consensus::membership::Membership;
use crate::consensus::term_history::{TERMS_MAX, TermHistory, TermStart};
use crate::types::{Lsn, Term};
use crate::wire::WireError;
use crate::wire::bytes::Reader;

/// Most WAL bytes in one append: 16 pages, as Postgres' own replication sends.
pub const APPEND_BYTES_MAX: usize = 16 * 8192;

/// Longest message: an elected message with the longest history, with room for its fixed fields.
pub const MESSAGE_BYTES_MAX: usize = TERMS_MAX * 16 + 4096;

const _: () = assert!(APPEND_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX);

/// Which form of the protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProtocolVersion {
    /// Little-endian, without membership.
    V2,
    /// Big-endian, with membership.
    V3,
}

impl ProtocolVersion {
    /// The version that a START_WAL_PUSH names, `None` when it is not one of ours.
    pub fn from_number(number: u32) -> Option<ProtocolVersion> {
        match number {
            2 => Some(ProtocolVersion::V2),
            3 => Some(ProtocolVersion::V3),
            _ => None,
        }
    }

    /// Its number in START_WAL_PUSH.
    pub fn number(self) -> u32 {
        match self {
            ProtocolVersion::V2 => 2,
            ProtocolVersion::V3 => 3,
        }
    }
}

impl<'a> ProposerMessage<'a> {
    /// Reads one message; bytes behind its last field are ignored.
    pub fn decode(version: ProtocolVersion, bytes: &'a [u8]) -> Result<Self, WireError> {
        match version {
            ProtocolVersion::V2 => v2::decode_proposer(bytes),
            ProtocolVersion::V3 => v3::decode_proposer(bytes),
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        match version {
            ProtocolVersion::V2 => v2::encode_proposer(self, out),
            ProtocolVersion::V3 => v3::encode_proposer(self, out),
        }
    }
}

impl AppendRequest<'_> {
    /// Appends everything up to the WAL bytes to `out`, for a sender that hands these to the kernel where they lie.
    pub fn encode_header(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        match version {
            ProtocolVersion::V2 => v2::encode_append_header(self, out),
            ProtocolVersion::V3 => v3::encode_append_header(self, out),
        }
    }
}

impl AcceptorMessage {
    /// Reads one message; bytes behind its last field are an error.
    pub fn decode(version: ProtocolVersion, bytes: &[u8]) -> Result<Self, WireError> {
        match version {
            ProtocolVersion::V2 => v2::decode_acceptor(bytes),
            ProtocolVersion::V3 => v3::decode_acceptor(bytes),
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        match version {
            ProtocolVersion::V2 => v2::encode_acceptor(self, out),
            ProtocolVersion::V3 => v3::encode_acceptor(self, out),
        }
    }
}

/// A count of entries and as many pairs of integers that `integer` reads.
fn decode_history<'a>(
    reader: &mut Reader<'a>,
    count: u32,
    integer: impl Fn(&mut Reader<'a>) -> Result<u64, WireError>,
) -> Result<TermHistory, WireError> {
    const ENTRY_BYTES: usize = 16;
    if count as usize > TERMS_MAX {
        return Err(reader.out_of_range("n_entries", "at most 16384", count.into()));
    }
    let needed = count as usize * ENTRY_BYTES;
    if reader.left() < needed {
        reader.take(needed)?;
    }
    let mut history = Vec::with_capacity(count as usize);
    for _ in 0..count {
        history.push(TermStart { term: Term(integer(reader)?), lsn: Lsn(integer(reader)?) });
    }
    Ok(TermHistory(history))
}

/// The WAL bytes of an append from its two positions.
fn append_wal<'a>(reader: &mut Reader<'a>, begin: Lsn, end: Lsn) -> Result<&'a [u8], WireError> {
    let Some(len) = end.0.checked_sub(begin.0) else {
        return Err(reader.invalid(format!("append ends at {end}, before its begin {begin}")));
    };
    if len > APPEND_BYTES_MAX as u64 {
        return Err(reader.out_of_range("WAL length", "at most 131072", len));
    }
    reader.take(len as usize)
}

fn no_membership() -> Membership {
    Membership::default()
}

#[cfg(test)]
mod tests;
