//! WAL to push: pages, headers and CRCs are Postgres 17's, each piece ends with a record, the records are XLOG_NOOP.
//!
//! Format: src/include/access/xlog_internal.h and xlogrecord.h of PostgreSQL 17. Acceptors answer with the end of the last
//! whole record, so a piece that ended inside of one would never be acknowledged to its end.

use std::collections::BTreeMap;

use firn_core::postgres::wal::WalVersion;
use firn_core::postgres::wal::framing::{PAGE_BYTES, RECORD_HEADER_BYTES};
use firn_core::types::{Lsn, SystemId};

/// Bytes in a WAL segment, as initdb makes it.
pub const SEGMENT_BYTES: u32 = 16 << 20;
/// The version whose WAL this is.
pub const VERSION: WalVersion = WalVersion::V17;
/// A piece holds a long page header and a record's header at least.
pub const PIECE_BYTES_MIN: usize = 64;

/// XLP_FIRST_IS_CONTRECORD and XLP_LONG_HEADER.
const FIRST_IS_CONTINUATION: u16 = 1;
const LONG_HEADER: u16 = 2;
const SHORT_HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
/// RM_XLOG_ID and XLOG_NOOP.
const RESOURCE_MANAGER: u8 = 0;
const NOOP: u8 = 0x20;
/// XLR_BLOCK_ID_DATA_SHORT and XLR_BLOCK_ID_DATA_LONG: how a record's own data begins.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;

/// One timeline's WAL, piece after piece, without an end.
#[derive(Debug)]
pub struct WalSource {
    system_id: SystemId,
    position: Lsn,
    /// Where the last record begins: xl_prev of the next.
    previous: Lsn,
    /// Bodies of records by length, with their CRC: a CRC begins with the body, so it is computed once per length.
    bodies: BTreeMap<usize, (Vec<u8>, u32)>,
}

impl WalSource {
    /// WAL from `start` on, which is the start of a segment.
    pub fn new(system_id: SystemId, start: Lsn) -> WalSource {
        assert_eq!(start, start.segment_start(SEGMENT_BYTES.into()), "WAL begins with a segment");
        WalSource { system_id, position: start, previous: Lsn(0), bodies: BTreeMap::new() }
    }

    /// Where the next piece begins.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Appends the next piece to `out`: `length_bytes` (a multiple of 8, at least [`PIECE_BYTES_MIN`]), less if it would
    /// end inside a page header, where no record can end.
    pub fn next(&mut self, length_bytes: usize, out: &mut Vec<u8>) {
        assert!(length_bytes.is_multiple_of(8) && length_bytes >= PIECE_BYTES_MIN);
        let mut end = self.position + length_bytes as u64;
        let last_page = Lsn(end.0 - end.0 % PAGE_BYTES);
        if last_page > self.position && end <= last_page + page_header_bytes(last_page) as u64 {
            end = last_page;
        }
        let length_bytes = (end - self.position) as usize;
        let mut left = length_bytes - header_bytes_between(self.position, end);
        let start = self.position + page_header_bytes(self.position) as u64;
        let head = self.record_head(left);
        self.previous = start;
        let (body, _) = &self.bodies[&(left - RECORD_HEADER_BYTES)];
        let mut parts = [&head[..], &body[..]];
        for part in &mut parts {
            while !part.is_empty() {
                let is_first = left == head.len() + body.len();
                let continued = if is_first { 0 } else { left as u32 };
                put_page_header(self.position, self.system_id, continued, out);
                self.position = self.position + page_header_bytes(self.position) as u64;
                let room = (PAGE_BYTES - self.position.0 % PAGE_BYTES) as usize;
                let (now, later) = part.split_at(part.len().min(room));
                out.extend_from_slice(now);
                self.position = self.position + now.len() as u64;
                left -= now.len();
                *part = later;
            }
        }
        assert_eq!((self.position, left), (end, 0), "a piece has the length that was asked for");
    }

    /// The header of a record of so many bytes in all; its body is in `bodies` afterwards.
    fn record_head(&mut self, record_bytes: usize) -> [u8; RECORD_HEADER_BYTES] {
        let body_bytes = record_bytes - RECORD_HEADER_BYTES;
        let (_, body_crc) = self.bodies.entry(body_bytes).or_insert_with(|| {
            let body = record_body(body_bytes);
            let crc = crc32c::crc32c(&body);
            (body, crc)
        });
        let mut head = [0; RECORD_HEADER_BYTES];
        head[0..4].copy_from_slice(&(record_bytes as u32).to_le_bytes());
        head[8..16].copy_from_slice(&self.previous.0.to_le_bytes());
        head[16..18].copy_from_slice(&[NOOP, RESOURCE_MANAGER]);
        let crc = crc32c::crc32c_append(*body_crc, &head[..20]);
        head[20..24].copy_from_slice(&crc.to_le_bytes());
        head
    }
}

/// A record's data with its own header, `length_bytes` in all. The data looks random: nothing compresses it away.
fn record_body(length_bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length_bytes);
    match length_bytes {
        0 => {}
        2..=257 => body.extend([DATA_SHORT, (length_bytes - 2) as u8]),
        _ => {
            body.push(DATA_LONG);
            body.extend((length_bytes as u32 - 5).to_le_bytes());
        }
    }
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    while body.len() < length_bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        body.push((state >> 56) as u8);
    }
    body
}

/// Bytes of the page header at a position; 0 inside a page.
fn page_header_bytes(position: Lsn) -> usize {
    match position.0 {
        lsn if lsn.is_multiple_of(SEGMENT_BYTES.into()) => LONG_HEADER_BYTES,
        lsn if lsn.is_multiple_of(PAGE_BYTES) => SHORT_HEADER_BYTES,
        _ => 0,
    }
}

fn header_bytes_between(begin: Lsn, end: Lsn) -> usize {
    let first = begin.0.next_multiple_of(PAGE_BYTES);
    let pages = (first..end.0).step_by(PAGE_BYTES as usize);
    pages.map(|page| page_header_bytes(Lsn(page))).sum()
}

/// Writes the page header that belongs at a position, if one does.
fn put_page_header(position: Lsn, system_id: SystemId, continued_bytes: u32, out: &mut Vec<u8>) {
    let header_bytes = page_header_bytes(position);
    if header_bytes == 0 {
        return;
    }
    let is_long = header_bytes == LONG_HEADER_BYTES;
    let mut info = if is_long { LONG_HEADER } else { 0 };
    if continued_bytes > 0 {
        info |= FIRST_IS_CONTINUATION;
    }
    out.extend(VERSION.page_magic().to_le_bytes());
    out.extend(info.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(position.0.to_le_bytes());
    out.extend(continued_bytes.to_le_bytes());
    out.extend([0; 4]);
    if is_long {
        out.extend(system_id.0.to_le_bytes());
        out.extend(SEGMENT_BYTES.to_le_bytes());
        out.extend((PAGE_BYTES as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
