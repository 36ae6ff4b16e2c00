//! The order of frames: what goes to the device next, and what is acknowledged when it comes back.
//!
//! Invariants: at most [`INFLIGHT_MAX`] writes are in flight, and fewer bytes than [`INFLIGHT_BYTES_MAX`] before each;
//! they complete in any order and are acknowledged in the order of their sequences; a frame is acknowledged only after the
//! header of its segment is durable.

use std::collections::VecDeque;

use firn_core::journal::INFLIGHT_MAX;
use firn_core::journal::entry::{Entry, LifeEnd};
use firn_core::journal::frame::{FrameForm, UseCrc};
use firn_core::journal::segment::{FRAMES_OFFSET_BYTES, SegmentHeader};
use firn_core::journal::snapshot::Position;
use firn_core::journal::{BLOCK_BYTES, recovery::Recovered};
use firn_core::mutant::{self, Mutant};
use firn_core::types::Id;

use super::options::JournalOptions;
use super::queue::Queue;
use super::ring::Ring;
use crate::runtime::{Buffer, File};

/// Bytes on their way to the device, beyond which no other frame follows: a new frame is acknowledged behind them. A
/// device is busy with less.
const INFLIGHT_BYTES_MAX: usize = 2 << 20;

/// One write, for a lane to carry out.
pub(super) struct Work {
    /// Names it in [`Log::complete`].
    pub(super) number: u64,
    pub(super) stage: &'static str,
    pub(super) file: File,
    pub(super) buffer: Buffer,
    pub(super) offset_bytes: u64,
}

/// A frame that is durable, as all before it.
pub(super) struct Durable {
    pub(super) place: u64,
    pub(super) offset_bytes: u64,
    pub(super) closes_segment: bool,
    pub(super) buffer: Buffer,
}

/// The segment that frames go to.
struct Open {
    file: File,
    header: SegmentHeader,
    use_crc: UseCrc,
    offset_bytes: u64,
}

struct InFlight {
    /// `None`: a segment's header.
    frame: Option<FrameInFlight>,
    done: Option<Buffer>,
}

struct FrameInFlight {
    sequence: u64,
    place: u64,
    offset_bytes: u64,
    durable_through: u64,
    /// Where replay goes on behind it: the segment's length when it closes the segment.
    replay_offset_bytes: u64,
    crc: u32,
    has_content: bool,
    closes_segment: bool,
}

pub(super) struct Log {
    open: Option<Open>,
    /// The open segment has no room for any frame: its closing one is next.
    close: bool,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Number of the first of `in_flight`.
    first_number: u64,
    next_sequence: u64,
    next_place: u64,
    last_crc: u32,
    life_id: Id,
    durable_through: u64,
    /// Highest sequence that a durable frame says is durable.
    witnessed_through: u64,
    /// The last durable frame that carries something.
    last_content: u64,
    /// Behind the last durable frame.
    position: Option<Position>,
}

impl Log {
    /// Goes on behind what recovery found, in a new segment.
    pub(super) fn new(recovered: &Recovered, life_id: Id) -> Log {
        Log {
            open: None,
            close: false,
            in_flight: VecDeque::with_capacity(INFLIGHT_MAX),
            in_flight_bytes: 0,
            first_number: 0,
            next_sequence: recovered.last_sequence + 1,
            next_place: recovered.next_place,
            last_crc: recovered.last_crc,
            life_id,
            durable_through: recovered.last_sequence,
            witnessed_through: recovered.last_sequence,
            last_content: recovered.last_sequence,
            position: None,
        }
    }

    /// A deliberate bug ([`Mutant::WriteBehindCut`]): goes on in the segment in which the life before was cut.
    pub(super) fn write_behind_cut(
        &mut self,
        ring: &mut Ring,
        end: LifeEnd,
        options: &JournalOptions,
    ) {
        let Some(used) = ring.used.get_mut(&end.place) else { return };
        if end.offset_bytes + options.close_below_bytes() < used.header.segment_bytes {
            used.closed = false;
            let (file, header) = (used.file.clone(), used.header);
            let (use_crc, offset_bytes) = (UseCrc::new(&header), end.offset_bytes);
            self.open = Some(Open { file, header, use_crc, offset_bytes });
        }
    }

    pub(super) fn durable_through(&self) -> u64 {
        self.durable_through
    }

    pub(super) fn witnessed_through(&self) -> u64 {
        self.witnessed_through
    }

    /// Whether the last durable frame that carries something has no witness yet.
    pub(super) fn wants_seal(&self) -> bool {
        self.last_content > self.witnessed_through && self.in_flight.is_empty()
    }

    /// Behind the last durable frame; `None` before this life's first one is durable.
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    /// The place that the next segment gets, when one is needed now.
    pub(super) fn wants_segment(&self) -> Option<u64> {
        self.open.is_none().then_some(self.next_place)
    }

    /// The place of the newest segment of this life.
    pub(super) fn last_place(&self) -> u64 {
        self.next_place - 1
    }

    /// Whether a segment is to be closed or begun, whatever is queued.
    pub(super) fn wants_write(&self) -> bool {
        self.close || self.open.is_none()
    }

    pub(super) fn may_submit(&self) -> bool {
        self.in_flight.len() < INFLIGHT_MAX && self.in_flight_bytes < INFLIGHT_BYTES_MAX
    }

    /// Bytes left for frames in the open segment.
    pub(super) fn room_bytes(&self) -> u64 {
        match &self.open {
            Some(open) if !self.close => open.header.segment_bytes - open.offset_bytes,
            _ => 0,
        }
    }

    /// Begins a use of a file: the first thing to write is its header.
    pub(super) fn open_segment(&mut self, file: File, header: SegmentHeader) -> Work {
        assert!(self.open.is_none() && header.place == self.next_place);
        self.next_place += 1;
        let mut buffer = Buffer::zeroed(BLOCK_BYTES);
        let encoded = header.encode();
        buffer[..encoded.len()].copy_from_slice(&encoded);
        let use_crc = UseCrc::new(&header);
        self.open =
            Some(Open { file: file.clone(), header, use_crc, offset_bytes: FRAMES_OFFSET_BYTES });
        let number = self.enter(None, buffer.len());
        Work { number, stage: "write a segment's header", file, buffer, offset_bytes: 0 }
    }

    /// The header of the next segment.
    pub(super) fn next_header(
        &self,
        segment_bytes: u64,
        journal: firn_core::journal::segment::JournalNumber,
        use_id: Id,
    ) -> SegmentHeader {
        SegmentHeader {
            segment_bytes,
            journal,
            place: self.next_place,
            first_sequence: self.next_sequence,
            life_id: self.life_id,
            use_id,
        }
    }

    /// The next frame, if there is anything to write and a segment to write it to.
    pub(super) fn next_frame(
        &mut self,
        queue: &mut Queue,
        options: &JournalOptions,
        spare: impl FnOnce() -> Buffer,
    ) -> Option<Work> {
        self.open.as_ref()?;
        if std::mem::take(&mut self.close) {
            let work = self.closing_frame();
            self.open = None;
            return Some(work);
        }
        if queue.is_empty() {
            return None;
        }
        let formed = queue.take(spare);
        let work = self.submit(formed.form, formed.buffer, formed.has_content, false);
        self.close = self.room_bytes() < options.close_below_bytes();
        queue.set_sequence(self.next_sequence + u64::from(self.close));
        Some(work)
    }

    fn closing_frame(&mut self) -> Work {
        let mut buffer = Buffer::zeroed(BLOCK_BYTES);
        let mut form = FrameForm::new(BLOCK_BYTES);
        form.push(&mut buffer, &Entry::End);
        self.submit(form, buffer, false, true)
    }

    fn submit(
        &mut self,
        form: FrameForm,
        mut buffer: Buffer,
        has_content: bool,
        closes_segment: bool,
    ) -> Work {
        let (sequence, durable_through) = (self.next_sequence, self.durable_through);
        let open = self.open.as_mut().expect("a frame goes to an open segment");
        let finished =
            form.finish(&mut buffer, open.use_crc, sequence, durable_through, self.last_crc);
        buffer.set_len(finished.frame_bytes);
        let offset_bytes = open.offset_bytes;
        open.offset_bytes += finished.frame_bytes as u64;
        assert!(open.offset_bytes <= open.header.segment_bytes, "a frame never crosses segments");
        let replay_offset_bytes =
            if closes_segment { open.header.segment_bytes } else { open.offset_bytes };
        let (file, place) = (open.file.clone(), open.header.place);
        self.last_crc = finished.crc;
        self.next_sequence += 1;
        let frame = FrameInFlight {
            sequence,
            place,
            offset_bytes,
            durable_through,
            replay_offset_bytes,
            crc: finished.crc,
            has_content,
            closes_segment,
        };
        let number = self.enter(Some(frame), buffer.len());
        Work { number, stage: "write a frame", file, buffer, offset_bytes }
    }

    fn enter(&mut self, frame: Option<FrameInFlight>, len_bytes: usize) -> u64 {
        assert!(self.in_flight.len() < INFLIGHT_MAX, "writes in flight have a bound");
        self.in_flight_bytes += len_bytes;
        self.in_flight.push_back(InFlight { frame, done: None });
        self.first_number + self.in_flight.len() as u64 - 1
    }

    /// Notes that a write is durable.
    pub(super) fn complete(&mut self, number: u64, buffer: Buffer) {
        let index = (number - self.first_number) as usize;
        if index > 0 {
            firn_core::marks::hit("journal.completed_out_of_order");
        }
        self.in_flight_bytes -= buffer.len();
        self.in_flight[index].done = Some(buffer);
        if mutant::active(Mutant::AcknowledgeOutOfOrder)
            && let Some(frame) = &self.in_flight[index].frame
        {
            self.durable_through = self.durable_through.max(frame.sequence);
        }
    }

    /// The next frame in order, once it and everything before it is durable.
    pub(super) fn acknowledge(&mut self) -> Option<Durable> {
        loop {
            self.in_flight.front()?.done.as_ref()?;
            let InFlight { frame, done } = self.in_flight.pop_front().expect("looked at above");
            self.first_number += 1;
            let (Some(frame), Some(buffer)) = (frame, done) else { continue };
            self.durable_through = self.durable_through.max(frame.sequence);
            self.witnessed_through = self.witnessed_through.max(frame.durable_through);
            if frame.has_content {
                self.last_content = frame.sequence;
            }
            self.position = Some(Position {
                life_id: self.life_id,
                place: frame.place,
                offset_bytes: frame.replay_offset_bytes,
                crc: frame.crc,
            });
            return Some(Durable {
                place: frame.place,
                offset_bytes: frame.offset_bytes,
                closes_segment: frame.closes_segment,
                buffer,
            });
        }
    }
}
