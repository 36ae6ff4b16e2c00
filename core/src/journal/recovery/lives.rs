//! Which lives of the process count, and up to where.
//!
//! Walks from the newest life back: its first frame, when valid, names the end of the life before it, and whatever lies
//! between the two is void. A life without a valid first frame acknowledged nothing - unless one of its later frames
//! knew the first one durable.

use super::super::entry::{Entry, LifeEnd, PreviousEnd};
use super::super::frame::{Frame, UseCrc};
use super::super::segment::FRAMES_OFFSET_BYTES;
use super::super::snapshot::Position;
use super::witness::scan;
use super::{Corruption, SegmentUse};
use crate::marks;
use crate::types::Id;

/// The segments of one life that may hold frames to replay, by place.
#[derive(Debug, Clone)]
pub(super) struct Life {
    life_id: Id,
    pub(super) segments: Vec<SegmentUse>,
}

impl Life {
    pub(super) fn first_place(&self) -> u64 {
        self.segments[0].header.place
    }

    pub(super) fn segment_at(&self, place: u64) -> Option<&SegmentUse> {
        self.segments.iter().find(|segment| segment.header.place == place)
    }
}

/// Groups segments from `first_place` on by life, oldest life first. `segments` come by place.
pub(super) fn group<'a>(
    segments: impl Iterator<Item = &'a SegmentUse>,
    first_place: u64,
) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for segment in segments.filter(|segment| segment.header.place >= first_place) {
        match lives.last_mut() {
            Some(life) if life.life_id == segment.header.life_id => life.segments.push(*segment),
            _ => lives.push(Life { life_id: segment.header.life_id, segments: vec![*segment] }),
        }
    }
    lives
}

/// Part of a life that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) life: usize,
    /// It begins where the snapshot ends, not with the life's first frame.
    pub(super) from_snapshot: bool,
    /// Where the next life says that it ended; `None` for the newest.
    pub(super) end: Option<LifeEnd>,
}

impl Span {
    /// Whether the frame with that sequence, or one before it, was the span's last.
    pub(super) fn ends_at(&self, sequence: u64) -> bool {
        self.end.is_some_and(|end| end.sequence <= sequence)
    }
}

/// What the walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Oldest first; all but the last have an end.
    pub(super) spans: Vec<Span>,
    pub(super) corruption: Option<Corruption>,
    pub(super) void_frames: u64,
}

/// The walk under way.
#[derive(Debug)]
pub(super) struct Anchors {
    start: Option<Position>,
    /// Sequence of the first frame to replay.
    next_sequence: u64,
    /// The life whose first frame comes next; `None`: finished.
    life: Option<usize>,
    /// Its segment that is looked at: behind the first when that had no valid first frame.
    segment: usize,
    /// Where the life ended, when a later one says so.
    end: Option<LifeEnd>,
    /// Newest first.
    found: Found,
}

impl Anchors {
    pub(super) fn new(lives: &[Life], start: Option<Position>, next_sequence: u64) -> Anchors {
        let mut anchors = Anchors {
            start,
            next_sequence,
            life: lives.len().checked_sub(1),
            segment: 0,
            end: None,
            found: Found::default(),
        };
        anchors.pass_start(lives);
        anchors
    }

    pub(super) fn wanted(&self, lives: &[Life]) -> Option<u32> {
        self.life.map(|life| lives[life].segments[self.segment].file)
    }

    pub(super) fn found(mut self) -> Found {
        self.found.spans.reverse();
        self.found
    }

    pub(super) fn segment(&mut self, lives: &[Life], bytes: &[u8]) {
        let index = self.life.expect("bytes come for a life that was asked for");
        let life = &lives[index];
        let first = life.segments[0].header;
        if self.segment == 0
            && let Some(previous) = first_frame(bytes, UseCrc::new(&first), first.first_sequence)
        {
            self.found.spans.push(Span { life: index, from_snapshot: false, end: self.end });
            self.follow(lives, index, previous);
            return;
        }
        // A later life that names this one's end vouches for its first frame.
        let header = &life.segments[self.segment].header;
        let scan = scan(bytes, FRAMES_OFFSET_BYTES, UseCrc::new(header), first.first_sequence);
        if scan.witness || self.end.is_some() {
            self.lose(first.place, first.first_sequence);
            self.go_back(lives, index.checked_sub(1), None);
        } else if self.segment + 1 < life.segments.len() {
            self.segment += 1;
        } else if index == 0 && first.first_sequence > self.next_sequence {
            // Frames before it were there, and the snapshot that held them was.
            self.lose_start(first.first_sequence);
            self.life = None;
        } else {
            marks::hit("journal.void_life");
            self.found.void_frames += scan.valid_frames;
            self.go_back(lives, index.checked_sub(1), None);
        }
    }

    /// Goes on with the life that `previous` names.
    fn follow(&mut self, lives: &[Life], index: usize, previous: PreviousEnd) {
        let first = lives[index].segments[0].header;
        let Some(end) = previous.end else {
            if self.start.is_some() {
                self.lose_start(first.first_sequence);
            }
            self.life = None;
            return;
        };
        let before = lives[..index].iter().rposition(|life| life.segment_at(end.place).is_some());
        match before {
            Some(before) => self.go_back(lives, Some(before), Some(end)),
            None => {
                self.lose_start(first.first_sequence);
                self.life = None;
            }
        }
    }

    fn go_back(&mut self, lives: &[Life], life: Option<usize>, end: Option<LifeEnd>) {
        self.life = life;
        self.segment = 0;
        self.end = end;
        self.pass_start(lives);
    }

    /// Ends the walk at the life that the snapshot was taken in.
    fn pass_start(&mut self, lives: &[Life]) {
        let (Some(index), Some(start)) = (self.life, self.start) else { return };
        if lives[index].life_id == start.life_id {
            self.found.spans.push(Span { life: index, from_snapshot: true, end: self.end });
            self.life = None;
        }
    }

    /// A life's first frame was acknowledged and is gone, and with it all that came after.
    fn lose(&mut self, place: u64, sequence: u64) {
        self.found.spans.clear();
        self.found.corruption =
            Some(Corruption::Frame { place, offset_bytes: FRAMES_OFFSET_BYTES, sequence });
    }

    /// Nothing connects the journal's oldest life to the snapshot.
    fn lose_start(&mut self, found: u64) {
        self.found.spans.clear();
        self.found.corruption = Some(Corruption::Start { sequence: self.next_sequence, found });
    }
}

/// What the first frame of a life says.
fn first_frame(bytes: &[u8], use_crc: UseCrc, sequence: u64) -> Option<PreviousEnd> {
    let frames = bytes.get(FRAMES_OFFSET_BYTES as usize..)?;
    let frame = Frame::parse(frames, use_crc).ok()?;
    match frame.entries().next()? {
        Ok((_, Entry::PreviousEnd(previous))) if frame.header.sequence == sequence => {
            Some(previous)
        }
        _ => None,
    }
}
