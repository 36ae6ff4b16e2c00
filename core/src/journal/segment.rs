//! A segment's header: which use of the file this is.

use super::codec::{FormatError, Reader, Writer};
use crate::types::Id;

const WHAT: &str = "journal segment header";
const MAGIC: &[u8; 8] = b"FIRNSEGM";
const VERSION: u32 = 1;

/// Bytes of the header that carry something. They lie in one 512-byte sector, which a device writes whole or not at
/// all, so a header that is neither blank nor valid is rot and never a torn write.
pub const HEADER_BYTES: usize = 80;

/// Where the first frame begins.
pub const FRAMES_OFFSET_BYTES: u64 = super::BLOCK_BYTES as u64;

/// Segments from 64 KiB (simulation) to 1 GiB: offsets in them fit 32 bits.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// See [`SEGMENT_BYTES_MIN`].
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// What the first block of a segment file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Bytes of the file.
    pub segment_bytes: u64,
    /// The journal it belongs to.
    pub journal: JournalNumber,
    /// Position in the journal's order; increases by one with every segment that a life opens and never comes back.
    pub place: u64,
    /// Sequence of the first frame.
    pub first_sequence: u64,
    /// Random, new at every start of the process.
    pub life_id: Id,
    /// Random, new at every use of the file.
    pub use_id: Id,
}

/// Number of a journal, unique in its data directory for ever: a change of the number of shards makes new ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalNumber(pub u32);

impl std::fmt::Display for JournalNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

/// What the first block of a segment file can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderBlock {
    /// Never used: zeroes.
    Blank,
    /// A use of the file.
    Valid(SegmentHeader),
    /// Rot: says what is wrong.
    Damaged(FormatError),
}

impl SegmentHeader {
    /// The header's bytes, to be written at the start of a zeroed block.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.bytes(MAGIC);
        writer.u32(VERSION);
        writer.u32(0);
        writer.u64(self.segment_bytes);
        writer.u32(self.journal.0);
        writer.u32(0);
        writer.u64(self.place);
        writer.u64(self.first_sequence);
        writer.id(self.life_id);
        writer.id(self.use_id);
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the start of a segment file. Errors: shorter than a header, or of a newer format.
    pub fn decode(block: &[u8]) -> Result<HeaderBlock, FormatError> {
        let mut reader = Reader::new(WHAT, block);
        let header = reader.bytes(HEADER_BYTES)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(HeaderBlock::Blank);
        }
        match decode_header(header) {
            Ok(header) => Ok(HeaderBlock::Valid(header)),
            Err(version @ FormatError::Version { .. }) => Err(version),
            Err(error) => Ok(HeaderBlock::Damaged(error)),
        }
    }
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
    let mut reader = Reader::new(WHAT, bytes);
    let magic = reader.bytes(8)?;
    let version = reader.u32()?;
    let expected = reader.u32()?;
    let found = header_crc(bytes);
    if expected != found {
        return Err(FormatError::Crc { what: WHAT, expected, found });
    }
    if magic != MAGIC {
        return Err(reader.invalid("magic"));
    }
    if version != VERSION {
        return Err(FormatError::Version { what: WHAT, found: version, known: VERSION });
    }
    let segment_bytes = reader.u64()?;
    let journal = JournalNumber(reader.u32()?);
    reader.u32()?;
    let header = SegmentHeader {
        segment_bytes,
        journal,
        place: reader.u64()?,
        first_sequence: reader.u64()?,
        life_id: reader.id()?,
        use_id: reader.id()?,
    };
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        || !segment_bytes.is_multiple_of(super::BLOCK_BYTES as u64)
    {
        return Err(reader.invalid("segment_bytes"));
    }
    Ok(header)
}
