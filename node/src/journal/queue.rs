//! The frame being formed, and what did not get into it.
//!
//! Invariants: a timeline's entries keep their order; a timeline puts no more than its share into a frame while it is
//! forming, so an entry of another one finds room; what waits is taken one entry per timeline in turn, and makes no
//! frame longer than a share.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use firn_core::journal::entry::Entry;
use firn_core::journal::frame::FrameForm;
use firn_core::types::TimelineKey;

use super::options::JournalOptions;
use super::progress::Ticket;
use crate::runtime::Buffer;

pub(super) struct Queue {
    frame_bytes_max: usize,
    share_bytes: usize,
    form: FrameForm,
    buffer: Buffer,
    /// Something but seals is in the forming frame.
    has_content: bool,
    /// Sequence that the forming frame will have.
    sequence: u64,
    /// Segments begun so far.
    segment: u64,
    /// Kept for every timeline that ever appended: a look-up, no allocation, per entry.
    timelines: BTreeMap<TimelineKey, Lane>,
    /// Timelines with waiting entries, whose turn is next first.
    turn: VecDeque<TimelineKey>,
    waiting_bytes: usize,
}

#[derive(Default)]
struct Lane {
    /// The frame that `bytes` counts for.
    sequence: u64,
    /// Bytes that the timeline has in that frame.
    bytes: usize,
    waiting: VecDeque<Waiting>,
    /// The segment that `segment_bytes` counts for.
    segment: u64,
    /// Bytes that the timeline queued since that segment was begun, and in the one before it.
    segment_bytes: u64,
    before_bytes: u64,
}

impl Lane {
    fn turn_to(&mut self, segment: u64) {
        if self.segment != segment {
            let kept = self.segment + 1 == segment;
            self.before_bytes = if kept { self.segment_bytes } else { 0 };
            (self.segment, self.segment_bytes) = (segment, 0);
        }
    }
}

struct Waiting {
    bytes: Vec<u8>,
    sequence: Rc<Cell<Option<u64>>>,
}

/// A frame's entries, ready for its header.
pub(super) struct Formed {
    pub(super) form: FrameForm,
    pub(super) buffer: Buffer,
    pub(super) has_content: bool,
}

impl Queue {
    pub(super) fn new(options: &JournalOptions, sequence: u64) -> Queue {
        Queue {
            frame_bytes_max: options.frame_bytes_max,
            share_bytes: options.share_bytes(),
            form: FrameForm::new(options.frame_bytes_max),
            buffer: Buffer::zeroed(options.frame_bytes_max),
            has_content: false,
            sequence,
            segment: 0,
            timelines: BTreeMap::new(),
            turn: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Bytes that are in no frame on its way to the device.
    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes + if self.form.is_empty() { 0 } else { self.form.frame_bytes() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.form.is_empty() && self.turn.is_empty()
    }

    /// Takes an entry: into the frame, or behind it when the timeline had its share.
    pub(super) fn push(&mut self, entry: &Entry<'_>) -> Ticket {
        let key = entry.key().unwrap_or_default();
        let bytes = entry.encoded_bytes();
        let lane = self.timelines.entry(key).or_default();
        lane.turn_to(self.segment);
        lane.segment_bytes += bytes as u64;
        if lane.sequence != self.sequence {
            (lane.sequence, lane.bytes) = (self.sequence, 0);
        }
        let first = lane.bytes == 0;
        let within_share = first || lane.bytes + bytes <= self.share_bytes;
        if lane.waiting.is_empty() && within_share && bytes <= self.form.room_bytes() {
            lane.bytes += bytes;
            self.form.push(&mut self.buffer, entry);
            self.has_content |= !matches!(entry, Entry::Seal);
            return Ticket::in_frame(self.sequence);
        }
        let mut encoded = vec![0; bytes];
        entry.encode(&mut encoded);
        if lane.waiting.is_empty() {
            self.turn.push_back(key);
        }
        let (ticket, sequence) = Ticket::queued();
        lane.waiting.push_back(Waiting { bytes: encoded, sequence });
        self.waiting_bytes += bytes;
        ticket
    }

    /// Fills what is left of the frame with waiting entries, one of each timeline in turn, and hands it out. `spare`
    /// becomes the next frame's buffer.
    pub(super) fn take(&mut self, spare: impl FnOnce() -> Buffer) -> Formed {
        self.top_up();
        let mut buffer = spare();
        buffer.set_len(self.frame_bytes_max);
        let form = std::mem::replace(&mut self.form, FrameForm::new(self.frame_bytes_max));
        let buffer = std::mem::replace(&mut self.buffer, buffer);
        Formed { form, buffer, has_content: std::mem::take(&mut self.has_content) }
    }

    /// Says which sequence the forming frame will have. Only between frames: nothing is in it.
    pub(super) fn set_sequence(&mut self, sequence: u64) {
        assert!(self.form.is_empty(), "entries in the forming frame know its sequence");
        self.sequence = sequence;
    }

    /// Says that a segment was begun.
    pub(super) fn begin_segment(&mut self) {
        self.segment += 1;
    }

    /// Bytes that the timeline queued since the segment before the newest was begun.
    pub(super) fn recent_bytes(&mut self, key: TimelineKey) -> u64 {
        let Some(lane) = self.timelines.get_mut(&key) else { return 0 };
        lane.turn_to(self.segment);
        lane.before_bytes + lane.segment_bytes
    }

    /// No longer than a share: who has an entry in this frame waits for all of it, and several of that length are on
    /// their way to the device together.
    fn top_up(&mut self) {
        while self.form.is_empty() || self.form.frame_bytes() < self.share_bytes {
            let Some(key) = self.turn.pop_front() else { return };
            let lane = self.timelines.get_mut(&key).expect("a timeline with entries has a lane");
            let next = lane.waiting.front().expect("a timeline in turn has entries");
            if next.bytes.len() > self.form.room_bytes() {
                // The frame is more than half full; the next one begins with this entry.
                self.turn.push_front(key);
                return;
            }
            let next = lane.waiting.pop_front().expect("looked at above");
            self.form.push_encoded(&mut self.buffer, &next.bytes);
            next.sequence.set(Some(self.sequence));
            self.waiting_bytes -= next.bytes.len();
            self.has_content = true;
            if !lane.waiting.is_empty() {
                self.turn.push_back(key);
            }
        }
    }

    /// Forgets a timeline that was deleted.
    pub(super) fn forget(&mut self, key: TimelineKey) {
        if self.timelines.get(&key).is_some_and(|lane| lane.waiting.is_empty()) {
            self.timelines.remove(&key);
        }
    }
}
