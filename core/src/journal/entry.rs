//! Entries: what a frame carries.
//!
//! Every entry has its own CRC32C, so that its bytes can be checked again whenever they are read, long after the chain
//! of frames around it is gone.

use super::codec::{FormatError, Reader, Writer};
use super::wal_place::{FilePiece, WalPlace};
use crate::consensus::change::Change;
use crate::types::{Lsn, Term, TimelineKey};

pub(super) mod change;
mod lists;

pub use lists::{HOST_BYTES_MAX, MEMBERS_MAX};
pub(super) use lists::{
    decode_history, decode_membership, decode_postgres_history, encode_history, encode_membership,
    encode_postgres_history, history_bytes, membership_bytes, postgres_history_bytes,
};

const WHAT: &str = "journal entry";

/// Bytes before an entry's own fields: length, CRC, kind, timeline.
pub const HEADER_BYTES: usize = 48;
const CRC_AT: usize = 4;

/// Bytes that an append's entry has beside its WAL, with the padding behind it.
pub const APPEND_ENTRY_BYTES: usize = HEADER_BYTES + change::APPEND_BYTES + 8;

/// One thing to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A change of a timeline by its acceptor.
    Change(TimelineKey, Change<'a>),
    /// WAL was copied to a raw file.
    Moved(TimelineKey, Moved),
    /// WAL was copied forward in the ring: its bytes are here.
    Forwarded(TimelineKey, Forwarded<'a>),
    /// WAL below the position is held by nobody and forgotten.
    Trimmed(TimelineKey, Lsn),
    /// The page store's layers changed.
    LayerEdit(TimelineKey, LayerEdit<'a>),
    /// The timeline was made whole again from a majority of its other acceptors after a corruption.
    Reseeded(TimelineKey),
    /// A snapshot is durable.
    Snapshot(SnapshotName),
    /// First entry of a life: where the one before it ended.
    PreviousEnd(PreviousEnd),
    /// Nothing: the frame is a witness for those before it.
    Seal,
    /// The last entry of a segment.
    End,
}

/// A copy of WAL into a raw file, whole and flushed before this entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The acceptor's term when it was copied; says in a dump which proposer's bytes these are.
    pub term: Term,
    /// Where the bytes were: those that are no longer there at this point of replay did not move.
    pub source: WalPlace,
    /// Range and file.
    pub target: FilePiece,
}

/// A copy of WAL within the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded<'a> {
    /// As [`Moved::term`].
    pub term: Term,
    /// As [`Moved::source`].
    pub source: WalPlace,
    /// Position of the first byte.
    pub begin: Lsn,
    /// The bytes.
    pub wal: &'a [u8],
}

/// A change of layers, opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerEdit<'a> {
    /// A manifest has all earlier edits: they are forgotten.
    pub replaces_all: bool,
    /// The page store's own encoding, at most [`LayerEdit::BYTES_MAX`].
    pub edit: &'a [u8],
}

impl LayerEdit<'_> {
    /// One edit names a few layers; a list of them goes into the manifest.
    pub const BYTES_MAX: usize = 64 << 10;
}

/// Which snapshot is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotName {
    /// Last sequence whose effects it holds.
    pub covers_through: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// CRC in its header.
    pub crc: u32,
}

/// How the life before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousEnd {
    /// Where its last frame ends; `None`: nothing was written before.
    pub end: Option<LifeEnd>,
    /// Acknowledged frames were lost: no timeline of the shard can be trusted until it is re-seeded.
    pub corrupt: bool,
}

/// Behind the last frame that counts. What an older life has past it is void for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeEnd {
    /// Place of the segment.
    pub place: u64,
    /// Offset after the frame.
    pub offset_bytes: u64,
    /// Its sequence.
    pub sequence: u64,
}

/// Why an entry cannot be journalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// It is too long.
    #[error("journal entry of {found} bytes, expected at most {expected}")]
    Long {
        /// The bound.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A part of it is out of its bounds.
    #[error("journal entry: {field} is {found}, expected at most {expected}")]
    Bound {
        /// Which part.
        field: &'static str,
        /// The bound.
        expected: usize,
        /// What it is.
        found: usize,
    },
}

mod kind {
    pub const APPEND: u8 = 1;
    pub const VOTE: u8 = 2;
    pub const TERM: u8 = 3;
    pub const ELECTED: u8 = 4;
    pub const POSITION: u8 = 5;
    pub const MEMBERSHIP: u8 = 6;
    pub const CREATE: u8 = 7;
    pub const DELETE: u8 = 8;
    pub const CLUSTER: u8 = 9;
    pub const POSTGRES_HISTORY: u8 = 10;
    pub const MOVED: u8 = 16;
    pub const FORWARDED: u8 = 17;
    pub const TRIMMED: u8 = 18;
    pub const LAYER_EDIT: u8 = 24;
    pub const RESEEDED: u8 = 25;
    pub const SNAPSHOT: u8 = 32;
    pub const PREVIOUS_END: u8 = 33;
    pub const SEAL: u8 = 34;
    pub const END: u8 = 35;
}

impl<'a> Entry<'a> {
    /// The timeline it is about.
    pub fn key(&self) -> Option<TimelineKey> {
        match self {
            Entry::Change(key, _)
            | Entry::Moved(key, _)
            | Entry::Forwarded(key, _)
            | Entry::Trimmed(key, _)
            | Entry::LayerEdit(key, _)
            | Entry::Reseeded(key) => Some(*key),
            Entry::Snapshot(_) | Entry::PreviousEnd(_) | Entry::Seal | Entry::End => None,
        }
    }

    /// The word for its kind, as dumps and errors name it.
    pub fn name(&self) -> &'static str {
        match self {
            Entry::Change(_, change) => change::name(change),
            Entry::Moved(..) => "moved",
            Entry::Forwarded(..) => "forwarded",
            Entry::Trimmed(..) => "trimmed",
            Entry::LayerEdit(..) => "layer edit",
            Entry::Reseeded(_) => "reseeded",
            Entry::Snapshot(_) => "snapshot",
            Entry::PreviousEnd(_) => "previous end",
            Entry::Seal => "seal",
            Entry::End => "end",
        }
    }

    /// Whether the entry may be journalled: callers pass on what peers and users sent.
    pub fn check(&self) -> Result<(), EntryError> {
        if let Entry::Change(_, change) = self {
            change::check(change)?;
        }
        let found = self.encoded_bytes();
        if found > super::ENTRY_BYTES_MAX {
            return Err(EntryError::Long { expected: super::ENTRY_BYTES_MAX, found });
        }
        Ok(())
    }

    /// Bytes of the encoded entry: a multiple of 8.
    pub fn encoded_bytes(&self) -> usize {
        (HEADER_BYTES + self.field_bytes()).next_multiple_of(8)
    }

    fn field_bytes(&self) -> usize {
        match self {
            Entry::Change(_, change) => change::field_bytes(change),
            Entry::Moved(..) => 8 + 2 * WalPlace::ENCODED_BYTES,
            Entry::Forwarded(_, forwarded) => {
                8 + WalPlace::ENCODED_BYTES + 8 + 4 + forwarded.wal.len()
            }
            Entry::Trimmed(..) => 8,
            Entry::LayerEdit(_, layer_edit) => 8 + layer_edit.edit.len(),
            Entry::Snapshot(_) => 20,
            Entry::PreviousEnd(_) => 32,
            Entry::Reseeded(_) | Entry::Seal | Entry::End => 0,
        }
    }

    /// Encodes into exactly [`Entry::encoded_bytes`] bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        let mut writer = Writer::new(bytes);
        writer.u32(self.encoded_bytes() as u32);
        writer.u32(0);
        writer.u8(self.kind());
        writer.zero_to(16);
        writer.key(self.key().unwrap_or_default());
        self.encode_fields(&mut writer);
        writer.zero_to(self.encoded_bytes());
        let crc = entry_crc(bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Entry::Change(_, change) => change::kind(change),
            Entry::Moved(..) => kind::MOVED,
            Entry::Forwarded(..) => kind::FORWARDED,
            Entry::Trimmed(..) => kind::TRIMMED,
            Entry::LayerEdit(..) => kind::LAYER_EDIT,
            Entry::Reseeded(_) => kind::RESEEDED,
            Entry::Snapshot(_) => kind::SNAPSHOT,
            Entry::PreviousEnd(_) => kind::PREVIOUS_END,
            Entry::Seal => kind::SEAL,
            Entry::End => kind::END,
        }
    }

    fn encode_fields(&self, writer: &mut Writer<'_>) {
        match self {
            Entry::Change(_, change) => change::encode(change, writer),
            Entry::Moved(_, moved) => {
                writer.u64(moved.term.0);
                moved.source.encode(writer);
                WalPlace::File(moved.target).encode(writer);
            }
            Entry::Forwarded(_, forwarded) => {
                writer.u64(forwarded.term.0);
                forwarded.source.encode(writer);
                writer.u64(forwarded.begin.0);
                writer.count(forwarded.wal.len());
                writer.bytes(forwarded.wal);
            }
            Entry::Trimmed(_, below) => writer.u64(below.0),
            Entry::LayerEdit(_, layer_edit) => {
                writer.u32(layer_edit.replaces_all.into());
                writer.count(layer_edit.edit.len());
                writer.bytes(layer_edit.edit);
            }
            Entry::Snapshot(name) => {
                writer.u64(name.covers_through);
                writer.u64(name.file_bytes);
                writer.u32(name.crc);
            }
            Entry::PreviousEnd(previous) => {
                let end =
                    previous.end.unwrap_or(LifeEnd { place: 0, offset_bytes: 0, sequence: 0 });
                writer.u32(previous.end.is_some().into());
                writer.u32(previous.corrupt.into());
                writer.u64(end.place);
                writer.u64(end.offset_bytes);
                writer.u64(end.sequence);
            }
            Entry::Reseeded(_) | Entry::Seal | Entry::End => {}
        }
    }
}

/// The bytes of one entry, CRC checked, not yet decoded.
#[derive(Debug, Clone, Copy)]
pub struct EntryBytes<'a>(&'a [u8]);

impl<'a> EntryBytes<'a> {
    /// Splits the entry at the start of `bytes` from what follows.
    pub fn split(bytes: &'a [u8]) -> Result<(EntryBytes<'a>, &'a [u8]), FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        let len = reader.u32()? as usize;
        let expected = reader.u32()?;
        if !(HEADER_BYTES..=super::ENTRY_BYTES_MAX).contains(&len) || !len.is_multiple_of(8) {
            return Err(reader.invalid("entry_bytes"));
        }
        if len > bytes.len() {
            return Err(FormatError::Short { what: WHAT, expected: len, found: bytes.len() });
        }
        let (entry, rest) = bytes.split_at(len);
        let found = entry_crc(entry);
        if found != expected {
            return Err(FormatError::Crc { what: WHAT, expected, found });
        }
        Ok((EntryBytes(entry), rest))
    }

    /// What the bytes say.
    pub fn decode(self) -> Result<Entry<'a>, FormatError> {
        let mut reader = Reader::new(WHAT, self.0);
        reader.bytes(8)?;
        let kind = reader.u8()?;
        reader.bytes(7)?;
        let key = reader.key()?;
        Ok(match kind {
            kind::MOVED => Entry::Moved(key, decode_moved(&mut reader)?),
            kind::FORWARDED => Entry::Forwarded(key, decode_forwarded(&mut reader)?),
            kind::TRIMMED => Entry::Trimmed(key, Lsn(reader.u64()?)),
            kind::LAYER_EDIT => Entry::LayerEdit(key, decode_layer_edit(&mut reader)?),
            kind::RESEEDED => Entry::Reseeded(key),
            kind::SNAPSHOT => Entry::Snapshot(SnapshotName {
                covers_through: reader.u64()?,
                file_bytes: reader.u64()?,
                crc: reader.u32()?,
            }),
            kind::PREVIOUS_END => Entry::PreviousEnd(decode_previous_end(&mut reader)?),
            kind::SEAL => Entry::Seal,
            kind::END => Entry::End,
            kind => Entry::Change(key, change::decode(kind, &mut reader)?),
        })
    }
}

fn entry_crc(entry: &[u8]) -> u32 {
    crate::crc::crc32c_append(crate::crc::crc32c(&entry[..CRC_AT]), &entry[CRC_AT + 4..])
}

fn decode_moved(reader: &mut Reader<'_>) -> Result<Moved, FormatError> {
    let term = Term(reader.u64()?);
    let source = WalPlace::decode(reader)?;
    match WalPlace::decode(reader)? {
        WalPlace::File(target) => Ok(Moved { term, source, target }),
        WalPlace::Ring(_) => Err(reader.invalid("target")),
    }
}

fn decode_forwarded<'a>(reader: &mut Reader<'a>) -> Result<Forwarded<'a>, FormatError> {
    let term = Term(reader.u64()?);
    let source = WalPlace::decode(reader)?;
    let begin = Lsn(reader.u64()?);
    let count = reader.count("wal", 1)?;
    if begin.0.checked_add(count as u64).is_none() {
        return Err(reader.invalid("begin"));
    }
    Ok(Forwarded { term, source, begin, wal: reader.bytes(count)? })
}

fn decode_layer_edit<'a>(reader: &mut Reader<'a>) -> Result<LayerEdit<'a>, FormatError> {
    let replaces_all = decode_flag(reader, "replaces_all")?;
    let count = reader.count("edit", 1)?;
    if count > LayerEdit::BYTES_MAX {
        return Err(reader.invalid("edit"));
    }
    Ok(LayerEdit { replaces_all, edit: reader.bytes(count)? })
}

fn decode_previous_end(reader: &mut Reader<'_>) -> Result<PreviousEnd, FormatError> {
    let has_end = decode_flag(reader, "has_end")?;
    let corrupt = decode_flag(reader, "corrupt")?;
    let end =
        LifeEnd { place: reader.u64()?, offset_bytes: reader.u64()?, sequence: reader.u64()? };
    Ok(PreviousEnd { end: has_end.then_some(end), corrupt })
}

fn decode_flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, FormatError> {
    match reader.u32()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.invalid(field)),
    }
}

#[cfg(test)]
mod tests;
