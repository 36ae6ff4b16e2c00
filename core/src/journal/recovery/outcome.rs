//! What recovery begins with, what it finds, and why it gives up.

use std::collections::BTreeMap;

use thiserror::Error;

use super::super::codec::FormatError;
use super::super::entry::LifeEnd;
use super::super::segment::{HeaderBlock, JournalNumber, SegmentHeader};
use super::super::snapshot::Snapshot;
use super::super::state::{ShardState, StateError};
use super::super::wal_place::SegmentPlace;
use crate::types::Id;

/// A segment file of the shard's journal directory.
#[derive(Debug, Clone)]
pub struct SegmentFile {
    /// The caller's number for the file.
    pub file: u32,
    /// Its first block.
    pub block: HeaderBlock,
}

/// What recovery begins with.
#[derive(Debug, Clone)]
pub struct RecoveryInput {
    /// The journal.
    pub journal: JournalNumber,
    /// All files in its directory.
    pub segments: Vec<SegmentFile>,
    /// The newest complete snapshot.
    pub snapshot: Option<Snapshot>,
    /// Segments of journals of earlier epochs that are there, with their use ids.
    pub other_journals: BTreeMap<SegmentPlace, Id>,
}

/// A use of a file by this journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentUse {
    /// The caller's number for the file.
    pub file: u32,
    /// Its header.
    pub header: SegmentHeader,
}

/// What recovery found.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The shard's state.
    pub state: ShardState,
    /// Behind the last frame that counts; `None` when there is none.
    pub end: Option<LifeEnd>,
    /// Sequence of that frame; the next life goes on with the one after it.
    pub last_sequence: u64,
    /// CRC of that frame; the next life's first frame chains to it.
    pub last_crc: u32,
    /// Place for the next segment: above every one that was ever used.
    pub next_place: u64,
    /// Every use of a file that a valid header names, by place.
    pub segments: BTreeMap<u64, SegmentUse>,
    /// Files whose header is rotten.
    pub damaged_files: Vec<u32>,
    /// Segments with frames that count, and where the last such frame of each ends: what is behind is void.
    pub segment_ends: BTreeMap<SegmentPlace, u64>,
    /// The first place whose frames were replayed: with all later ones it stays until there is a newer snapshot.
    pub replay_place: u64,
    /// Frames that were replayed.
    pub replayed_frames: u64,
    /// Bytes that were replayed.
    pub replayed_bytes: u64,
    /// Valid frames behind the cut: in flight when the process died, never acknowledged, void for ever.
    pub void_frames: u64,
    /// Acknowledged frames are gone.
    pub corruption: Option<Corruption>,
}

/// Acknowledged frames that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Corruption {
    /// A frame is missing that a later one knew durable.
    #[error(
        "segment at place {place}, offset {offset_bytes}: frame {sequence} is missing or fails its check, \
         but it was acknowledged"
    )]
    Frame {
        /// Place of the segment.
        place: u64,
        /// Where the frame should begin.
        offset_bytes: u64,
        /// Its sequence.
        sequence: u64,
    },
    /// A segment's header is rotten: what was in it is unknown.
    #[error("segment file {file}: {error}")]
    Header {
        /// The caller's number for the file.
        file: u32,
        /// What is wrong.
        error: FormatError,
    },
    /// The chain of frames does not begin where the snapshot ends.
    #[error(
        "frame {sequence} follows the newest complete snapshot, but the journal begins at {found}"
    )]
    Start {
        /// The frame that should be there.
        sequence: u64,
        /// The first that is.
        found: u64,
    },
}

/// Why recovery gives up: nothing was changed, and the shard does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// The snapshot needs a segment that is not there.
    #[error(
        "journal {journal}: the snapshot through frame {covers_through} needs the segment at place {place} with use {use_id}, which is missing"
    )]
    MissingSegment {
        /// The segment's journal.
        journal: JournalNumber,
        /// The segment's place.
        place: u64,
        /// The use that is needed.
        use_id: Id,
        /// The snapshot.
        covers_through: u64,
    },
    /// Two segment files claim the same place.
    #[error("two segment files claim place {place}")]
    SamePlace {
        /// The place.
        place: u64,
    },
    /// A segment or a snapshot of another journal lies in this one's directory.
    #[error("a file of journal {found} in the directory of journal {expected}")]
    OtherJournal {
        /// The directory's.
        expected: JournalNumber,
        /// The file's.
        found: JournalNumber,
    },
    /// A frame that passed its CRC holds something that this program cannot read.
    #[error("frame {sequence}: {error}")]
    Entry {
        /// The frame.
        sequence: u64,
        /// What is wrong.
        error: FormatError,
    },
    /// A frame that passed its CRC holds entries that cannot follow those before them.
    #[error("frame {sequence}: {error}")]
    State {
        /// The frame.
        sequence: u64,
        /// What is wrong.
        error: StateError,
    },
}
