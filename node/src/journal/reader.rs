//! Reads WAL back: from frames still in memory, from the ring, from raw files. Every entry's or piece's CRC is checked
//! each time its bytes are read.

use std::ops::Range;
use std::rc::Rc;

use firn_core::journal::frame::{Frame, UseCrc};
use firn_core::journal::wal_file::{timeline_directory, wal_file_name};
use firn_core::journal::wal_place::{FilePiece, SegmentPlace, WalPlace};
use firn_core::journal::{BLOCK_BYTES, FRAME_BYTES_MAX};
use firn_core::marks;
use firn_core::types::{Lsn, TimelineKey};

use super::error::JournalError;
use super::index::{FramePlace, SegmentIndex, extract};
use super::ring::{Hold, Used};
use super::shared::{Shared, WalFile};
use crate::runtime::{Buffer, File, OpenOptions};

/// The most that one read returns: what a reader of one byte of a moved file costs anyway.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// How often a read begins again because the mover changed a file under it. Each time takes a cut, a move and their
/// entries in the journal; one read sees one.
const PLANS_MAX: u32 = 4;

/// Reads durable WAL from `from` on: as much as is there without a gap, at most `max_bytes`.
pub(super) async fn read_wal(
    shared: &Shared,
    key: TimelineKey,
    from: Lsn,
    max_bytes: usize,
) -> Result<Vec<u8>, JournalError> {
    let mut plans = 1;
    loop {
        let parts = plan(shared, key, from, max_bytes.min(READ_BYTES_MAX))?;
        // Held before the first await: none of these places is reused under this read.
        let _holds: Vec<_> = parts.iter().map(|part| hold(shared, key, part)).collect();
        match read_parts(shared, key, &parts).await {
            // What an election cut off of a piece is overwritten once the rest is a piece of its own.
            Err(JournalError::Corrupt { .. })
                if plans < PLANS_MAX && !parts.iter().all(|part| is_place(shared, key, part)) =>
            {
                marks::hit("journal.file_changed_under_read");
                plans += 1;
            }
            result => return result,
        }
    }
}

/// Whether this range still lies where it was looked up.
fn is_place(shared: &Shared, key: TimelineKey, (range, place): &Part) -> bool {
    let state = shared.state.borrow();
    let Some(timeline) = state.timelines.get(&key) else { return false };
    let found = timeline.wal.overlapping(range.clone()).next();
    found.is_some_and(|(now, at)| at == place && now.start <= range.start && range.end <= now.end)
}

async fn read_parts(
    shared: &Shared,
    key: TimelineKey,
    parts: &[Part],
) -> Result<Vec<u8>, JournalError> {
    let mut bytes = Vec::new();
    for (range, place) in parts {
        let begin = bytes.len();
        bytes.resize(begin + (range.end - range.start) as usize, 0);
        let into = &mut bytes[begin..];
        match place {
            WalPlace::Ring(segment) => {
                read_ring(shared, *segment, key, range.clone(), into).await?;
            }
            WalPlace::File(piece) => read_file(shared, key, piece, range.clone(), into).await?,
        }
    }
    Ok(bytes)
}

type Part = (Range<Lsn>, WalPlace);

/// What to read: consecutive ranges from `from` on.
fn plan(
    shared: &Shared,
    key: TimelineKey,
    from: Lsn,
    max_bytes: usize,
) -> Result<Vec<Part>, JournalError> {
    let state = shared.state.borrow();
    let timeline = state.timelines.get(&key).ok_or(JournalError::UnknownTimeline(key))?;
    let mut at = from;
    let end = Lsn(from.0.saturating_add(max_bytes as u64));
    let mut parts = Vec::new();
    if at < end {
        for (range, place) in timeline.wal.overlapping(from..end) {
            if range.start > at {
                break;
            }
            let part_end = range.end.min(end);
            parts.push((at..part_end, *place));
            at = part_end;
        }
    }
    if parts.is_empty() && from != timeline.state.write_lsn && max_bytes > 0 {
        return Err(JournalError::NoWal { key, lsn: from });
    }
    Ok(parts)
}

/// What a part is held by while it is read: of a segment or of a file.
type PartHold = (Option<Hold<SegmentPlace>>, Option<Hold<WalFile>>);

fn hold(shared: &Shared, key: TimelineKey, (range, place): &Part) -> PartHold {
    match place {
        WalPlace::Ring(segment) => (Some(shared.segment_reads.hold(*segment)), None),
        WalPlace::File(piece) => {
            let name = file_name(shared, key, piece, range.start);
            (None, Some(shared.file_reads.hold((key, name))))
        }
    }
}

/// The name of the file that a piece lies in; of a timeline deleted meanwhile, none that exists.
pub(super) fn file_name(shared: &Shared, key: TimelineKey, piece: &FilePiece, lsn: Lsn) -> String {
    let state = shared.state.borrow();
    let segment_size = state.timelines.get(&key).map(|found| found.state.segment_size_bytes);
    segment_size.map_or_else(String::new, |size| wal_file_name(piece.postgres_timeline, lsn, size))
}

/// Reads a range that lies in one segment, whatever the state says by now. The caller holds the segment.
pub(super) async fn read_ring(
    shared: &Shared,
    segment: SegmentPlace,
    key: TimelineKey,
    range: Range<Lsn>,
    into: &mut [u8],
) -> Result<(), JournalError> {
    let used = shared.ring.borrow().get(segment, shared.number).cloned();
    let used = used.ok_or(JournalError::NoWal { key, lsn: range.start })?;
    let index = segment_index(shared, segment, &used).await?;
    let mut at = range.start;
    while at < range.end {
        let found = index.borrow().find(key, at);
        let Some((part, frame)) = found else { return Err(lost(&used, key, at)) };
        let end = part.end.min(range.end);
        let target = (at - range.start) as usize..(end - range.start) as usize;
        read_frame(shared, segment, &used, key, frame, at..end, &mut into[target]).await?;
        at = end;
    }
    Ok(())
}

async fn read_frame(
    shared: &Shared,
    segment: SegmentPlace,
    used: &Used,
    key: TimelineKey,
    place: FramePlace,
    range: Range<Lsn>,
    into: &mut [u8],
) -> Result<(), JournalError> {
    let offset_bytes = u64::from(place.offset_bytes);
    let corrupt = |error: String| JournalError::Corrupt {
        path: used.file.path().to_path_buf(),
        offset_bytes,
        error,
    };
    let lsn = range.start;
    let in_memory = shared.recent.borrow().iter().find_map(|recent| {
        (recent.segment == segment && recent.offset_bytes == offset_bytes).then(|| {
            let frame = Frame::reread(&recent.buffer).map_err(|error| error.to_string())?;
            extract(&frame, key, range.clone(), into).map_err(|error| error.to_string())
        })
    });
    let complete = match in_memory {
        Some(complete) => complete.map_err(corrupt)?,
        None => {
            let buffer = read_exact(&used.file, offset_bytes, place.frame_bytes as usize).await?;
            let frame = Frame::parse(&buffer, UseCrc::new(&used.header));
            let frame = frame.map_err(|error| corrupt(error.to_string()))?;
            extract(&frame, key, range, into).map_err(|error| corrupt(error.to_string()))?
        }
    };
    if complete { Ok(()) } else { Err(lost(used, key, lsn)) }
}

fn lost(used: &Used, key: TimelineKey, lsn: Lsn) -> JournalError {
    JournalError::Corrupt {
        path: used.file.path().to_path_buf(),
        offset_bytes: 0,
        error: format!("no intact frame holds timeline {key} at {lsn}"),
    }
}

async fn read_exact(file: &File, offset_bytes: u64, count: usize) -> Result<Buffer, JournalError> {
    let aligned = count.next_multiple_of(BLOCK_BYTES);
    let (result, buffer) = file.read_at(Buffer::zeroed(aligned), offset_bytes).await;
    match result {
        Ok(read) if read >= count => Ok(buffer),
        Ok(read) => Err(JournalError::Corrupt {
            path: file.path().to_path_buf(),
            offset_bytes,
            error: format!("the file ends after {read} of {count} bytes"),
        }),
        Err(error) => Err(read_failed(&error)),
    }
}

/// A read that the device refused: nothing is known of the bytes, another attempt may give them.
pub(super) fn read_failed(error: &std::io::Error) -> JournalError {
    marks::hit("journal.read_failed");
    JournalError::Read(error.to_string())
}

/// The index of a segment: of an earlier life's it is made by reading the segment once.
async fn segment_index(
    shared: &Shared,
    segment: SegmentPlace,
    used: &Used,
) -> Result<Rc<std::cell::RefCell<SegmentIndex>>, JournalError> {
    if let Some(index) = shared.indexes.borrow().get(&segment) {
        return Ok(index.clone());
    }
    let use_crc = UseCrc::new(&used.header);
    let mut index = SegmentIndex::default();
    let end = used.end_offset_bytes.min(used.header.segment_bytes);
    let mut at = firn_core::journal::segment::FRAMES_OFFSET_BYTES;
    while at < end {
        // A window of two frames holds at least one whole.
        let window = ((end - at) as usize).min(2 * FRAME_BYTES_MAX);
        let buffer = read_exact(&used.file, at, window).await?;
        let mut offset = 0;
        let last = at + window as u64 == end;
        while offset < window && (last || offset < window - FRAME_BYTES_MAX) {
            match Frame::parse(&buffer[offset..window], use_crc) {
                Ok(frame) => {
                    index.add(&frame, at + offset as u64);
                    offset += frame.header.frame_bytes as usize;
                }
                // Rot within: what is intact behind it stays readable.
                Err(_) => offset += BLOCK_BYTES,
            }
        }
        at += offset as u64;
        shared.runtime.yield_now().await;
    }
    let index = Rc::new(std::cell::RefCell::new(index));
    Ok(shared.indexes.borrow_mut().entry(segment).or_insert(index).clone())
}

/// Reads a range of a piece of a raw file; the whole piece is read and checked.
async fn read_file(
    shared: &Shared,
    key: TimelineKey,
    piece: &FilePiece,
    range: Range<Lsn>,
    into: &mut [u8],
) -> Result<(), JournalError> {
    let bytes = read_piece(shared, key, piece).await?;
    let from = (range.start - piece.begin) as usize;
    into.copy_from_slice(&bytes[from..from + into.len()]);
    Ok(())
}

/// A whole piece's bytes, checked.
pub(super) async fn read_piece(
    shared: &Shared,
    key: TimelineKey,
    piece: &FilePiece,
) -> Result<Vec<u8>, JournalError> {
    let size =
        shared.state.borrow().timelines.get(&key).map(|found| found.state.segment_size_bytes);
    let size = size.ok_or(JournalError::UnknownTimeline(key))?;
    let name = wal_file_name(piece.postgres_timeline, piece.begin, size);
    let path = shared.data.join(timeline_directory(key)).join(name);
    let file = shared.runtime.open(&path, OpenOptions::read()).await;
    let file = file.map_err(|error| read_failed(&error))?;
    let offset = piece.begin.0 % u64::from(size);
    let aligned = offset - offset % BLOCK_BYTES as u64;
    let skip = (offset - aligned) as usize;
    let count = (piece.end - piece.begin) as usize;
    let buffer = read_exact(&file, aligned, skip + count).await?;
    let bytes = &buffer[skip..skip + count];
    let found = firn_core::crc::crc32c(bytes);
    if found != piece.crc {
        let error = format!("CRC32C is {found:08x}, expected {:08x}", piece.crc);
        return Err(JournalError::Corrupt { path, offset_bytes: offset, error });
    }
    Ok(bytes.to_vec())
}
