//! Moves live WAL out of a segment that is to be used again: small tails forward in the ring, the rest into the
//! timeline's own raw segment files.
//!
//! Invariant: bytes are in their file and flushed before the entry that says so, and no byte under the CRC of a piece
//! that is still live is ever overwritten with another.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::journal::BLOCK_BYTES;
use firn_core::journal::entry::{Entry, Forwarded, Moved};
use firn_core::journal::state::WAL_RANGES_MAX;
use firn_core::journal::wal_file::{timeline_directory, wal_file_name};
use firn_core::journal::wal_place::{FilePiece, SegmentPlace, WalPlace};
use firn_core::marks;
use firn_core::types::{Lsn, Term, TimelineKey};

use super::error::JournalError;
use super::progress::Ticket;
use super::reader::{read_failed, read_piece, read_ring};
use super::shared::Shared;
use crate::runtime::{Buffer, File, OpenOptions};

/// Tails copied forward per segment: a quarter of it, so that a ring full of tails still drains.
const FORWARD_SHARE: u64 = 4;

/// Why a segment was not emptied.
#[derive(Debug)]
pub(super) enum MoveError {
    /// No room for raw files, or a timeline has its bound of ranges.
    Full(String),
    /// Bytes to move cannot be read: they stay where they are, and the segment with them.
    Unreadable(JournalError),
    /// The journal failed.
    Poisoned,
}

impl From<JournalError> for MoveError {
    fn from(error: JournalError) -> MoveError {
        match error {
            JournalError::Poisoned(_) => MoveError::Poisoned,
            JournalError::Full | JournalError::NotReady | JournalError::QueueFull { .. } => {
                MoveError::Full(error.to_string())
            }
            error => MoveError::Unreadable(error),
        }
    }
}

/// One timeline's live WAL in the segment.
struct Load {
    key: TimelineKey,
    ranges: Vec<Range<Lsn>>,
    term: Term,
    segment_size_bytes: u32,
    history: PostgresHistory,
    /// All of it is the end of the timeline's WAL.
    is_tail: bool,
    bytes: u64,
    full: bool,
}

/// What went forward already, and from where: a tail goes forward once, then into a file.
pub(super) type ForwardedTo = BTreeMap<TimelineKey, SegmentPlace>;

/// Moves everything live out of `segment` and waits until the entries that say so are durable.
pub(super) async fn evacuate(
    shared: &Shared,
    segment: SegmentPlace,
    forwarded: &mut ForwardedTo,
) -> Result<(), MoveError> {
    let _hold = shared.segment_reads.hold(segment);
    let keys: Vec<TimelineKey> = shared.state.borrow().timelines.keys().copied().collect();
    let mut forward_budget = shared.options.segment_bytes / FORWARD_SHARE;
    let mut tickets = Vec::new();
    let mut unreadable = None;
    for key in keys {
        let Some(load) = load(shared, key, segment) else { continue };
        let went_before = forwarded.get(&key) == Some(&segment);
        let forward = load.is_tail
            && !went_before
            && load.bytes < shared.options.forward_bytes_max
            && load.bytes < forward_budget;
        let moved = if forward {
            forward_budget -= load.bytes;
            forward_tail(shared, segment, &load, &mut tickets, forwarded).await
        } else {
            move_to_files(shared, segment, &load, &mut tickets).await
        };
        match moved {
            Ok(()) => {}
            Err(MoveError::Unreadable(error)) => unreadable = Some(error),
            Err(error) => return Err(error),
        }
        shared.runtime.yield_now().await;
    }
    for ticket in &tickets {
        shared.wait(ticket, false).await.map_err(MoveError::from)?;
    }
    unreadable.map_or(Ok(()), |error| Err(MoveError::Unreadable(error)))
}

fn load(shared: &Shared, key: TimelineKey, segment: SegmentPlace) -> Option<Load> {
    let state = shared.state.borrow();
    let timeline = state.timelines.get(&key)?;
    let ranges: Vec<_> = timeline.ranges_in(segment).collect();
    let last = ranges.last()?;
    Some(Load {
        key,
        term: timeline.state.term,
        segment_size_bytes: timeline.state.segment_size_bytes,
        history: timeline.state.postgres_history.clone(),
        is_tail: ranges.len() == 1 && last.end == timeline.state.write_lsn,
        bytes: ranges.iter().map(|range| range.end - range.start).sum(),
        full: timeline.wal.len() >= WAL_RANGES_MAX,
        ranges,
    })
}

async fn forward_tail(
    shared: &Shared,
    segment: SegmentPlace,
    load: &Load,
    tickets: &mut Vec<Ticket>,
    forwarded: &mut ForwardedTo,
) -> Result<(), MoveError> {
    marks::hit("journal.forwarded_tail");
    // Fields and header of an entry take less than a block.
    let step = (shared.options.entry_bytes_max() - BLOCK_BYTES) as u64;
    for range in &load.ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + step);
            let mut wal = vec![0; (end - at) as usize];
            read_ring(shared, segment, load.key, at..end, &mut wal).await?;
            let source = WalPlace::Ring(segment);
            let entry = Forwarded { term: load.term, source, begin: at, wal: &wal };
            tickets.push(shared.push(&Entry::Forwarded(load.key, entry))?);
            at = end;
        }
    }
    if let Some(ticket) = tickets.last() {
        shared.wait(ticket, false).await?;
        let state = shared.state.borrow();
        let timeline = state.timelines.get(&load.key);
        let now = timeline.and_then(|timeline| timeline.segments().last());
        now.map(|place| forwarded.insert(load.key, place));
    }
    Ok(())
}

async fn move_to_files(
    shared: &Shared,
    segment: SegmentPlace,
    load: &Load,
    tickets: &mut Vec<Ticket>,
) -> Result<(), MoveError> {
    if load.full {
        return Err(MoveError::Full(format!("timeline {} has its bound of WAL ranges", load.key)));
    }
    let mut at_file: Option<(String, File)> = None;
    let mut pieces: Vec<FilePiece> = Vec::new();
    for range in &load.ranges {
        let mut begin = range.start;
        while begin < range.end {
            let tli = load.history.timeline_at(begin);
            let end = piece_end(load, begin, range.end);
            let name = wal_file_name(tli, begin, load.segment_size_bytes);
            if at_file.as_ref().is_none_or(|(open, _)| *open != name) {
                finish_file(shared, segment, load, at_file.take(), &mut pieces, tickets).await?;
                let file = open_file(shared, load, &name)
                    .await
                    .map_err(|error| io_error(shared, error))?;
                at_file = Some((name, file));
            }
            recheck_cut_pieces(shared, load, begin..end).await?;
            let mut wal = vec![0; (end - begin) as usize];
            read_ring(shared, segment, load.key, begin..end, &mut wal).await?;
            marks::hit("journal.moving");
            let (_, file) = at_file.as_ref().expect("opened above");
            let offset = begin.0 % u64::from(load.segment_size_bytes);
            write_unaligned(shared, file, offset, &wal).await?;
            let crc = crc32c::crc32c(&wal);
            pieces.push(FilePiece { postgres_timeline: tli, begin, end, crc });
            begin = end;
            shared.runtime.yield_now().await;
        }
    }
    finish_file(shared, segment, load, at_file, &mut pieces, tickets).await
}

/// A piece ends at the WAL segment's end, at a switch of Postgres' timeline, or at its bound.
fn piece_end(load: &Load, begin: Lsn, end: Lsn) -> Lsn {
    let size = u64::from(load.segment_size_bytes);
    let switches = load.history.0.iter().map(|switch| switch.lsn).filter(|lsn| *lsn > begin);
    [begin.segment_start(size) + size, begin + FilePiece::BYTES_MAX]
        .into_iter()
        .chain(switches)
        .fold(end, Lsn::min)
}

/// One flush for all that was written to a file, then the entries that say so.
async fn finish_file(
    shared: &Shared,
    segment: SegmentPlace,
    load: &Load,
    file: Option<(String, File)>,
    pieces: &mut Vec<FilePiece>,
    tickets: &mut Vec<Ticket>,
) -> Result<(), MoveError> {
    let Some((_, file)) = file else { return Ok(()) };
    if let Err(error) = file.fdatasync().await {
        shared.poison("flush a file of moved WAL", error);
        return Err(MoveError::Poisoned);
    }
    marks::hit("journal.moved_to_file");
    for target in pieces.drain(..) {
        let moved = Moved { term: load.term, source: WalPlace::Ring(segment), target };
        tickets.push(shared.push(&Entry::Moved(load.key, moved))?);
    }
    Ok(())
}

/// A piece whose end was cut off by an election keeps a CRC over bytes that are about to be overwritten: its live part
/// gets a CRC of its own first.
async fn recheck_cut_pieces(
    shared: &Shared,
    load: &Load,
    target: Range<Lsn>,
) -> Result<(), MoveError> {
    let cut: Vec<(Range<Lsn>, FilePiece)> = {
        let state = shared.state.borrow();
        let Some(timeline) = state.timelines.get(&load.key) else { return Ok(()) };
        let before = Lsn(target.start.0.saturating_sub(FilePiece::BYTES_MAX))..target.start;
        if before.is_empty() {
            return Ok(());
        }
        timeline
            .wal
            .overlapping(before)
            .filter_map(|(range, place)| match place {
                WalPlace::File(piece) if piece.end > target.start => Some((range.clone(), *piece)),
                _ => None,
            })
            .collect()
    };
    for (live, piece) in cut {
        marks::hit("journal.rechecked_piece");
        let bytes = read_piece(shared, load.key, &piece).await?;
        let (from, to) = ((live.start - piece.begin) as usize, (live.end - piece.begin) as usize);
        let crc = crc32c::crc32c(&bytes[from..to]);
        let part = FilePiece { begin: live.start, end: live.end, crc, ..piece };
        let moved = Moved { term: load.term, source: WalPlace::File(piece), target: part };
        let ticket = shared.push(&Entry::Moved(load.key, moved))?;
        shared.wait(&ticket, false).await?;
    }
    Ok(())
}

/// Opens or makes a raw file of the WAL segment's full length, its name durable.
async fn open_file(shared: &Shared, load: &Load, name: &str) -> io::Result<File> {
    let directory = shared.data.join(timeline_directory(load.key));
    let path: PathBuf = directory.join(name);
    let exists = shared.wal_files.borrow().contains(&(load.key, name.to_string()));
    if exists {
        return shared.runtime.open(&path, OpenOptions::read_write()).await;
    }
    shared.runtime.create_dir_all(&directory).await?;
    let file = shared.runtime.open(&path, OpenOptions::read_write().create()).await?;
    if file.len().await? < u64::from(load.segment_size_bytes) {
        file.set_len(u64::from(load.segment_size_bytes)).await?;
    }
    for parent in directory.ancestors().take(4) {
        shared.runtime.sync_dir(parent).await?;
        if parent == shared.data {
            break;
        }
    }
    shared.wal_files.borrow_mut().insert((load.key, name.to_string()));
    Ok(file)
}

/// Writes at any offset with direct I/O: the blocks at both ends keep what else is in them.
async fn write_unaligned(
    shared: &Shared,
    file: &File,
    offset: u64,
    bytes: &[u8],
) -> Result<(), MoveError> {
    let block = BLOCK_BYTES as u64;
    let begin = offset - offset % block;
    let end = (offset + bytes.len() as u64).next_multiple_of(block);
    let mut buffer = Buffer::zeroed((end - begin) as usize);
    for edge in [begin, end - block] {
        let (result, old) = file.read_at(Buffer::zeroed(BLOCK_BYTES), edge).await;
        // Nothing was written yet: what is to move is still where it was.
        result.map_err(|error| MoveError::Unreadable(read_failed(&error)))?;
        let at = (edge - begin) as usize;
        buffer[at..at + BLOCK_BYTES].copy_from_slice(&old);
    }
    let skip = (offset - begin) as usize;
    buffer[skip..skip + bytes.len()].copy_from_slice(bytes);
    file.write_at(buffer, begin).await.0.map_err(|error| io_error(shared, error))
}

fn io_error(shared: &Shared, error: io::Error) -> MoveError {
    if error.kind() == io::ErrorKind::StorageFull {
        return MoveError::Full(error.to_string());
    }
    shared.poison("move WAL into a file", error);
    MoveError::Poisoned
}
