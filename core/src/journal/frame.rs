//! A frame: what one write to the journal carries.
//!
//! A frame is valid by itself: its CRC covers the life id, the use id and all its bytes, among them its sequence and the
//! CRC of the frame before it. So a frame behind a gap can still be believed (it may be the witness that something was
//! lost), and one of an earlier use of the file never.

use super::codec::{FormatError, Reader, Writer};
use super::entry::{Entry, EntryBytes};
use super::segment::SegmentHeader;
use super::{BLOCK_BYTES, FRAME_BYTES_MAX};
use crate::mutant::{self, Mutant};

const WHAT: &str = "journal frame";
const MAGIC: u32 = u32::from_le_bytes(*b"FRAM");

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 48;
const CRC_AT: usize = 36;

/// The fields of a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Number of the frame; goes on by one from frame to frame, across segments and lives.
    pub sequence: u64,
    /// Bytes of the frame with its header and padding: a multiple of 4 KiB, at most 1 MiB.
    pub frame_bytes: u32,
    /// Bytes of its entries.
    pub entries_bytes: u32,
    /// Highest sequence known durable when the frame was formed.
    pub durable_through: u64,
    /// CRC of the frame before it.
    pub previous_crc: u32,
    /// CRC32C of life id, use id and the whole frame but this field.
    pub crc: u32,
}

/// The checksum of what every frame of one use of a file has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCrc(u32);

impl UseCrc {
    /// Of the use that the header begins.
    pub fn new(header: &SegmentHeader) -> UseCrc {
        if mutant::active(Mutant::DropFrameIds) {
            return UseCrc(0);
        }
        let crc = crate::crc::crc32c(&header.life_id.0);
        UseCrc(crate::crc::crc32c_append(crc, &header.use_id.0))
    }

    fn of(self, frame: &[u8]) -> u32 {
        let crc = crate::crc::crc32c_append(self.0, &frame[..CRC_AT]);
        crate::crc::crc32c_append(crc, &frame[CRC_AT + 4..])
    }
}

/// A frame being filled in a buffer that the caller owns and passes to every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameForm {
    used_bytes: usize,
    bytes_max: usize,
}

/// What a finished frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedFrame {
    /// Bytes to write.
    pub frame_bytes: usize,
    /// What the next frame names as the one before it.
    pub crc: u32,
}

impl FrameForm {
    /// An empty frame that may grow to so many bytes, at most [`FRAME_BYTES_MAX`].
    pub fn new(bytes_max: usize) -> FrameForm {
        assert!((BLOCK_BYTES..=FRAME_BYTES_MAX).contains(&bytes_max), "a frame is 4 KiB to 1 MiB");
        FrameForm { used_bytes: HEADER_BYTES, bytes_max }
    }

    /// Whether nothing was put in yet.
    pub fn is_empty(&self) -> bool {
        self.used_bytes == HEADER_BYTES
    }

    /// Bytes of entries that still fit.
    pub fn room_bytes(&self) -> usize {
        self.bytes_max - self.used_bytes
    }

    /// Bytes of the frame if it were finished now.
    pub fn frame_bytes(&self) -> usize {
        self.used_bytes.next_multiple_of(BLOCK_BYTES)
    }

    /// Encodes an entry into the frame: the one copy of its bytes. It must fit.
    pub fn push(&mut self, buffer: &mut [u8], entry: &Entry<'_>) {
        let count = entry.encoded_bytes();
        assert!(count <= self.room_bytes(), "entry of {count} bytes in a full frame");
        entry.encode(&mut buffer[self.used_bytes..self.used_bytes + count]);
        self.used_bytes += count;
    }

    /// Takes an entry that was encoded before. It must fit.
    pub fn push_encoded(&mut self, buffer: &mut [u8], entry: &[u8]) {
        assert!(entry.len() <= self.room_bytes(), "entry of {} bytes in a full frame", entry.len());
        buffer[self.used_bytes..self.used_bytes + entry.len()].copy_from_slice(entry);
        self.used_bytes += entry.len();
    }

    /// Writes the header and the padding.
    pub fn finish(
        self,
        buffer: &mut [u8],
        use_crc: UseCrc,
        sequence: u64,
        durable_through: u64,
        previous_crc: u32,
    ) -> FinishedFrame {
        assert!(durable_through < sequence, "a frame is formed before it is durable");
        let frame_bytes = self.frame_bytes();
        let frame = &mut buffer[..frame_bytes];
        frame[self.used_bytes..].fill(0);
        let mut writer = Writer::new(&mut frame[..HEADER_BYTES]);
        writer.u32(MAGIC);
        writer.u32(frame_bytes as u32);
        writer.u64(sequence);
        writer.u64(durable_through);
        writer.u32((self.used_bytes - HEADER_BYTES) as u32);
        writer.u32(previous_crc);
        writer.zero_to(HEADER_BYTES);
        let crc = use_crc.of(frame);
        frame[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        FinishedFrame { frame_bytes, crc }
    }
}

/// A frame whose CRC was checked.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    entries: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, which may go on behind it.
    pub fn parse(bytes: &'a [u8], use_crc: UseCrc) -> Result<Frame<'a>, FormatError> {
        let header = peek(bytes)?;
        let frame = &bytes[..header.frame_bytes as usize];
        let found = use_crc.of(frame);
        if found != header.crc {
            return Err(FormatError::Crc { what: WHAT, expected: header.crc, found });
        }
        let entries = &frame[HEADER_BYTES..HEADER_BYTES + header.entries_bytes as usize];
        Ok(Frame { header, entries })
    }

    /// A frame that this process finished and kept: its own CRC is not computed again, those of its entries are.
    pub fn reread(bytes: &'a [u8]) -> Result<Frame<'a>, FormatError> {
        let header = peek(bytes)?;
        let entries = &bytes[HEADER_BYTES..HEADER_BYTES + header.entries_bytes as usize];
        Ok(Frame { header, entries })
    }

    /// The entries in order, each with its CRC checked and with its offset from the start of the frame.
    pub fn entries(&self) -> Entries<'a> {
        Entries { rest: self.entries, offset: HEADER_BYTES }
    }
}

/// A header whose lengths are possible and lie within `bytes`; the CRC is not looked at.
pub fn peek(bytes: &[u8]) -> Result<FrameHeader, FormatError> {
    let mut reader = Reader::new(WHAT, bytes);
    let magic = reader.u32()?;
    if magic != MAGIC {
        let (expected, found) = (u64::from(MAGIC), u64::from(magic));
        return Err(FormatError::Field { what: WHAT, field: "magic", expected, found });
    }
    let frame_bytes = reader.u32()?;
    let sequence = reader.u64()?;
    let durable_through = reader.u64()?;
    let entries_bytes = reader.u32()?;
    let previous_crc = reader.u32()?;
    let reserved = reader.u32()?;
    let crc = reader.u32()?;
    let len = frame_bytes as usize;
    if len == 0 || len > FRAME_BYTES_MAX || !len.is_multiple_of(BLOCK_BYTES) {
        return Err(reader.invalid("frame_bytes"));
    }
    if len > bytes.len() {
        return Err(FormatError::Short { what: WHAT, expected: len, found: bytes.len() });
    }
    if entries_bytes as usize > len - HEADER_BYTES {
        return Err(reader.invalid("entries_bytes"));
    }
    if durable_through >= sequence {
        return Err(reader.invalid("durable_through"));
    }
    if reserved != 0 {
        return Err(reader.invalid("reserved"));
    }
    Ok(FrameHeader { sequence, frame_bytes, entries_bytes, durable_through, previous_crc, crc })
}

/// Iterator over a frame's entries; ends after the first error.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(usize, Entry<'a>), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        match EntryBytes::split(self.rest) {
            Ok((entry, rest)) => {
                self.offset += self.rest.len() - rest.len();
                self.rest = rest;
                Some(entry.decode().map(|entry| (offset, entry)))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests;
