//! What the CopyData messages of a WAL stream carry (PostgreSQL documentation, "Streaming Replication Protocol";
//! page server feedback is Neon's). All integers big-endian, times in microseconds since 2000-01-01.

use thiserror::Error;

use crate::types::Lsn;
use crate::wire::walproposer::PageserverFeedback;

/// Microseconds between 1970-01-01 and 2000-01-01.
pub const POSTGRES_EPOCH_UNIX_US: i64 = 946_684_800_000_000;

/// Bytes of an XLogData message before its WAL.
pub const WAL_DATA_HEADER_BYTES: usize = 25;

/// A message of a WAL stream that is not what its tag says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed replication message {tag:?} of {found_bytes} bytes")]
pub struct ReplicationError {
    tag: char,
    found_bytes: usize,
}

/// What a server sends inside a WAL stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromServer<'a> {
    /// `w`: WAL bytes.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// End of the WAL that the server could send now.
        server_end: Lsn,
        /// When it was sent.
        sent_at_us: i64,
        /// The bytes.
        wal: &'a [u8],
    },
    /// `k`: nothing to send.
    Keepalive {
        /// End of the WAL that the server could send now.
        server_end: Lsn,
        /// When it was sent.
        sent_at_us: i64,
        /// Whether the server wants a status at once.
        reply_requested: bool,
    },
}

/// What a reader sends inside a WAL stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromReader {
    /// `r`: how far the reader is.
    StandbyStatus {
        /// Written.
        write: Lsn,
        /// Flushed.
        flush: Lsn,
        /// Applied.
        apply: Lsn,
        /// When it was sent.
        sent_at_us: i64,
        /// Whether the reader wants an answer at once.
        reply_requested: bool,
    },
    /// `h`: the oldest transactions that the reader's queries need, as full transaction ids; 0 = none.
    HotStandbyFeedback {
        /// When it was sent.
        sent_at_us: i64,
        /// Of tables.
        xmin: u64,
        /// Of catalogs.
        catalog_xmin: u64,
    },
    /// `z`: a Neon page server's feedback, which proposers hear of.
    PageserverFeedback(PageserverFeedback),
}

impl FromServer<'_> {
    /// Decodes the payload of a CopyData.
    pub fn decode(payload: &[u8]) -> Result<FromServer<'_>, ReplicationError> {
        let error = || ReplicationError { tag: tag_of(payload), found_bytes: payload.len() };
        match payload {
            [b'w', rest @ ..] if rest.len() >= WAL_DATA_HEADER_BYTES - 1 => Ok(FromServer::Wal {
                start: Lsn(u64_at(rest, 0)),
                server_end: Lsn(u64_at(rest, 8)),
                sent_at_us: u64_at(rest, 16) as i64,
                wal: &rest[WAL_DATA_HEADER_BYTES - 1..],
            }),
            [b'k', rest @ ..] if rest.len() == 17 => Ok(FromServer::Keepalive {
                server_end: Lsn(u64_at(rest, 0)),
                sent_at_us: u64_at(rest, 8) as i64,
                reply_requested: rest[16] != 0,
            }),
            _ => Err(error()),
        }
    }

    /// Appends the payload of a CopyData.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FromServer::Wal { start, server_end, sent_at_us, wal } => {
                out.push(b'w');
                out.extend_from_slice(&start.0.to_be_bytes());
                out.extend_from_slice(&server_end.0.to_be_bytes());
                out.extend_from_slice(&sent_at_us.to_be_bytes());
                out.extend_from_slice(wal);
            }
            FromServer::Keepalive { server_end, sent_at_us, reply_requested } => {
                out.push(b'k');
                out.extend_from_slice(&server_end.0.to_be_bytes());
                out.extend_from_slice(&sent_at_us.to_be_bytes());
                out.push(u8::from(*reply_requested));
            }
        }
    }
}

impl FromReader {
    /// Decodes the payload of a CopyData.
    pub fn decode(payload: &[u8]) -> Result<FromReader, ReplicationError> {
        let error = || ReplicationError { tag: tag_of(payload), found_bytes: payload.len() };
        match payload {
            [b'r', rest @ ..] if rest.len() == 33 => Ok(FromReader::StandbyStatus {
                write: Lsn(u64_at(rest, 0)),
                flush: Lsn(u64_at(rest, 8)),
                apply: Lsn(u64_at(rest, 16)),
                sent_at_us: u64_at(rest, 24) as i64,
                reply_requested: rest[32] != 0,
            }),
            [b'h', rest @ ..] if rest.len() == 24 => Ok(FromReader::HotStandbyFeedback {
                sent_at_us: u64_at(rest, 0) as i64,
                xmin: full_transaction_id(rest, 8),
                catalog_xmin: full_transaction_id(rest, 16),
            }),
            [b'z', rest @ ..] if rest.len() >= 8 => {
                let length = u64_at(rest, 0);
                let block = &rest[8..];
                if length != block.len() as u64 {
                    return Err(error());
                }
                let feedback = PageserverFeedback::decode(block).map_err(|_| error())?;
                Ok(FromReader::PageserverFeedback(feedback))
            }
            _ => Err(error()),
        }
    }

    /// Appends the payload of a CopyData.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FromReader::StandbyStatus { write, flush, apply, sent_at_us, reply_requested } => {
                out.push(b'r');
                for lsn in [write, flush, apply] {
                    out.extend_from_slice(&lsn.0.to_be_bytes());
                }
                out.extend_from_slice(&sent_at_us.to_be_bytes());
                out.push(u8::from(*reply_requested));
            }
            FromReader::HotStandbyFeedback { sent_at_us, xmin, catalog_xmin } => {
                out.push(b'h');
                out.extend_from_slice(&sent_at_us.to_be_bytes());
                for id in [xmin, catalog_xmin] {
                    out.extend_from_slice(&(*id as u32).to_be_bytes());
                    out.extend_from_slice(&((id >> 32) as u32).to_be_bytes());
                }
            }
            FromReader::PageserverFeedback(feedback) => {
                let mut block = Vec::new();
                feedback.encode(&mut block);
                out.push(b'z');
                out.extend_from_slice(&(block.len() as u64).to_be_bytes());
                out.extend_from_slice(&block);
            }
        }
    }
}

fn tag_of(payload: &[u8]) -> char {
    payload.first().copied().unwrap_or(0).into()
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let chunk = bytes[offset..].first_chunk::<8>().expect("the caller checked the length");
    u64::from_be_bytes(*chunk)
}

/// A transaction id and its epoch behind it, as one number.
fn full_transaction_id(bytes: &[u8], offset: usize) -> u64 {
    u64_at(bytes, offset).rotate_left(32)
}

#[cfg(test)]
mod tests;
