//! WAL as a Postgres primary writes it: pages, records, segment switches, overwritten records, timeline switches.
//!
//! The bytes are those of PostgreSQL 15-18 (src/include/access/xlog_internal.h, xlogrecord.h); a test shows them to the
//! real `pg_waldump`. What the records *do* is nothing: the simulated primary has no pages.

mod record;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

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
    /// Start of the last complete record, what the next one's `prev` says.
    last_record: Lsn,
    /// End of the last complete record.
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
            last_record: Lsn::INVALID,
            record_end: start,
        };
        wal.checkpoint();
        wal
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
        let encoded = record.encode(self.last_record);
        self.put(&encoded);
        let end = self.end().align_up_8();
        self.pad_to(end);
        self.last_record = start;
        self.record_end = end;
        RecordRange { start, end }
    }

    /// Appends a segment switch: the rest of the segment is zero, page headers included. Postgres skips the record
    /// when the segment is empty; so does this.
    pub fn switch_segment(&mut self) -> Option<RecordRange> {
        let segment = self.record_end.segment_start(self.cluster.segment_size_bytes);
        if self.record_end - segment <= LONG_HEADER_BYTES {
            return None;
        }
        let record = self.append(&Record::segment_switch());
        let past = self.record_end - Lsn(1);
        let end = Lsn(past).segment_start(self.cluster.segment_size_bytes)
            + self.cluster.segment_size_bytes;
        self.pad_to(end);
        self.record_end = end;
        Some(RecordRange { start: record.start, end })
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
    }

    /// Crash recovery after a cut: finds the last complete record; when the first half of another reaches up to a page
    /// boundary the next page says that it overwrites it, a shorter half vanishes. Ends with a checkpoint.
    pub fn recover(&mut self, records: &[RecordRange]) {
        let complete = records.iter().rev().find(|record| record.end <= self.end());
        let end = self.end();
        let (last_record, record_end) =
            complete.map_or((Lsn::INVALID, self.start), |record| (record.start, record.end));
        self.last_record = last_record;
        self.record_end = record_end;
        let half = first_record_position(self.cluster, record_end);
        if end > half && end.0.is_multiple_of(PAGE_BYTES) {
            self.record_end = end;
            self.open_page(FIRST_IS_OVERWRITE, 0);
            self.record_end = self.end();
            self.append(&Record::overwrite_contrecord(half));
        } else {
            self.cut(record_end.min(end));
            self.pad_to(record_end);
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
