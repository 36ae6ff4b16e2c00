//! One record of each type with its pages before and after: evidence and fuzz seeds without a server.
//!
//! A sample is: start and end LSN (8 bytes each), block id (1), length of the record (4), the record, the page before, the
//! page after; integers little-endian.

use std::collections::BTreeSet;

use firn_core::postgres::page::PageBytes;
use firn_core::postgres::wal::Record;
use firn_core::postgres::wal::names::record_kind;

/// Samples being taken.
#[derive(Debug, Default)]
pub struct Samples {
    seen: BTreeSet<(u8, u8, u8)>,
    bytes: Vec<u8>,
}

impl Samples {
    /// Keeps this record if none of its type changed a block with this id yet.
    pub fn add(&mut self, record: &Record<'_>, id: u8, before: &PageBytes, after: &PageBytes) {
        let manager = record.resource_manager();
        if !self.seen.insert((manager, record_kind(manager, record.info()), id)) {
            return;
        }
        self.bytes.extend(record.start.0.to_le_bytes());
        self.bytes.extend(record.end.0.to_le_bytes());
        self.bytes.push(id);
        self.bytes.extend(record.total_len().to_le_bytes());
        self.bytes.extend(record.bytes());
        self.bytes.extend(before);
        self.bytes.extend(after);
    }

    /// All samples, one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
