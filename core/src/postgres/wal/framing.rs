//! Pages, segments, continuation: where a record's bytes are and where it ends.
//!
//! [`Framing`] is fed slices of contiguous WAL and says what they are, piece by piece, without copying: the bytes of a
//! record as they lie on each page, its end once its CRC is right, a half record that the server overwrote. It is the
//! only code that knows page headers; the scanner and the decoder are both loops around [`Framing::step`].
//!
//! Per record: no allocation, one copy of its 24-byte header, one CRC pass. PostgreSQL src/backend/access/transam/xlogreader.c
//! is the reference for which bytes are accepted.

use super::crc::record_crc;
use super::{WalError, WalVersion};
use crate::types::{Lsn, SystemId};

/// Bytes of a WAL page (XLOG_BLCKSZ).
pub const PAGE_BYTES: u64 = 8192;
/// Bytes of a record's header (SizeOfXLogRecord).
pub const RECORD_HEADER_BYTES: usize = 24;
/// The longest record: XLogRecordMaxSize of Postgres 16 and later; older servers cannot read longer ones either.
pub const RECORD_BYTES_MAX: u32 = 1020 * 1024 * 1024;

const SHORT_PAGE_HEADER_BYTES: usize = 24;
const LONG_PAGE_HEADER_BYTES: usize = 40;

/// Last position that is taken for real: leaves room to round up to a segment (at most 1 GiB) without overflow.
const LSN_MAX: u64 = u64::MAX - (2 << 30);

const PAGE_FIRST_IS_CONTINUATION: u16 = 0x1;
const PAGE_LONG_HEADER: u16 = 0x2;
const PAGE_FIRST_OVERWRITES_RECORD: u16 = 0x8;
const PAGE_KNOWN_FLAGS: u16 = 0xF;

const RMGR_XLOG: u8 = 0;
const RMGR_LAST_BUILTIN: u8 = 21;
const RMGR_FIRST_CUSTOM: u8 = 128;
const XLOG_SWITCH: u8 = 0x40;

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// All input is consumed; more is needed to say anything.
    Starved,
    /// The next bytes of the record that began at `start`; page headers are left out.
    Bytes {
        /// Start of the record.
        start: Lsn,
        /// Whether these are its first bytes.
        first: bool,
        /// The bytes, at least one.
        bytes: &'a [u8],
        /// The record's end, when these are its last bytes and its CRC is right: 8-aligned, and for XLOG_SWITCH the
        /// start of the next segment. May lie past the bytes consumed so far.
        end: Option<Lsn>,
    },
    /// The record that began at `start` was never finished: a page that overwrites the rest of it follows. Its
    /// bytes must be dropped.
    Overwritten {
        /// Start of the dropped record.
        start: Lsn,
    },
    /// The first page began with the end of a record whose beginning was never seen; it ends here. A second one
    /// follows when that record turns out to be XLOG_SWITCH; bytes given in between were not a record's.
    Skipped {
        /// The end of that record, as in [`Step::Bytes`].
        end: Lsn,
    },
    /// The bytes are not valid WAL: see [`Framing::error`]. They are consumed, and so is everything after them.
    Failed,
}

/// The state machine over contiguous WAL bytes. After an error it only counts positions.
#[derive(Debug, Clone)]
pub struct Framing {
    segment_size_bytes: u64,
    position: Lsn,
    /// Bytes before this position are not looked at: padding, the rest of a switched segment.
    skip_until: Lsn,
    /// The header of the current page, as far as it was seen.
    page_header: [u8; LONG_PAGE_HEADER_BYTES],
    current: Current,
    /// What came before may have been an XLOG_SWITCH record whose beginning was not seen: then zeros follow.
    after_possible_switch: bool,
    /// Start of the last complete record, once one was seen.
    previous: Option<Lsn>,
    version: Option<WalVersion>,
    system_id: Option<SystemId>,
    /// Timeline of the last page; it never decreases along a stream.
    timeline: u32,
    error: Option<WalError>,
}

/// What the next byte outside a page header belongs to.
#[derive(Debug, Clone)]
enum Current {
    /// Padding, then a record's start.
    Between,
    /// Bytes of a record whose beginning was not seen.
    Skipping { remaining: u64, tail: SkippedTail },
    /// A record, with its first `have` bytes seen.
    Record(Partial),
}

#[derive(Debug, Clone)]
struct Partial {
    start: Lsn,
    header: [u8; RECORD_HEADER_BYTES],
    /// Valid once 4 bytes are seen.
    total_len: u32,
    have: u32,
    /// CRC of the bytes after the header, so far.
    crc: u32,
}

/// The last 8 bytes of a skipped record. Those of an XLOG_SWITCH record begin with its info and resource manager.
#[derive(Debug, Clone, Copy, Default)]
struct SkippedTail([u8; 8]);

impl SkippedTail {
    fn push(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = *last;
        } else {
            self.0.rotate_left(bytes.len());
            self.0[8 - bytes.len()..].copy_from_slice(bytes);
        }
    }

    fn may_be_switch(self) -> bool {
        self.0[0] & 0xF0 == XLOG_SWITCH && self.0[1] == RMGR_XLOG
    }
}

impl Framing {
    /// A machine whose first byte will be the one at `start`: a record's start, a page's start, or padding before one.
    pub fn new(start: Lsn, segment_size_bytes: u32) -> Framing {
        let mut framing = Framing {
            segment_size_bytes: u64::from(segment_size_bytes),
            position: start,
            skip_until: start,
            page_header: [0; LONG_PAGE_HEADER_BYTES],
            current: Current::Between,
            after_possible_switch: false,
            previous: None,
            version: None,
            system_id: None,
            timeline: 0,
            error: None,
        };
        if !(1 << 20..=1 << 30).contains(&segment_size_bytes)
            || !segment_size_bytes.is_power_of_two()
        {
            framing.error = Some(WalError::SegmentSize { found: segment_size_bytes });
        } else if start.0 > LSN_MAX {
            framing.error = Some(WalError::PositionOutOfRange { lsn: start });
        } else {
            // A start inside a page header cannot be checked: take the header for granted.
            let offset = start.0 % PAGE_BYTES;
            let header = framing.page_header_bytes() as u64;
            framing.skip_until = match offset {
                0 => start,
                _ if offset < header => Lsn(start.0 - offset + header),
                _ => start.align_up_8(),
            };
        }
        framing
    }

    /// The position of the next byte to be given.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Why the bytes so far are not valid WAL.
    pub fn error(&self) -> Option<&WalError> {
        self.error.as_ref()
    }

    /// Which Postgres wrote the WAL, once a page header was seen.
    pub fn version(&self) -> Option<WalVersion> {
        self.version
    }

    /// The cluster's identity, once the first page of a segment was seen.
    pub fn system_id(&self) -> Option<SystemId> {
        self.system_id
    }

    /// Says what the first bytes of `input` are and removes them from it. Call until it says [`Step::Starved`].
    pub fn step<'a>(&mut self, input: &mut &'a [u8]) -> Step<'a> {
        loop {
            if input.is_empty() {
                return Step::Starved;
            }
            if self.error.is_none() && self.position.0 > LSN_MAX {
                return self.fail(WalError::PositionOutOfRange { lsn: self.position }, input);
            }
            if self.error.is_some() {
                self.position = Lsn(self.position.0.saturating_add(input.len() as u64));
                *input = &[];
                return Step::Starved;
            }
            if self.position < self.skip_until {
                let len = input.len().min(to_usize(self.skip_until - self.position));
                self.take(input, len);
                continue;
            }
            let offset = to_usize(self.position.0 % PAGE_BYTES);
            let step = if offset < self.page_header_bytes() {
                self.page_header_step(offset, input)
            } else {
                self.record_step(PAGE_BYTES as usize - offset, input)
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// The next record if `input` begins with all of it, on one page and with nothing unusual: its bytes, start and end.
    /// Nothing has happened when there is none: [`step`](Self::step) says then what comes, errors included. Most
    /// records are like that, and this is several times as fast.
    #[inline]
    pub fn whole_record<'a>(&mut self, input: &mut &'a [u8]) -> Option<(&'a [u8], Lsn, Lsn)> {
        if !matches!(self.current, Current::Between) || self.error.is_some() {
            return None;
        }
        let start = self.position.max(self.skip_until);
        let offset = start.0 % PAGE_BYTES;
        if start.0 > LSN_MAX || offset < LONG_PAGE_HEADER_BYTES as u64 {
            return None;
        }
        let from_start = input.get(to_usize(start.0 - self.position.0)..)?;
        let header = from_start.first_chunk::<RECORD_HEADER_BYTES>()?;
        let total_len = u32_at(header, 0);
        let bytes = from_start.get(..total_len as usize)?;
        if bytes.len() < RECORD_HEADER_BYTES
            || u64::from(total_len) > PAGE_BYTES - offset
            || check_record_header(header, start, self.previous).is_err()
            || is_switch(header)
            || record_crc(bytes) != u32_at(header, 20)
        {
            return None;
        }
        let record_end = start + u64::from(total_len);
        *input = &from_start[bytes.len()..];
        self.position = record_end;
        self.skip_until = record_end.align_up_8();
        self.previous = Some(start);
        self.after_possible_switch = false;
        Some((bytes, start, self.skip_until))
    }

    /// Length of the header of the page that holds `position`.
    fn page_header_bytes(&self) -> usize {
        let page = self.position.0 - self.position.0 % PAGE_BYTES;
        if page.is_multiple_of(self.segment_size_bytes) {
            LONG_PAGE_HEADER_BYTES
        } else {
            SHORT_PAGE_HEADER_BYTES
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(len);
        *input = rest;
        self.position = self.position + len as u64;
        taken
    }

    fn fail<'a>(&mut self, error: WalError, input: &mut &'a [u8]) -> Step<'a> {
        self.error = Some(error);
        self.position = Lsn(self.position.0.saturating_add(input.len() as u64));
        *input = &[];
        Step::Failed
    }

    fn page_header_step<'a>(&mut self, offset: usize, input: &mut &'a [u8]) -> Option<Step<'a>> {
        let header_bytes = self.page_header_bytes();
        let bytes = self.take(input, input.len().min(header_bytes - offset));
        self.page_header[offset..offset + bytes.len()].copy_from_slice(bytes);
        if offset + bytes.len() < header_bytes {
            return None;
        }
        let page = Lsn(self.position.0 - header_bytes as u64);
        match self.check_page_header(page, header_bytes) {
            Ok(PageStart::AsExpected) => None,
            Ok(PageStart::Overwrites(start)) => Some(Step::Overwritten { start }),
            Err(error) => Some(self.fail(error, input)),
        }
    }

    fn check_page_header(&mut self, page: Lsn, header_bytes: usize) -> Result<PageStart, WalError> {
        let header = &self.page_header;
        let wrong = |field, found, expected| WalError::PageHeader { page, field, found, expected };
        let magic = u16_at(header, 0);
        let version = WalVersion::from_page_magic(magic)
            .ok_or(WalError::UnknownMagic { page, found: magic })?;
        let info = u16_at(header, 2);
        let timeline = u32_at(header, 4);
        let address = u64_at(header, 8);
        let remaining = u64::from(u32_at(header, 16));

        if let Some(expected) = self.version.filter(|&expected| expected != version) {
            return Err(wrong("magic", magic.into(), expected.page_magic().into()));
        }
        if info & !PAGE_KNOWN_FLAGS != 0 {
            return Err(wrong("flags", info.into(), (info & PAGE_KNOWN_FLAGS).into()));
        }
        if address != page.0 {
            return Err(wrong("address", address, page.0));
        }
        if timeline < self.timeline {
            return Err(wrong("timeline", timeline.into(), self.timeline.into()));
        }
        let long = header_bytes == LONG_PAGE_HEADER_BYTES;
        if (info & PAGE_LONG_HEADER != 0) != long {
            return Err(wrong(
                "flags",
                info.into(),
                ((info & !PAGE_LONG_HEADER) | if long { PAGE_LONG_HEADER } else { 0 }).into(),
            ));
        }
        if long {
            let system_id = u64_at(header, 24);
            if let Some(expected) = self.system_id.filter(|expected| expected.0 != system_id) {
                return Err(wrong("system identifier", system_id, expected.0));
            }
            let segment_size = u64::from(u32_at(header, 32));
            if segment_size != self.segment_size_bytes {
                return Err(wrong("segment size", segment_size, self.segment_size_bytes));
            }
            let page_size = u64::from(u32_at(header, 36));
            if page_size != PAGE_BYTES {
                return Err(wrong("page size", page_size, PAGE_BYTES));
            }
            self.system_id = Some(SystemId(system_id));
        }
        let first_seen = self.version.is_none();
        self.version = Some(version);
        self.timeline = timeline;

        let continues = info & PAGE_FIRST_IS_CONTINUATION != 0;
        let expected = match &self.current {
            Current::Between => 0,
            Current::Skipping { remaining, .. } => *remaining,
            Current::Record(partial) => u64::from(partial.total_len - partial.have),
        };
        if let Current::Record(Partial { start, .. }) = self.current
            && info & PAGE_FIRST_OVERWRITES_RECORD != 0
        {
            self.current = Current::Between;
            return Ok(PageStart::Overwrites(start));
        }
        match (&self.current, continues) {
            (Current::Between, false) => {}
            (Current::Between, true) if first_seen && self.previous.is_none() => {
                // Only the very first byte given can be that of a page which continues something unseen.
                if remaining == 0 || remaining > u64::from(RECORD_BYTES_MAX) {
                    return Err(wrong("continued length", remaining, expected));
                }
                self.current = Current::Skipping { remaining, tail: SkippedTail::default() };
            }
            (Current::Between, true) => {
                return Err(wrong("continued length", remaining, 0));
            }
            (Current::Skipping { .. }, false) => {
                return Err(wrong("continued length", 0, expected));
            }
            (Current::Record(partial), false) => {
                return Err(WalError::MissingContinuation { page, record: partial.start });
            }
            (_, true) if remaining != expected => {
                return Err(wrong("continued length", remaining, expected));
            }
            (_, true) => {}
        }
        Ok(PageStart::AsExpected)
    }

    fn record_step<'a>(
        &mut self,
        page_bytes_left: usize,
        input: &mut &'a [u8],
    ) -> Option<Step<'a>> {
        if let Current::Skipping { remaining, tail } = &mut self.current {
            let len = page_bytes_left.min(input.len()).min(to_usize(*remaining));
            tail.push(&input[..len]);
            *remaining -= len as u64;
            let (finished, may_be_switch) = (*remaining == 0, tail.may_be_switch());
            self.take(input, len);
            if !finished {
                return None;
            }
            self.skip_until = self.position.align_up_8();
            self.current = Current::Between;
            self.after_possible_switch = may_be_switch;
            return Some(Step::Skipped { end: self.skip_until });
        }
        if matches!(self.current, Current::Between) {
            self.current = Current::Record(Partial {
                start: self.position,
                header: [0; RECORD_HEADER_BYTES],
                total_len: 0,
                have: 0,
                crc: 0,
            });
        }
        match self.continue_record(page_bytes_left, input) {
            Ok(step) => Some(step),
            Err(error) => Some(self.fail(error, input)),
        }
    }

    fn continue_record<'a>(
        &mut self,
        page_bytes_left: usize,
        input: &mut &'a [u8],
    ) -> Result<Step<'a>, WalError> {
        let Current::Record(partial) = &mut self.current else {
            unreachable!("the caller has just seen a record in progress")
        };
        let start = partial.start;
        let have = to_usize(partial.have.into());

        // A record starts 8-aligned, so its length lies on one page; the input may still cut it.
        if have < 4 {
            let available = input.len().min(4 - have);
            partial.header[have..have + available].copy_from_slice(&input[..available]);
            if have + available == 4 {
                partial.total_len = u32_at(&partial.header, 0);
                if partial.total_len == 0 && self.after_possible_switch {
                    self.current = Current::Between;
                    self.after_possible_switch = false;
                    self.skip_until = self.next_segment(self.position);
                    return Ok(Step::Skipped { end: self.skip_until });
                }
                check_length(start, partial.total_len)?;
            } else {
                partial.have += available as u32;
                let bytes = self.take(input, available);
                return Ok(Step::Bytes { start, first: have == 0, bytes, end: None });
            }
        }

        let len = page_bytes_left.min(input.len()).min(to_usize(partial.total_len.into()) - have);
        let bytes = &input[..len];
        if have < RECORD_HEADER_BYTES {
            let header_end = RECORD_HEADER_BYTES.min(have + len);
            partial.header[have..header_end].copy_from_slice(&bytes[..header_end - have]);
            if header_end == RECORD_HEADER_BYTES {
                check_record_header(&partial.header, start, self.previous)?;
            }
            partial.crc = crate::crc::crc32c(&bytes[header_end - have..]);
        } else {
            partial.crc = crate::crc::crc32c_append(partial.crc, bytes);
        }
        partial.have += len as u32;
        let end = if partial.have == partial.total_len {
            let found = crate::crc::crc32c_append(partial.crc, &partial.header[..20]);
            let expected = u32_at(&partial.header, 20);
            if found != expected {
                return Err(WalError::Crc { record: start, found, expected });
            }
            let aligned = (self.position + len as u64).align_up_8();
            let switch = is_switch(&partial.header);
            self.skip_until = if switch { self.next_segment(aligned) } else { aligned };
            self.previous = Some(start);
            self.after_possible_switch = false;
            self.current = Current::Between;
            Some(self.skip_until)
        } else {
            None
        };
        let bytes = self.take(input, len);
        Ok(Step::Bytes { start, first: have == 0, bytes, end })
    }

    /// `position` rounded up to a segment's start.
    fn next_segment(&self, position: Lsn) -> Lsn {
        Lsn(position.0.next_multiple_of(self.segment_size_bytes))
    }
}

/// What a page header says about the page's first record.
enum PageStart {
    AsExpected,
    /// The record in progress, which began at this position, will never be finished.
    Overwrites(Lsn),
}

fn check_length(record: Lsn, found: u32) -> Result<(), WalError> {
    let min = RECORD_HEADER_BYTES as u32;
    if found == 0 {
        Err(WalError::ZeroLength { record })
    } else if !(min..=RECORD_BYTES_MAX).contains(&found) {
        Err(WalError::RecordLength { record, found, min, max: RECORD_BYTES_MAX })
    } else {
        Ok(())
    }
}

fn is_switch(header: &[u8; RECORD_HEADER_BYTES]) -> bool {
    header[17] == RMGR_XLOG && header[16] & 0xF0 == XLOG_SWITCH
}

#[inline]
fn check_record_header(
    header: &[u8; RECORD_HEADER_BYTES],
    record: Lsn,
    previous: Option<Lsn>,
) -> Result<(), WalError> {
    let found = Lsn(u64_at(header, 8));
    let follows = match previous {
        Some(previous) => found == previous,
        None => found < record,
    };
    if !follows {
        let expected = previous.unwrap_or(record);
        return Err(WalError::PreviousRecord { record, found, expected });
    }
    let resource_manager = header[17];
    if (RMGR_LAST_BUILTIN + 1..RMGR_FIRST_CUSTOM).contains(&resource_manager) {
        return Err(WalError::ResourceManager { record, found: resource_manager });
    }
    Ok(())
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("Firn runs on 64-bit machines")
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(*bytes[offset..].first_chunk().expect("offsets are inside the header"))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*bytes[offset..].first_chunk().expect("offsets are inside the header"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("offsets are inside the header"))
}
