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
use super::segment_wal::SegmentWal;
use super::shared::Shared;
use crate::runtime::{Buffer, File, OpenOptions};

/// Tails copied forward per segment: a quarter of it, so that a ring full of tails still drains.
const FORWARD_SHARE: u64 = 4;

/// A segment of which at least an eighth is live is read whole; of one with less only the frames that are needed.
const READ_WHOLE_SHARE: u64 = 8;

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

/// Moves WAL, segment by segment.
#[derive(Default)]
pub(super) struct Mover {
    /// What went forward already, and to where: a tail goes forward once, then into a file.
    forwarded: BTreeMap<TimelineKey, SegmentPlace>,
    /// Memory that the last segment was read into.
    windows: Vec<Buffer>,
}

impl Mover {
    /// Moves everything live out of `segment` and waits until the entries that say so are durable.
    pub(super) async fn evacuate(
        &mut self,
        shared: &Shared,
        segment: SegmentPlace,
    ) -> Result<(), MoveError> {
        let _hold = shared.segment_reads.hold(segment);
        let keys: Vec<TimelineKey> = shared.state.borrow().timelines.keys().copied().collect();
        let loads = || keys.iter().filter_map(|key| load(shared, *key, segment));
        let live_bytes: u64 = loads().map(|load| load.bytes).sum();
        let wal = match live_bytes * READ_WHOLE_SHARE >= shared.options.segment_bytes {
            true => SegmentWal::read(shared, segment, &mut self.windows).await,
            false => SegmentWal::default(),
        };
        let mut evacuation = Evacuation { shared, segment, wal, buffer: None, tickets: Vec::new() };
        let moved = self.move_all(&mut evacuation, &keys).await;
        self.windows = evacuation.wal.into_windows();
        moved
    }

    async fn move_all(
        &mut self,
        evacuation: &mut Evacuation<'_>,
        keys: &[TimelineKey],
    ) -> Result<(), MoveError> {
        let Evacuation { shared, segment, .. } = *evacuation;
        let mut forward_budget = shared.options.segment_bytes / FORWARD_SHARE;
        let (mut end, mut unreadable) = (Ok(()), None);
        for key in keys {
            let Some(load) = load(shared, *key, segment) else { continue };
            let went_before = self.forwarded.get(key) == Some(&segment);
            let forward = load.is_tail
                && !went_before
                && load.bytes < shared.options.forward_bytes_max
                && load.bytes < forward_budget;
            let moved = if forward {
                forward_budget -= load.bytes;
                evacuation.forward_tail(&load, &mut self.forwarded).await
            } else {
                evacuation.move_to_files(&load).await
            };
            match moved {
                Ok(()) => {}
                Err(MoveError::Unreadable(error)) => unreadable = Some(error),
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
            shared.runtime.yield_now().await;
        }
        // Whatever stopped it: files that queued entries name look unused until these are durable.
        for ticket in &evacuation.tickets {
            shared.wait(ticket, false).await.map_err(MoveError::from)?;
        }
        end.and(unreadable.map_or(Ok(()), |error| Err(MoveError::Unreadable(error))))
    }

    /// Gives memory back: nothing is to be moved for a while.
    pub(super) fn rest(&mut self) {
        self.windows = Vec::new();
    }
}

/// One segment's way out of the ring.
struct Evacuation<'a> {
    shared: &'a Shared,
    segment: SegmentPlace,
    /// As far as it was read at once.
    wal: SegmentWal,
    /// For what goes into files; made for the first of it, away while the device has it.
    buffer: Option<Buffer>,
    tickets: Vec<Ticket>,
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

impl Evacuation<'_> {
    async fn forward_tail(
        &mut self,
        load: &Load,
        forwarded: &mut BTreeMap<TimelineKey, SegmentPlace>,
    ) -> Result<(), MoveError> {
        let shared = self.shared;
        marks::hit("journal.forwarded_tail");
        // Fields and header of an entry take less than a block.
        let step = (shared.options.entry_bytes_max() - BLOCK_BYTES) as u64;
        for range in &load.ranges {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + step);
                let mut wal = vec![0; (end - at) as usize];
                self.read(load, at..end, &mut wal).await?;
                let source = WalPlace::Ring(self.segment);
                let entry = Forwarded { term: load.term, source, begin: at, wal: &wal };
                self.tickets.push(shared.push(&Entry::Forwarded(load.key, entry))?);
                at = end;
            }
        }
        if let Some(ticket) = self.tickets.last() {
            shared.wait(ticket, false).await?;
            let state = shared.state.borrow();
            let timeline = state.timelines.get(&load.key);
            let now = timeline.and_then(|timeline| timeline.segments().last());
            now.map(|place| forwarded.insert(load.key, place));
        }
        Ok(())
    }

    async fn read(&self, load: &Load, range: Range<Lsn>, into: &mut [u8]) -> Result<(), MoveError> {
        match self.wal.copy(load.key, range.clone(), into) {
            true => Ok(()),
            false => Ok(read_ring(self.shared, self.segment, load.key, range, into).await?),
        }
    }

    async fn move_to_files(&mut self, load: &Load) -> Result<(), MoveError> {
        let shared = self.shared;
        if load.full {
            let full = format!("timeline {} has its bound of WAL ranges", load.key);
            return Err(MoveError::Full(full));
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
                    self.finish_file(load, at_file.take(), &mut pieces).await?;
                    let file = open_file(shared, load, &name)
                        .await
                        .map_err(|error| io_error(shared, error))?;
                    at_file = Some((name, file));
                }
                recheck_cut_pieces(shared, load, begin..end).await?;
                marks::hit("journal.moving");
                let (_, file) = at_file.as_ref().expect("opened above");
                let crc = self.copy_into(file, load, begin..end).await?;
                pieces.push(FilePiece { postgres_timeline: tli, begin, end, crc });
                begin = end;
                shared.runtime.yield_now().await;
            }
        }
        self.finish_file(load, at_file, &mut pieces).await
    }

    /// Writes a piece at its place in a raw file with direct I/O: the blocks at its ends keep what else is in them.
    async fn copy_into(
        &mut self,
        file: &File,
        load: &Load,
        range: Range<Lsn>,
    ) -> Result<u32, MoveError> {
        let block = BLOCK_BYTES as u64;
        let count = (range.end - range.start) as usize;
        let offset = range.start.0 % u64::from(load.segment_size_bytes);
        let (begin, end) = (offset - offset % block, offset + count as u64);
        let written = (end.next_multiple_of(block) - begin) as usize;
        let new = || Buffer::zeroed(FilePiece::BYTES_MAX as usize + 2 * BLOCK_BYTES);
        let mut buffer = self.buffer.take().unwrap_or_else(new);
        buffer.set_len(written);
        let first = (offset != begin).then_some(begin);
        let last = (!end.is_multiple_of(block)).then_some(end - end % block);
        for edge in first.into_iter().chain(last.filter(|last| Some(*last) != first)) {
            let (result, old) = file.read_at(Buffer::zeroed(BLOCK_BYTES), edge).await;
            // Nothing was written yet: what is to move is still where it was.
            result.map_err(|error| MoveError::Unreadable(read_failed(&error)))?;
            let at = (edge - begin) as usize;
            buffer[at..at + BLOCK_BYTES].copy_from_slice(&old);
        }
        let skip = (offset - begin) as usize;
        let wal = &mut buffer[skip..skip + count];
        self.read(load, range, wal).await?;
        let crc = firn_core::crc::crc32c(wal);
        let (result, buffer) = file.write_at(buffer, begin).await;
        self.buffer = Some(buffer);
        result.map_err(|error| io_error(self.shared, error))?;
        Ok(crc)
    }

    /// One flush for all that was written to a file, then the entries that say so.
    async fn finish_file(
        &mut self,
        load: &Load,
        file: Option<(String, File)>,
        pieces: &mut Vec<FilePiece>,
    ) -> Result<(), MoveError> {
        let Some((_, file)) = file else { return Ok(()) };
        if let Err(error) = file.fdatasync().await {
            self.shared.poison("flush a file of moved WAL", error);
            return Err(MoveError::Poisoned);
        }
        marks::hit("journal.moved_to_file");
        for target in pieces.drain(..) {
            let moved = Moved { term: load.term, source: WalPlace::Ring(self.segment), target };
            self.tickets.push(self.shared.push(&Entry::Moved(load.key, moved))?);
        }
        Ok(())
    }
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
        let crc = firn_core::crc::crc32c(&bytes[from..to]);
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

fn io_error(shared: &Shared, error: io::Error) -> MoveError {
    if error.kind() == io::ErrorKind::StorageFull {
        return MoveError::Full(error.to_string());
    }
    shared.poison("move WAL into a file", error);
    MoveError::Poisoned
}
