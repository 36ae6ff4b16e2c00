//! WAL as a Postgres primary writes it: pages, records, segment switches, overwritten records, timeline switches.
//!
//! The bytes are those of PostgreSQL 15-18 (src/include/access/xlog_internal.h, xlogrecord.h); a test shows them to the
//! real `pg_waldump`. What the records *do* is nothing: the simulated primary has no pages.

mod record;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use firn_core::marks;
use firn_core::types::{Lsn, PostgresTimeline, PostgresVersion, SystemId};

pub use record::Record;

/// Bytes in a WAL page (XLOG_BLCKSZ of every stock build).
pub const PAGE_BYTES: u64 = 8192;
/// Short and long page header.
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

const FIRST_IS_CONTINUATION: u16 = 0x1;
const LONG_HEADER: u16 = 0x2;
const FIRST_IS_OVERWRITE: u16 = 0x8;

/// What all of a cluster's WAL has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Decides the pages' magic.
    pub postgres_version: PostgresVersion,
    /// In every long header.
    pub system_id: SystemId,
    /// A power of two from 1 MiB to 1 GiB.
    pub segment_size_bytes: u64,
}

impl Cluster {
    fn magic(&self) -> u16 {
        match self.postgres_version.major() {
            15 => 0xD110,
            16 => 0xD113,
            17 => 0xD116,
            18 => 0xD118,
            other => panic!("the generator writes WAL of versions 15 to 18, not {other}"),
        }
    }
}

/// One switch to a new Postgres timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    pub parent: PostgresTimeline,
    /// Where the new one begins.
    pub at: Lsn,
}

/// A primary's WAL from the start of a segment on: what its disk and its WAL buffers hold.
#[derive(Debug, Clone)]
pub struct Wal {
    cluster: Cluster,
    timeline: PostgresTimeline,
    switches: Vec<TimelineSwitch>,
    start: Lsn,
    bytes: Vec<u8>,
    /// The complete records, in order.
    records: Vec<RecordRange>,
    /// Where the next record begins, but for page headers.
    record_end: Lsn,
}

/// Where a record lies: its first byte (behind the page header) and the 8-aligned position after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRange {
    /// First byte of the record's header.
    pub start: Lsn,
    /// Its end LSN: aligned; the next segment's start for a segment switch.
    pub end: Lsn,
}

impl Wal {
    /// WAL that begins with a shutdown checkpoint at the start of the segment `start`, as `initdb` leaves it.
    pub fn new(cluster: Cluster, start: Lsn) -> Wal {
        assert_eq!(start, start.segment_start(cluster.segment_size_bytes));
        assert!(start.is_valid(), "no cluster's WAL begins at 0");
        let mut wal = Wal {
            cluster,
            timeline: PostgresTimeline(1),
            switches: Vec::new(),
            start,
            bytes: Vec::new(),
            records: Vec::new(),
            record_end: start,
        };
        wal.checkpoint();
        wal
    }

    /// WAL that was read back from somewhere: `bytes` from the start of a segment on, ending with a complete record. Its
    /// records and timelines are found in the bytes; their CRCs are not looked at.
    pub fn restored(cluster: Cluster, start: Lsn, bytes: Vec<u8>) -> Wal {
        let timeline = PostgresTimeline(1);
        let (switches, records) = (Vec::new(), Vec::new());
        let mut wal = Wal { cluster, timeline, switches, start, bytes, records, record_end: start };
        while wal.record_end < wal.end() {
            wal.restore_record();
        }
        assert_eq!(wal.record_end, wal.end(), "the bytes end with a record");
        wal
    }

    fn restore_record(&mut self) {
        let begin = self.record_end;
        let start = first_record_position(self.cluster, begin);
        let (header, _) = self.record_bytes(start, record::HEADER_BYTES);
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let (bytes, mut end) = self.record_bytes(start, length as usize);
        if bytes.len() < length as usize {
            // Overwritten: the next record is the first of the page that says so.
            self.record_end = end;
            return;
        }
        if let Some((timeline, parent)) = record::timelines_of(&bytes) {
            self.switches.push(TimelineSwitch { parent, at: begin });
            self.timeline = timeline;
        }
        if record::is_segment_switch(&bytes) {
            end = start.segment_start(self.cluster.segment_size_bytes)
                + self.cluster.segment_size_bytes;
        }
        self.records.push(RecordRange { start, end });
        self.record_end = end;
    }

    /// `length` bytes of a record from `from` on, page headers left out, and the aligned position after them. Less when a
    /// page begins that overwrites the record: the position is that page's.
    fn record_bytes(&self, from: Lsn, length: usize) -> (Vec<u8>, Lsn) {
        let mut record = Vec::with_capacity(length);
        let mut at = from;
        while record.len() < length {
            if at.0.is_multiple_of(PAGE_BYTES) {
                let info = self.read(at + 2, at + 4);
                if u16::from_le_bytes([info[0], info[1]]) & FIRST_IS_OVERWRITE != 0 {
                    return (record, at);
                }
                at = first_record_position(self.cluster, at);
            }
            let room = PAGE_BYTES - at.0 % PAGE_BYTES;
            let part = room.min((length - record.len()) as u64);
            record.extend_from_slice(self.read(at, at + part));
            at = at + part;
        }
        (record, at.align_up_8())
    }

    /// What all of it has in common.
    pub fn cluster(&self) -> Cluster {
        self.cluster
    }

    /// The timeline being written.
    pub fn timeline(&self) -> PostgresTimeline {
        self.timeline
    }

    /// The first byte that is there.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The position after the last byte that is there.
    pub fn end(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    /// End of the last complete record.
    pub fn record_end(&self) -> Lsn {
        self.record_end
    }

    /// The complete records, in order.
    pub fn records(&self) -> &[RecordRange] {
        &self.records
    }

    /// The bytes `[from, to)`, all of which are there.
    pub fn read(&self, from: Lsn, to: Lsn) -> &[u8] {
        &self.bytes[(from - self.start) as usize..(to - self.start) as usize]
    }

    /// Appends one record.
    pub fn append(&mut self, record: &Record) -> RecordRange {
        assert_eq!(
            self.end().align_up_8(),
            self.record_end,
            "a half record must be resolved first"
        );
        self.pad_to(self.record_end);
        self.open_page(0, 0);
        let start = self.end();
        let prev = self.records.last().map_or(Lsn::INVALID, |record| record.start);
        let encoded = record.encode(prev);
        self.put(&encoded);
        let end = self.end().align_up_8();
        self.pad_to(end);
        let range = RecordRange { start, end };
        self.records.push(range);
        self.record_end = end;
        range
    }

    /// Appends a segment switch: the rest of the segment is zero, page headers included. Postgres skips the record
    /// when the segment is empty; so does this.
    pub fn switch_segment(&mut self) {
        let segment_size_bytes = self.cluster.segment_size_bytes;
        if self.record_end - self.record_end.segment_start(segment_size_bytes) <= LONG_HEADER_BYTES
        {
            return;
        }
        let mut record = self.append(&Record::segment_switch());
        record.end = record.start.segment_start(segment_size_bytes) + segment_size_bytes;
        self.pad_to(record.end);
        self.record_end = record.end;
        *self.records.last_mut().expect("one was appended") = record;
    }

    /// Appends a checkpoint record whose redo position is its own start, as a shutdown checkpoint's.
    pub fn checkpoint(&mut self) -> RecordRange {
        let redo = self.next_record_start();
        self.append(&Record::shutdown_checkpoint(redo, self.timeline))
    }

    /// Forgets everything past `end`, as a crash or an older disk does. Inside a record this leaves the first half of
    /// it; [`Wal::recover`] resolves that.
    pub fn cut(&mut self, end: Lsn) {
        assert!(end <= self.end() && end >= self.start);
        self.bytes.truncate((end - self.start) as usize);
        while self.records.last().is_some_and(|record| record.end > end) {
            self.records.pop();
        }
        self.record_end = self.records.last().map_or(self.start, |record| record.end);
    }

    /// Crash recovery after a cut: finds the last complete record; when the first half of another reaches up to a page
    /// boundary the next page says that it overwrites it, a shorter half vanishes. Ends with a checkpoint.
    pub fn recover(&mut self) {
        let (end, record_end) = (self.end(), self.record_end);
        let half = first_record_position(self.cluster, record_end);
        if end > half && end.0.is_multiple_of(PAGE_BYTES) {
            marks::hit("primary.overwrote_half_record");
            self.open_page(FIRST_IS_OVERWRITE, 0);
            self.record_end = self.end();
            self.append(&Record::overwrite_contrecord(half));
        } else {
            self.cut(record_end);
        }
        self.checkpoint();
    }

    /// Promotion: the next timeline begins at the end of the last complete record.
    pub fn promote(&mut self) {
        assert_eq!(self.end(), self.record_end, "no record is split across timelines");
        self.switches.push(TimelineSwitch { parent: self.timeline, at: self.record_end });
        let parent = self.timeline;
        self.timeline = PostgresTimeline(parent.0 + 1);
        self.append(&Record::end_of_recovery(self.timeline, parent, self.cluster.postgres_version));
    }

    /// The text of the current timeline's history file.
    pub fn history(&self) -> String {
        let mut text = String::new();
        for switch in &self.switches {
            writeln!(text, "{}\t{}\tno recovery target specified", switch.parent.0, switch.at)
                .expect("a string takes every text");
        }
        text
    }

    /// The switches that led to the current timeline, oldest first.
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// Start of the record that would be appended next.
    pub fn next_record_start(&self) -> Lsn {
        first_record_position(self.cluster, self.record_end)
    }

    /// Writes record bytes, with a continuation header at the start of every page.
    fn put(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            self.open_page(FIRST_IS_CONTINUATION, record.len() as u32);
            let room = (PAGE_BYTES - self.end().0 % PAGE_BYTES) as usize;
            let part = room.min(record.len());
            self.bytes.extend_from_slice(&record[..part]);
            record = &record[part..];
        }
    }

    /// Writes a page header when a page begins here.
    fn open_page(&mut self, info: u16, remaining_bytes: u32) {
        let page = self.end();
        if !page.0.is_multiple_of(PAGE_BYTES) {
            return;
        }
        let long = page == page.segment_start(self.cluster.segment_size_bytes);
        let info = if long { info | LONG_HEADER } else { info };
        self.bytes.extend_from_slice(&self.cluster.magic().to_le_bytes());
        self.bytes.extend_from_slice(&info.to_le_bytes());
        self.bytes.extend_from_slice(&self.timeline.0.to_le_bytes());
        self.bytes.extend_from_slice(&page.0.to_le_bytes());
        self.bytes.extend_from_slice(&remaining_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        if long {
            let segment_size_bytes = self.cluster.segment_size_bytes as u32;
            self.bytes.extend_from_slice(&self.cluster.system_id.0.to_le_bytes());
            self.bytes.extend_from_slice(&segment_size_bytes.to_le_bytes());
            self.bytes.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        }
    }

    fn pad_to(&mut self, position: Lsn) {
        if position > self.end() {
            self.bytes.resize((position - self.start) as usize, 0);
        }
    }
}

/// Where the first record at or after the record end `position` starts: behind the page header when a page begins
/// there.
fn first_record_position(cluster: Cluster, position: Lsn) -> Lsn {
    if position == position.segment_start(cluster.segment_size_bytes) {
        position + LONG_HEADER_BYTES
    } else if position.0.is_multiple_of(PAGE_BYTES) {
        position + SHORT_HEADER_BYTES
    } else {
        position
    }
}
