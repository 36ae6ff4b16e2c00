//! Recovery: from what a crash left on the disk to the shard's state. Sans-I/O: it says which segment to read next.
//!
//! Five steps. (1) The newest complete snapshot is given. (2) The frames after it are replayed, life by life: the first
//! frame of a life says where the one before it ended, and frames past that are void. (3) Replay stops at the first
//! frame that is missing. When a later valid frame of the same life knew it durable, acknowledged data is lost: that is
//! corruption. Otherwise it is the torn tail of frames that were in flight. (4) Nothing is written behind the cut: the
//! next life begins a segment of its own and records the end found here. (5) Nothing here changes the disk, so it may be
//! repeated as often as the process dies.
//!
//! Read first: [`Recovery::wanted`] and [`Recovery::segment`], the loop's two halves; then `lives.rs` (which frames count).

use std::collections::BTreeMap;

use super::entry::{Entry, LifeEnd};
use super::frame::{Frame, UseCrc};
use super::segment::{FRAMES_OFFSET_BYTES, HeaderBlock, JournalNumber, SegmentHeader};
use super::snapshot::Snapshot;
use super::state::ShardState;
use super::wal_place::SegmentPlace;
use crate::consensus::change::Change;
use crate::marks;
use crate::mutant::{self, Mutant};
use crate::types::Id;

mod lives;
mod outcome;
mod witness;

use lives::{Anchors, Found, Life, Span};
pub use outcome::{Corruption, Recovered, RecoveryError, RecoveryInput, SegmentFile, SegmentUse};
use witness::scan;

/// Recovery under way.
#[derive(Debug)]
pub struct Recovery {
    lives: Vec<Life>,
    stage: Stage,
    recovered: Recovered,
    /// Place and offset where the next frame is expected; a span of a new life sets them.
    place: u64,
    offset_bytes: u64,
}

#[derive(Debug)]
enum Stage {
    /// Finding out which lives count, newest first.
    Anchor(Anchors),
    /// Replaying the spans, oldest first.
    Replay {
        spans: Vec<Span>,
        span: usize,
    },
    /// A frame is missing: looking for a witness in later segments of its life.
    Witness {
        life: usize,
        segment: usize,
    },
    Done,
}

impl Recovery {
    /// Begins. Errors: files that cannot belong together.
    pub fn new(input: RecoveryInput) -> Result<Recovery, RecoveryError> {
        let mut recovered = Recovered {
            state: ShardState::default(),
            end: None,
            last_sequence: 0,
            last_crc: 0,
            next_place: 1,
            segments: BTreeMap::new(),
            damaged_files: Vec::new(),
            segment_ends: BTreeMap::new(),
            replay_place: 0,
            replayed_frames: 0,
            replayed_bytes: 0,
            void_frames: 0,
            corruption: None,
        };
        for SegmentFile { file, block } in input.segments {
            match block {
                HeaderBlock::Blank => {}
                HeaderBlock::Valid(header) => {
                    add_segment(&mut recovered, input.journal, file, header)?
                }
                HeaderBlock::Damaged(error) => {
                    recovered.damaged_files.push(file);
                    recovered.corruption.get_or_insert(Corruption::Header { file, error });
                }
            }
        }
        let mut start = None;
        if let Some(snapshot) = input.snapshot {
            check_listed(&snapshot, input.journal, &recovered, &input.other_journals)?;
            let listed = snapshot.head.segments.iter();
            recovered.segment_ends =
                listed.map(|listed| (listed.segment, listed.end_offset_bytes)).collect();
            recovered.state = snapshot.state;
            recovered.last_sequence = snapshot.head.covers_through;
            start = snapshot.head.position;
        }
        if let Some(position) = start {
            recovered.last_crc = position.crc;
            recovered.replay_place = position.place;
            recovered.next_place = recovered.next_place.max(position.place + 1);
            recovered.end = Some(LifeEnd {
                place: position.place,
                offset_bytes: position.offset_bytes,
                sequence: recovered.last_sequence,
            });
        }
        let lives = lives::group(recovered.segments.values(), recovered.replay_place);
        let anchors = Anchors::new(&lives, start, recovered.last_sequence + 1);
        let (place, offset_bytes) =
            start.map_or((0, FRAMES_OFFSET_BYTES), |at| (at.place, at.offset_bytes));
        let stage = Stage::Anchor(anchors);
        let mut recovery = Recovery { lives, stage, recovered, place, offset_bytes };
        recovery.settle();
        Ok(recovery)
    }

    /// The file whose whole bytes [`Recovery::segment`] takes next; `None` when all is known.
    pub fn wanted(&self) -> Option<u32> {
        match &self.stage {
            Stage::Anchor(anchors) => anchors.wanted(&self.lives),
            Stage::Replay { spans, span } => {
                let life = &self.lives[spans[*span].life];
                life.segment_at(self.place).map(|segment| segment.file)
            }
            Stage::Witness { life, segment } => {
                self.lives[*life].segments.get(*segment).map(|segment| segment.file)
            }
            Stage::Done => None,
        }
    }

    /// Takes the bytes of the wanted file.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        match &mut self.stage {
            Stage::Anchor(anchors) => anchors.segment(&self.lives, bytes),
            Stage::Replay { spans, span } => {
                let current = spans[*span];
                self.replay(current, bytes)?;
            }
            Stage::Witness { life, segment } => {
                let header = &self.lives[*life].segments[*segment].header;
                let found = scan(
                    bytes,
                    FRAMES_OFFSET_BYTES,
                    UseCrc::new(header),
                    self.recovered.last_sequence + 1,
                );
                *segment += 1;
                self.recovered.void_frames += found.valid_frames;
                if found.witness {
                    self.lose();
                }
            }
            Stage::Done => panic!("recovery wants no more segments"),
        }
        self.settle();
        Ok(())
    }

    /// The result. Panics while a file is still wanted.
    pub fn finish(self) -> Recovered {
        assert!(self.wanted().is_none(), "recovery is not finished");
        self.recovered
    }

    /// Goes through the stages that need no bytes.
    fn settle(&mut self) {
        loop {
            if self.wanted().is_some() {
                return;
            }
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Anchor(anchors) => self.begin_replay(anchors.found()),
                Stage::Replay { spans, span } => {
                    // The segment that the chain goes on in is not there.
                    self.missing(spans[span], None);
                }
                Stage::Witness { .. } => {
                    self.cut();
                    return;
                }
                Stage::Done => return,
            }
        }
    }

    fn begin_replay(&mut self, found: Found) {
        if let Some(corruption) = found.corruption {
            self.recovered.corruption = Some(corruption);
        }
        self.recovered.void_frames += found.void_frames;
        if found.spans.is_empty() {
            return;
        }
        self.stage = Stage::Replay { spans: found.spans, span: 0 };
        self.enter_span(found_first(&self.stage));
    }

    /// Sets the place of a life's first frame, but for the life that the snapshot was taken in.
    fn enter_span(&mut self, span: Span) {
        if !span.from_snapshot {
            self.place = self.lives[span.life].first_place();
            self.offset_bytes = FRAMES_OFFSET_BYTES;
        }
        if span.ends_at(self.recovered.last_sequence) {
            self.next_span(span);
        }
    }

    fn next_span(&mut self, ended: Span) {
        let at = ended.end.expect("only a life with a recorded end has one after it");
        if at.sequence != self.recovered.last_sequence {
            self.lose();
            return;
        }
        let Stage::Replay { spans, span } = &mut self.stage else { return };
        *span += 1;
        let next = spans.get(*span).copied();
        match next {
            Some(next) => self.enter_span(next),
            None => self.stage = Stage::Done,
        }
    }

    /// Replays one segment's frames from the expected offset on.
    fn replay(&mut self, span: Span, bytes: &[u8]) -> Result<(), RecoveryError> {
        let segment = *self.lives[span.life]
            .segment_at(self.place)
            .expect("the bytes given are those of the segment that was wanted");
        let use_crc = UseCrc::new(&segment.header);
        if self.offset_bytes >= segment.header.segment_bytes {
            // The snapshot's last frame closed this segment.
            self.place += 1;
            self.offset_bytes = FRAMES_OFFSET_BYTES;
            return Ok(());
        }
        loop {
            let rest = usize::try_from(self.offset_bytes).ok().and_then(|at| bytes.get(at..));
            let rest = rest.unwrap_or_default();
            let expected = self.recovered.last_sequence + 1;
            if span.ends_at(self.recovered.last_sequence) {
                if scan(bytes, self.offset_bytes, use_crc, expected).valid_frames > 0 {
                    marks::hit("journal.valid_frame_behind_cut");
                }
                self.next_span(span);
                return Ok(());
            }
            let frame = Frame::parse(rest, use_crc).ok().filter(|frame| {
                frame.header.sequence == expected
                    && frame.header.previous_crc == self.recovered.last_crc
            });
            let Some(frame) = frame else {
                if is_stale_use(rest) {
                    marks::hit("journal.stale_use");
                }
                self.missing(span, Some((bytes, use_crc)));
                return Ok(());
            };
            if self.apply(&frame, &segment.header)? && !span.ends_at(frame.header.sequence) {
                self.place += 1;
                self.offset_bytes = FRAMES_OFFSET_BYTES;
                return Ok(());
            }
        }
    }

    /// Applies a frame; true when it closes the segment.
    fn apply(&mut self, frame: &Frame<'_>, at: &SegmentHeader) -> Result<bool, RecoveryError> {
        let sequence = frame.header.sequence;
        let segment = SegmentPlace { journal: at.journal, place: at.place };
        let mut ends = false;
        for entry in frame.entries() {
            let (_, entry) = entry.map_err(|error| RecoveryError::Entry { sequence, error })?;
            ends = matches!(entry, Entry::End);
            if mutant::active(Mutant::ForgetVote)
                && matches!(entry, Entry::Change(_, Change::Vote { .. }))
            {
                continue;
            }
            self.recovered
                .state
                .apply(&entry, segment)
                .map_err(|error| RecoveryError::State { sequence, error })?;
        }
        let frame_bytes = u64::from(frame.header.frame_bytes);
        self.offset_bytes += frame_bytes;
        self.recovered.replayed_frames += 1;
        self.recovered.replayed_bytes += frame_bytes;
        self.recovered.last_sequence = sequence;
        self.recovered.last_crc = frame.header.crc;
        self.recovered.segment_ends.insert(segment, self.offset_bytes);
        self.recovered.end =
            Some(LifeEnd { place: at.place, offset_bytes: self.offset_bytes, sequence });
        Ok(ends)
    }

    /// The expected frame is not there: corruption when anything says that it was durable.
    fn missing(&mut self, span: Span, segment: Option<(&[u8], UseCrc)>) {
        if span.end.is_some() {
            self.lose();
            return;
        }
        if let Some((bytes, use_crc)) = segment {
            let found = scan(bytes, self.offset_bytes, use_crc, self.recovered.last_sequence + 1);
            self.recovered.void_frames += found.valid_frames;
            if found.witness {
                self.lose();
                return;
            }
        }
        let later = self.lives[span.life]
            .segments
            .partition_point(|segment| segment.header.place <= self.place);
        self.stage = Stage::Witness { life: span.life, segment: later };
    }

    fn lose(&mut self) {
        marks::hit("journal.rot_with_witness");
        self.recovered.void_frames = 0;
        self.recovered.corruption = Some(Corruption::Frame {
            place: self.place,
            offset_bytes: self.offset_bytes,
            sequence: self.recovered.last_sequence + 1,
        });
        self.stage = Stage::Done;
    }

    fn cut(&mut self) {
        if self.recovered.void_frames > 0 {
            marks::hit("journal.hole_in_flight");
        }
    }
}

fn found_first(stage: &Stage) -> Span {
    match stage {
        Stage::Replay { spans, span } => spans[*span],
        _ => panic!("replay has just begun"),
    }
}

/// Whether a frame begins here that is none of this use of the file.
fn is_stale_use(bytes: &[u8]) -> bool {
    super::frame::peek(bytes).is_ok()
}

fn add_segment(
    recovered: &mut Recovered,
    journal: JournalNumber,
    file: u32,
    header: SegmentHeader,
) -> Result<(), RecoveryError> {
    if header.journal != journal {
        return Err(RecoveryError::OtherJournal { expected: journal, found: header.journal });
    }
    let place = header.place;
    if recovered.segments.insert(place, SegmentUse { file, header }).is_some() {
        return Err(RecoveryError::SamePlace { place });
    }
    recovered.next_place = recovered.next_place.max(place.saturating_add(1));
    Ok(())
}

/// Every segment that the snapshot lists must be there; a rotten header in the directory makes that corruption, which is
/// reported already, and without one it is an error.
fn check_listed(
    snapshot: &Snapshot,
    journal: JournalNumber,
    recovered: &Recovered,
    other_journals: &BTreeMap<SegmentPlace, Id>,
) -> Result<(), RecoveryError> {
    if snapshot.head.journal != journal {
        let found = snapshot.head.journal;
        return Err(RecoveryError::OtherJournal { expected: journal, found });
    }
    for listed in &snapshot.head.segments {
        let place = listed.segment.place;
        let found = if listed.segment.journal == journal {
            recovered.segments.get(&place).map(|segment| segment.header.use_id)
        } else {
            other_journals.get(&listed.segment).copied()
        };
        if found != Some(listed.use_id) && recovered.damaged_files.is_empty() {
            return Err(RecoveryError::MissingSegment {
                journal: listed.segment.journal,
                place,
                use_id: listed.use_id,
                covers_through: snapshot.head.covers_through,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
