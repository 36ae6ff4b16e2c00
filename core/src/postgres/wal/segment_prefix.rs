//! The bytes of a segment before a timeline's first: page headers and zeroes.
//!
//! A timeline that begins in the middle of a segment has no WAL before its start, but readers begin at the start of a
//! segment and a restored file is a whole segment. What they get makes the first record's page readable: the segment's
//! long header, and on the first record's page a short header that says that the bytes up to the start continue a
//! record (PostgreSQL src/include/access/xlog_internal.h; the same bytes as Neon's safekeepers make).

use crate::postgres::wal::WalVersion;
use crate::postgres::wal::framing::PAGE_BYTES;
use crate::types::{Lsn, PostgresTimeline, SystemId};

const LONG_HEADER_BYTES: u64 = 40;
const SHORT_HEADER_BYTES: u64 = 24;
const FIRST_IS_CONTINUATION: u16 = 1;
const LONG_HEADER: u16 = 2;

/// The made-up bytes from a segment's start to a timeline's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPrefix {
    /// Version of the cluster.
    pub version: WalVersion,
    /// The cluster.
    pub system_id: SystemId,
    /// Postgres' timeline of the segment.
    pub timeline: PostgresTimeline,
    /// Bytes in a segment.
    pub segment_size_bytes: u32,
    /// Where real WAL begins.
    pub start: Lsn,
}

impl SegmentPrefix {
    /// Where the made-up bytes begin.
    pub fn begin(&self) -> Lsn {
        self.start.segment_start(u64::from(self.segment_size_bytes))
    }

    /// The bytes `[from, end)`.
    ///
    /// # Panics
    /// If the range is not within `[begin, start)`.
    pub fn read(&self, from: Lsn, end: Lsn) -> Vec<u8> {
        assert!(self.begin() <= from && from <= end && end <= self.start, "a range of the prefix");
        let mut bytes = vec![0; usize::try_from(end - from).expect("the caller bounds the range")];
        let page = self.start.segment_start(PAGE_BYTES);
        let mut headers = vec![(self.begin(), self.long_header())];
        if page != self.begin() && page < self.start {
            headers.push((page, self.short_header(page, SHORT_HEADER_BYTES)));
        }
        for (at, header) in headers {
            for (index, byte) in header.into_iter().enumerate() {
                let position = at + index as u64;
                // A start inside a header leaves a part of it.
                if from <= position && position < end {
                    bytes[(position - from) as usize] = byte;
                }
            }
        }
        bytes
    }

    fn long_header(&self) -> Vec<u8> {
        let begin = self.begin();
        let mut header = if self.start - begin < PAGE_BYTES {
            self.short_header(begin, LONG_HEADER_BYTES)
        } else {
            self.header(begin, 0, 0)
        };
        header[2] |= LONG_HEADER as u8;
        header.extend_from_slice(&self.system_id.0.to_le_bytes());
        header.extend_from_slice(&self.segment_size_bytes.to_le_bytes());
        header.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        header
    }

    /// The header of the page that the start is on, itself `header_bytes` long.
    fn short_header(&self, page: Lsn, header_bytes: u64) -> Vec<u8> {
        match (self.start - page).checked_sub(header_bytes) {
            Some(rest @ 1..) => self.header(page, FIRST_IS_CONTINUATION, rest as u32),
            _ => self.header(page, 0, 0),
        }
    }

    fn header(&self, page: Lsn, flags: u16, rest_bytes: u32) -> Vec<u8> {
        let mut header = Vec::with_capacity(LONG_HEADER_BYTES as usize);
        header.extend_from_slice(&self.version.page_magic().to_le_bytes());
        header.extend_from_slice(&flags.to_le_bytes());
        header.extend_from_slice(&self.timeline.0.to_le_bytes());
        header.extend_from_slice(&page.0.to_le_bytes());
        header.extend_from_slice(&rest_bytes.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header
    }
}

#[cfg(test)]
mod tests;
