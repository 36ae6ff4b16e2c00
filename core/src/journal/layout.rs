//! The data directory's `layout` file: how many shards, and which journals are theirs.
//!
//! It is replaced atomically (temporary file, fsync, rename, directory fsync). Until the rename the old epoch's journals
//! are the truth, from then on the new one's.

use super::codec::{FormatError, Reader, Writer};
use super::segment::JournalNumber;
use crate::types::TenantId;

const WHAT: &str = "layout";
const MAGIC: &[u8; 8] = b"FIRNLAYO";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;

/// Shards of one node: more cores than that no machine has for it.
pub const SHARDS_MAX: u32 = 1024;

/// Which journals a data directory's shards write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Goes up by one with every change of the number of shards.
    pub epoch: u64,
    /// The journal of each shard, by the shard's index. Numbers of earlier epochs never come back.
    pub journals: Vec<JournalNumber>,
}

impl Layout {
    /// The layout of a new data directory.
    pub fn first(shards: u32) -> Layout {
        Layout { epoch: 1, journals: (0..shards).map(JournalNumber).collect() }
    }

    /// The layout that follows this one, with journals of its own.
    pub fn next(&self, shards: u32) -> Layout {
        let first = self.journals.iter().map(|journal| journal.0 + 1).max().unwrap_or(0);
        let journals = (first..first + shards).map(JournalNumber).collect();
        Layout { epoch: self.epoch + 1, journals }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + 4 * self.journals.len()];
        let mut writer = Writer::new(&mut bytes);
        writer.bytes(MAGIC);
        writer.u32(VERSION);
        writer.u32(0);
        writer.u64(self.epoch);
        writer.count(self.journals.len());
        writer.u32(0);
        self.journals.iter().for_each(|journal| writer.u32(journal.0));
        let crc = file_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the whole file.
    pub fn decode(file: &[u8]) -> Result<Layout, FormatError> {
        let mut reader = Reader::new(WHAT, file);
        let magic = reader.bytes(8)?;
        let version = reader.u32()?;
        let expected = reader.u32()?;
        if magic != MAGIC {
            return Err(reader.invalid("magic"));
        }
        let found = file_crc(file);
        if expected != found {
            return Err(FormatError::Crc { what: WHAT, expected, found });
        }
        if version != VERSION {
            return Err(FormatError::Version { what: WHAT, found: version, known: VERSION });
        }
        let epoch = reader.u64()?;
        let shards = reader.u32()?;
        reader.u32()?;
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(reader.invalid("shards"));
        }
        let mut journals = Vec::with_capacity(shards as usize);
        for _ in 0..shards {
            journals.push(JournalNumber(reader.u32()?));
        }
        reader.end()?;
        Ok(Layout { epoch, journals })
    }
}

/// The shard, of `shards`, that owns a tenant. Part of the format: it says in which journal a tenant's entries are.
pub fn shard_of(tenant: TenantId, shards: u32) -> u32 {
    // A plain remainder of the CRC: tenants are many and their ids random.
    crc32c::crc32c(&tenant.0.0) % shards
}

fn file_crc(file: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file[..12]), &file[16..])
}

#[cfg(test)]
mod tests;
