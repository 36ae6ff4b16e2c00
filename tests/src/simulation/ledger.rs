//! What clients were told is safe: kept outside every simulated machine, so nothing that a machine loses is lost here.

use firn_core::types::Lsn;

use super::wal::RecordRange;

/// One acknowledged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where it lies.
    pub range: RecordRange,
    /// CRC32C of its bytes in the log.
    pub crc: u32,
}

/// Every acknowledged record in the order of acknowledgement, which is that of the log.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Vec<Acknowledged>,
}

impl Ledger {
    /// A client was told that its record is safe.
    pub fn acknowledge(&mut self, range: RecordRange, bytes: &[u8]) {
        self.entries.push(Acknowledged { range, crc: crc32c::crc32c(bytes) });
    }

    /// All entries.
    pub fn entries(&self) -> &[Acknowledged] {
        &self.entries
    }

    /// The end of the last acknowledged record.
    pub fn end(&self) -> Lsn {
        self.entries.iter().map(|entry| entry.range.end).max().unwrap_or(Lsn::INVALID)
    }
}
