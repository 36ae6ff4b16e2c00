//! Where a range of a timeline's WAL lies.

use super::codec::{FormatError, Reader, Writer};
use super::segment::JournalNumber;
use crate::types::{Lsn, PostgresTimeline};

/// A use of a segment file: the journal and the place in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPlace {
    /// The journal; not the shard's own for segments of an earlier number of shards.
    pub journal: JournalNumber,
    /// The place.
    pub place: u64,
}

/// Bytes of a raw WAL file that were written and are checked as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePiece {
    /// Which Postgres timeline's file; its segment follows from `begin`.
    pub postgres_timeline: PostgresTimeline,
    /// Position of the first byte.
    pub begin: Lsn,
    /// Position after the last byte, within the same WAL segment; at most [`FilePiece::BYTES_MAX`] further.
    pub end: Lsn,
    /// CRC32C of the bytes.
    pub crc: u32,
}

impl FilePiece {
    /// A reader of any byte of a piece reads the whole: as much as a frame.
    pub const BYTES_MAX: u64 = super::FRAME_BYTES_MAX as u64;
}

/// Where a range of WAL lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalPlace {
    /// In entries of frames of that segment.
    Ring(SegmentPlace),
    /// In a raw WAL file.
    File(FilePiece),
}

impl WalPlace {
    pub(super) const ENCODED_BYTES: usize = 32;

    /// Whether WAL from `begin` to `end` can lie here: bytes of a piece are found by their distance from its beginning.
    pub(super) fn can_hold(&self, begin: Lsn, end: Lsn) -> bool {
        match self {
            WalPlace::Ring(_) => true,
            WalPlace::File(piece) => piece.begin <= begin && end <= piece.end,
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        let end = writer.at() + Self::ENCODED_BYTES;
        match self {
            WalPlace::Ring(segment) => {
                writer.u32(0);
                writer.u32(segment.journal.0);
                writer.u64(segment.place);
            }
            WalPlace::File(piece) => {
                writer.u32(1);
                writer.u32(piece.postgres_timeline.0);
                writer.u64(piece.begin.0);
                writer.u64(piece.end.0);
                writer.u32(piece.crc);
            }
        }
        writer.zero_to(end);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<WalPlace, FormatError> {
        let kind = reader.u32()?;
        match kind {
            0 => {
                let journal = JournalNumber(reader.u32()?);
                let place = reader.u64()?;
                reader.bytes(16)?;
                Ok(WalPlace::Ring(SegmentPlace { journal, place }))
            }
            1 => {
                let postgres_timeline = PostgresTimeline(reader.u32()?);
                let begin = Lsn(reader.u64()?);
                let end = Lsn(reader.u64()?);
                let crc = reader.u32()?;
                reader.u32()?;
                if end <= begin || end - begin > FilePiece::BYTES_MAX {
                    return Err(reader.invalid("piece"));
                }
                Ok(WalPlace::File(FilePiece { postgres_timeline, begin, end, crc }))
            }
            _ => Err(reader.invalid("place kind")),
        }
    }
}
