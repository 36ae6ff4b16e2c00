//! Snapshots: a shard's state written down, so that recovery replays at most two segments' worth of frames.
//!
//! A snapshot holds only effects of frames that were durable when it was taken. It is complete or it is nothing: its
//! header has the length, the counts and the CRC of the whole.

use std::rc::Rc;

use rangemap::RangeMap;

use super::BLOCK_BYTES;
use super::codec::{FormatError, Reader, Writer};
use super::entry::change::decode_segment_size;
use super::entry::{
    SnapshotName, decode_history, decode_membership, decode_postgres_history, encode_history,
    encode_membership, encode_postgres_history, history_bytes, membership_bytes,
    postgres_history_bytes,
};
use super::segment::JournalNumber;
use super::state::{ShardState, Timeline};
use super::wal_place::{SegmentPlace, WalPlace};
use crate::consensus::state::TimelineState;
use crate::types::{Generation, Id, Lsn, PostgresVersion, SystemId, Term, TimelineKey};

const WHAT: &str = "journal snapshot";
const MAGIC: &[u8; 8] = b"FIRNSNAP";
const VERSION: u32 = 1;

/// Bytes of the header; it has a block for itself.
const HEADER_BYTES: usize = 88;
const LISTED_BYTES: usize = 40;
const TOMBSTONE_BYTES: usize = 40;
const RANGE_BYTES: usize = 16 + WalPlace::ENCODED_BYTES;
/// A timeline's fields before its lists.
const TIMELINE_BYTES_MIN: usize = 128;

/// Where the frames that a snapshot does not hold begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Life of the last frame that it holds.
    pub life_id: Id,
    /// Place of the segment that holds that frame.
    pub place: u64,
    /// Where that frame ends; the segment's length when that frame closed it.
    pub offset_bytes: u64,
    /// That frame's CRC.
    pub crc: u32,
}

/// A file that must be there for the snapshot to be worth anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedSegment {
    /// Which segment.
    pub segment: SegmentPlace,
    /// Which use of its file.
    pub use_id: Id,
    /// Where its last frame that counts ends, as far as the snapshot goes: what is behind may be void.
    pub end_offset_bytes: u64,
}

/// What a snapshot says besides the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The journal it belongs to.
    pub journal: JournalNumber,
    /// Last sequence whose effects it holds; 0 for the first of a new journal.
    pub covers_through: u64,
    /// `None` for the first of a new journal: frames begin with the first life.
    pub position: Option<Position>,
    /// Every segment with live WAL.
    pub segments: Vec<ListedSegment>,
}

/// A complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it says of itself.
    pub head: SnapshotHead,
    /// The state.
    pub state: ShardState,
    /// Length and CRC.
    pub name: SnapshotName,
}

/// A snapshot being written down, timeline by timeline.
#[derive(Debug)]
pub struct SnapshotBuilder {
    head: SnapshotHead,
    lost_frames: bool,
    tombstones: u32,
    timelines: u32,
    bytes: Vec<u8>,
}

impl SnapshotBuilder {
    /// Begins with everything but the timelines.
    pub fn new(head: SnapshotHead, state: &ShardState) -> SnapshotBuilder {
        let mut builder = SnapshotBuilder {
            lost_frames: state.lost_frames,
            tombstones: state.tombstones.len() as u32,
            timelines: 0,
            bytes: vec![0; BLOCK_BYTES],
            head,
        };
        for listed in &builder.head.segments {
            let mut bytes = [0; LISTED_BYTES];
            let mut writer = Writer::new(&mut bytes);
            writer.u32(listed.segment.journal.0);
            writer.u32(0);
            writer.u64(listed.segment.place);
            writer.id(listed.use_id);
            writer.u64(listed.end_offset_bytes);
            builder.bytes.extend_from_slice(&bytes);
        }
        for (key, generation) in &state.tombstones {
            let mut bytes = [0; TOMBSTONE_BYTES];
            let mut writer = Writer::new(&mut bytes);
            writer.key(*key);
            writer.u32(generation.0);
            builder.bytes.extend_from_slice(&bytes);
        }
        builder
    }

    /// Adds a timeline. To be called in the order of keys.
    pub fn push(&mut self, key: TimelineKey, timeline: &Timeline) {
        let begin = self.bytes.len();
        self.bytes.resize(begin + timeline_bytes(timeline), 0);
        let mut writer = Writer::new(&mut self.bytes[begin..]);
        encode_timeline(key, timeline, &mut writer);
        self.timelines += 1;
    }

    /// The file's bytes, a multiple of 4 KiB, and what names them.
    pub fn finish(mut self) -> (Vec<u8>, SnapshotName) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let file_bytes = self.bytes.len() as u64;
        let position = self.head.position;
        let place = position.unwrap_or(Position {
            life_id: Id::default(),
            place: 0,
            offset_bytes: 0,
            crc: 0,
        });
        let mut writer = Writer::new(&mut self.bytes[..HEADER_BYTES]);
        writer.bytes(MAGIC);
        writer.u32(VERSION);
        writer.u32(0);
        writer.u64(file_bytes);
        writer.u32(self.head.journal.0);
        writer.u32(u32::from(position.is_some()) | u32::from(self.lost_frames) << 1);
        writer.u64(self.head.covers_through);
        writer.id(place.life_id);
        writer.u64(place.place);
        writer.u64(place.offset_bytes);
        writer.u32(place.crc);
        writer.count(self.head.segments.len());
        writer.u32(self.tombstones);
        writer.u32(self.timelines);
        let crc = file_crc(&self.bytes);
        self.bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let covers_through = self.head.covers_through;
        (self.bytes, SnapshotName { covers_through, file_bytes, crc })
    }
}

/// A snapshot in one go, for states that are small or of no journal that runs.
pub fn encode(head: SnapshotHead, state: &ShardState) -> (Vec<u8>, SnapshotName) {
    let mut builder = SnapshotBuilder::new(head, state);
    for (key, timeline) in &state.timelines {
        builder.push(*key, timeline);
    }
    builder.finish()
}

impl Snapshot {
    /// Reads a whole file. An error of version means a newer program's; any other that the file is torn or rotten.
    pub fn decode(file: &[u8]) -> Result<Snapshot, FormatError> {
        let mut reader = Reader::new(WHAT, file);
        let magic = reader.bytes(8)?;
        let version = reader.u32()?;
        let expected = reader.u32()?;
        let file_bytes = reader.u64()?;
        if magic != MAGIC {
            return Err(reader.invalid("magic"));
        }
        if file_bytes != file.len() as u64 || file.len() < BLOCK_BYTES {
            return Err(FormatError::Field {
                what: WHAT,
                field: "file_bytes",
                expected: file_bytes,
                found: file.len() as u64,
            });
        }
        let found = file_crc(file);
        if expected != found {
            return Err(FormatError::Crc { what: WHAT, expected, found });
        }
        if version != VERSION {
            return Err(FormatError::Version { what: WHAT, found: version, known: VERSION });
        }
        decode_checked(reader, file, SnapshotName { covers_through: 0, file_bytes, crc: found })
    }
}

fn file_crc(file: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file[..12]), &file[16..])
}

/// Goes on behind the length, which is where the CRC's part of the header ends.
fn decode_checked(
    mut header: Reader<'_>,
    file: &[u8],
    mut name: SnapshotName,
) -> Result<Snapshot, FormatError> {
    let journal = JournalNumber(header.u32()?);
    let flags = header.u32()?;
    if flags > 3 {
        return Err(header.invalid("flags"));
    }
    let covers_through = header.u64()?;
    name.covers_through = covers_through;
    let position = Position {
        life_id: header.id()?,
        place: header.u64()?,
        offset_bytes: header.u64()?,
        crc: header.u32()?,
    };
    let position = (flags & 1 != 0).then_some(position);
    let counts = [header.u32()?, header.u32()?, header.u32()?];

    let mut body = Reader::new(WHAT, &file[BLOCK_BYTES..]);
    let segments = decode_segments(&mut body, counts[0])?;
    let mut state = ShardState { lost_frames: flags & 2 != 0, ..ShardState::default() };
    for _ in 0..counts[1] {
        let key = body.key()?;
        let generation = Generation(body.u32()?);
        body.u32()?;
        state.tombstones.insert(key, generation);
    }
    for _ in 0..counts[2] {
        let (key, timeline) = decode_timeline(&mut body)?;
        state.timelines.insert(key, Rc::new(timeline));
    }
    if state.tombstones.len() != counts[1] as usize || state.timelines.len() != counts[2] as usize {
        return Err(body.invalid("count"));
    }
    if body.remaining() >= BLOCK_BYTES {
        return Err(body.invalid("file_bytes"));
    }
    let head = SnapshotHead { journal, covers_through, position, segments };
    Ok(Snapshot { head, state, name })
}

fn decode_segments(body: &mut Reader<'_>, count: u32) -> Result<Vec<ListedSegment>, FormatError> {
    if count as usize > body.remaining() / LISTED_BYTES {
        return Err(body.invalid("segments"));
    }
    let mut segments = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let journal = JournalNumber(body.u32()?);
        body.u32()?;
        let segment = SegmentPlace { journal, place: body.u64()? };
        let use_id = body.id()?;
        segments.push(ListedSegment { segment, use_id, end_offset_bytes: body.u64()? });
    }
    Ok(segments)
}

fn timeline_bytes(timeline: &Timeline) -> usize {
    let edits: usize = timeline.layer_edits.iter().map(|edit| 4 + edit.len()).sum();
    TIMELINE_BYTES_MIN
        + membership_bytes(&timeline.state.membership)
        + history_bytes(&timeline.state.term_history)
        + postgres_history_bytes(&timeline.state.postgres_history)
        + timeline.wal.len() * RANGE_BYTES
        + edits
}

fn encode_timeline(key: TimelineKey, timeline: &Timeline, writer: &mut Writer<'_>) {
    let state = &timeline.state;
    let fixed_end = writer.at() + TIMELINE_BYTES_MIN;
    writer.u32(timeline_bytes(timeline) as u32);
    writer.u32(timeline.suspect.into());
    writer.key(key);
    writer.u64(state.system_id.0);
    writer.u32(state.postgres_version.0);
    writer.u32(state.segment_size_bytes);
    writer.u64(state.term.0);
    for lsn in [
        state.timeline_start_lsn,
        state.local_start_lsn,
        state.write_lsn,
        state.record_end_lsn,
        state.commit_lsn,
        state.peer_horizon_lsn,
    ] {
        writer.u64(lsn.0);
    }
    writer.count(timeline.wal.len());
    writer.count(timeline.layer_edits.len());
    writer.zero_to(fixed_end);
    encode_membership(&state.membership, writer);
    encode_history(&state.term_history, writer);
    encode_postgres_history(&state.postgres_history, writer);
    for (range, place) in timeline.wal.iter() {
        writer.u64(range.start.0);
        writer.u64(range.end.0);
        assert!(place.can_hold(range.start, range.end), "{range:?} is not in {place:?}");
        place.encode(writer);
    }
    for edit in &timeline.layer_edits {
        writer.count(edit.len());
        writer.bytes(edit);
    }
}

fn decode_timeline(body: &mut Reader<'_>) -> Result<(TimelineKey, Timeline), FormatError> {
    let len = body.u32()? as usize;
    let record = body.bytes(len.saturating_sub(4))?;
    let mut lists = Reader::new(WHAT, record);
    let mut fixed = Reader::new(WHAT, lists.bytes(TIMELINE_BYTES_MIN - 4)?);
    let suspect = fixed.u32()? != 0;
    let key = fixed.key()?;
    let system_id = SystemId(fixed.u64()?);
    let postgres_version = PostgresVersion(fixed.u32()?);
    let segment_size_bytes = decode_segment_size(&mut fixed)?;
    let term = Term(fixed.u64()?);
    let mut lsn = || fixed.u64().map(Lsn);
    let timeline_start_lsn = lsn()?;
    let local_start_lsn = lsn()?;
    let write_lsn = lsn()?;
    let record_end_lsn = lsn()?;
    let commit_lsn = lsn()?;
    let peer_horizon_lsn = lsn()?;
    let ranges = fixed.u32()?;
    let edits = fixed.u32()?;

    let state = TimelineState {
        membership: decode_membership(&mut lists)?,
        postgres_version,
        system_id,
        segment_size_bytes,
        term,
        term_history: decode_history(&mut lists)?,
        timeline_start_lsn,
        local_start_lsn,
        write_lsn,
        record_end_lsn,
        commit_lsn,
        peer_horizon_lsn,
        postgres_history: decode_postgres_history(&mut lists)?,
    };
    let mut wal = RangeMap::new();
    for _ in 0..ranges {
        let begin = Lsn(lists.u64()?);
        let end = Lsn(lists.u64()?);
        if begin >= end {
            return Err(lists.invalid("range"));
        }
        let place = WalPlace::decode(&mut lists)?;
        if !place.can_hold(begin, end) {
            return Err(lists.invalid("piece"));
        }
        wal.insert(begin..end, place);
    }
    let mut layer_edits = Vec::new();
    for _ in 0..edits {
        let count = lists.count("edit", 1)?;
        layer_edits.push(lists.bytes(count)?.into());
    }
    lists.end()?;
    Ok((key, Timeline { state, wal, layer_edits, suspect }))
}

#[cfg(test)]
mod tests;
