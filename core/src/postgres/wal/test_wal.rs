//! WAL made by hand for tests: pages, headers and CRCs right, contents arbitrary.

use super::WalVersion;
use super::framing::PAGE_BYTES;
use crate::types::Lsn;

/// Segment size of the WAL made here.
pub const SEGMENT_BYTES: u32 = 1 << 20;

/// Contiguous WAL from a position on.
pub struct WalBuilder {
    pub start: Lsn,
    pub bytes: Vec<u8>,
    pub version: WalVersion,
    /// Ends of the records so far.
    pub ends: Vec<Lsn>,
    previous: Lsn,
}

impl WalBuilder {
    pub fn new(start: Lsn, version: WalVersion) -> WalBuilder {
        WalBuilder { start, bytes: Vec::new(), version, ends: Vec::new(), previous: Lsn(8) }
    }

    pub fn position(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    fn header(&mut self, flags: u16, remaining: u32) {
        let page = self.position();
        let long = page.0.is_multiple_of(u64::from(SEGMENT_BYTES));
        self.bytes.extend(self.version.page_magic().to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(page.0.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend(0u32.to_le_bytes());
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend(SEGMENT_BYTES.to_le_bytes());
            self.bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        }
    }

    fn at_page_start(&self) -> bool {
        self.position().0.is_multiple_of(PAGE_BYTES)
    }

    /// The bytes of a record that would come next.
    pub fn record_bytes(&self, rmid: u8, info: u8, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(0u32.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    /// Writes a page header if a page starts here.
    pub fn begin_page(&mut self, flags: u16, remaining: u32) {
        if self.at_page_start() {
            self.header(flags, remaining);
        }
    }

    /// Appends a record; its start and end.
    pub fn record(&mut self, rmid: u8, info: u8, body: &[u8]) -> (Lsn, Lsn) {
        self.begin_page(0, 0);
        let start = self.position();
        let record = self.record_bytes(rmid, info, body);
        for (index, &byte) in record.iter().enumerate() {
            self.begin_page(1, (record.len() - index) as u32);
            self.bytes.push(byte);
        }
        self.pad();
        self.previous = start;
        self.ends.push(self.position());
        (start, self.position())
    }

    fn pad(&mut self) {
        while !self.position().0.is_multiple_of(8) {
            self.bytes.push(0);
        }
    }

    /// Appends XLOG_SWITCH and the zeros that end the segment.
    pub fn switch(&mut self) {
        self.record(0, 0x40, &[]);
        while !self.position().0.is_multiple_of(u64::from(SEGMENT_BYTES)) {
            self.bytes.push(0);
        }
        *self.ends.last_mut().unwrap() = self.position();
    }

    /// Appends the first bytes of a record, up to the end of `pages` further pages, and the page that overwrites the rest.
    pub fn overwritten_record(&mut self, body: &[u8], pages: usize) {
        self.begin_page(0, 0);
        let record = self.record_bytes(10, 0, body);
        let mut crossed = 0;
        for (index, &byte) in record.iter().enumerate() {
            if self.at_page_start() {
                if crossed == pages {
                    self.header(8, 0);
                    return;
                }
                crossed += 1;
            }
            self.begin_page(1, (record.len() - index) as u32);
            self.bytes.push(byte);
        }
        panic!("the record is too short to be cut there");
    }
}
