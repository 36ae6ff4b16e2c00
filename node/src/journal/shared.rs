//! What the journal's tasks share. All of it belongs to one shard's thread; no borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use firn_core::consensus::change::Change;
use firn_core::journal::entry::Entry;
use firn_core::journal::frame::Frame;
use firn_core::journal::segment::JournalNumber;
use firn_core::journal::state::ShardState;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::types::{Id, Lsn, TimelineKey};

use super::error::{JournalError, Poison};
use super::index::{FramePlace, SegmentIndex};
use super::log::{Durable, Log, Work};
use super::options::JournalOptions;
use super::progress::{Ticket, Waiters};
use super::queue::Queue;
use super::ring::{Holds, Ring, Spare};
use crate::latencies::Latencies;
use crate::runtime::sync::Notify;
use crate::runtime::{Buffer, MonotonicTime, Runtime};

/// Durable frames kept in memory for readers that follow the tail; as their buffers come back, new frames use them.
const RECENT_FRAMES: usize = 16;

/// A frame that is still in memory.
pub(super) struct Recent {
    pub(super) segment: SegmentPlace,
    pub(super) offset_bytes: u64,
    pub(super) buffer: Buffer,
}

/// A file of moved WAL.
pub(super) type WalFile = (TimelineKey, String);

pub(super) struct Shared {
    pub(super) runtime: Runtime,
    pub(super) options: JournalOptions,
    pub(super) number: JournalNumber,
    /// The data directory.
    pub(super) data: PathBuf,
    /// The journal's own directory.
    pub(super) directory: PathBuf,
    pub(super) state: RefCell<ShardState>,
    pub(super) queue: RefCell<Queue>,
    /// When the first entry in the queue came.
    queued_since: Cell<Option<MonotonicTime>>,
    /// From a frame's first entry until it goes to the device.
    pub(super) queue_latencies: Latencies,
    /// From there until the write is durable.
    pub(super) device_latencies: Latencies,
    pub(super) log: RefCell<Log>,
    pub(super) ring: RefCell<Ring>,
    pub(super) indexes: RefCell<BTreeMap<SegmentPlace, Rc<RefCell<SegmentIndex>>>>,
    pub(super) recent: RefCell<VecDeque<Recent>>,
    pool: RefCell<Vec<Buffer>>,
    /// Files of moved WAL that exist.
    pub(super) wal_files: RefCell<std::collections::BTreeSet<WalFile>>,
    pub(super) segment_reads: Holds<SegmentPlace>,
    pub(super) file_reads: Holds<WalFile>,
    /// Who still wants WAL of a timeline, by name, and from where on.
    pub(super) wal_holds: RefCell<BTreeMap<TimelineKey, BTreeMap<String, Lsn>>>,
    poison: RefCell<Option<Poison>>,
    /// Space is wanted and there is none.
    pub(super) stuck: Cell<bool>,
    /// Entries taken so far: tells the sealer whether the journal was idle.
    entries: Cell<u64>,
    idle_lanes: RefCell<Vec<Waker>>,
    pub(super) durable: Waiters,
    pub(super) witnessed: Waiters,
    /// Room in queue or ring, for those that wait to append.
    pub(super) room: Notify,
    pub(super) wake_sealer: Notify,
    pub(super) wake_preparer: Notify,
    pub(super) wake_maintenance: Notify,
}

/// What `Shared::new` needs beside what it makes itself.
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) options: JournalOptions,
    pub(super) number: JournalNumber,
    pub(super) data: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) state: ShardState,
    pub(super) queue: Queue,
    pub(super) log: Log,
    pub(super) ring: Ring,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Shared {
        Shared {
            runtime: parts.runtime,
            options: parts.options,
            number: parts.number,
            data: parts.data,
            directory: parts.directory,
            state: RefCell::new(parts.state),
            queue: RefCell::new(parts.queue),
            queued_since: Cell::new(None),
            queue_latencies: Latencies::default(),
            device_latencies: Latencies::default(),
            log: RefCell::new(parts.log),
            ring: RefCell::new(parts.ring),
            indexes: RefCell::default(),
            recent: RefCell::default(),
            pool: RefCell::default(),
            wal_files: RefCell::default(),
            segment_reads: Holds::new(),
            file_reads: Holds::new(),
            wal_holds: RefCell::default(),
            poison: RefCell::default(),
            stuck: Cell::new(false),
            entries: Cell::new(0),
            idle_lanes: RefCell::default(),
            durable: Waiters::default(),
            witnessed: Waiters::default(),
            room: Notify::new(),
            wake_sealer: Notify::new(),
            wake_preparer: Notify::new(),
            wake_maintenance: Notify::new(),
        }
    }

    pub(super) fn place(&self, place: u64) -> SegmentPlace {
        SegmentPlace { journal: self.number, place }
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    /// A random 128-bit id.
    pub(super) fn random_id(&self) -> Id {
        let mut bytes = [0; 16];
        self.runtime.fill_random(&mut bytes);
        Id(bytes)
    }

    /// Refuses when the journal failed.
    pub(super) fn check_poison(&self) -> Result<(), JournalError> {
        match &*self.poison.borrow() {
            Some(poison) => Err(JournalError::Poisoned(poison.clone())),
            None => Ok(()),
        }
    }

    /// Keeps the first failure and refuses everybody from now on.
    pub(super) fn poison(&self, stage: &'static str, error: impl ToString) {
        let mut poison = self.poison.borrow_mut();
        if poison.is_none() {
            firn_core::marks::hit("journal.poisoned");
            let first = Poison { stage, error: error.to_string() };
            tracing::error!(journal = self.number.0, "journal failed, restart to recover: {first}");
            *poison = Some(first);
        }
        drop(poison);
        self.durable.wake_through(u64::MAX);
        self.witnessed.wake_through(u64::MAX);
        for notify in [&self.room, &self.wake_sealer, &self.wake_preparer, &self.wake_maintenance] {
            notify.notify_all();
        }
        self.idle_lanes.take().into_iter().for_each(Waker::wake);
    }

    /// Whether a start would replay no more than its bound if WAL were appended now.
    fn may_append(&self) -> bool {
        let may = self.ring.borrow().may_append(self.log.borrow().last_place());
        if !may {
            firn_core::marks::hit("journal.waits_for_snapshot");
        }
        may
    }

    /// Whether the ring has room for what is queued and `more_bytes` of WAL, and the reserve besides.
    fn has_room(&self, more_bytes: usize) -> bool {
        let ring = self.ring.borrow();
        let log = self.log.borrow();
        let segments = ring.available(self.options.segments_max) as u64;
        let room = log.room_bytes() + segments * self.options.segment_bytes;
        let wanted = (self.queue.borrow().bytes() + more_bytes) as u64;
        room > self.options.reserve_bytes() + self.options.close_below_bytes() + wanted
    }

    /// Whether a timeline's WAL can be taken now; `None`: wait.
    ///
    /// One that fills the ring waits for room, and in the queue, before others do: these go on meanwhile.
    pub(super) fn readiness(&self, key: TimelineKey) -> Option<Result<(), JournalError>> {
        if let Err(error) = self.check_poison() {
            return Some(Err(error));
        }
        if !self.has_room(self.options.queue_bytes_max) || !self.may_append() {
            return self.stuck.get().then_some(Err(JournalError::Full));
        }
        let mut queue_bytes_max = self.options.queue_bytes_max;
        let recent_bytes = self.queue.borrow_mut().recent_bytes(key);
        if recent_bytes >= self.options.bulk_bytes() {
            queue_bytes_max /= 2;
            // What cannot free space now will not free more: then the last of it is for all alike.
            if !self.stuck.get() && !self.has_headroom() {
                firn_core::marks::hit("journal.bulk_waits");
                return None;
            }
        }
        let queued = self.queue.borrow().bytes();
        (queued < queue_bytes_max).then_some(Ok(()))
    }

    /// Whether there is more room in the ring than appends need, and some of it in segments that are ready.
    fn has_headroom(&self) -> bool {
        let headroom_bytes = self.options.headroom_bytes();
        let ready = self.ring.borrow().spares.len() as u64 * self.options.segment_bytes;
        let ready = ready + self.log.borrow().room_bytes();
        let queue_bytes_max = self.options.queue_bytes_max;
        ready >= headroom_bytes && self.has_room(queue_bytes_max + headroom_bytes as usize)
    }

    /// Queues an entry. Only appends of WAL meet the bounds on queue and ring: they alone are many.
    pub(super) fn push(&self, entry: &Entry<'_>) -> Result<Ticket, JournalError> {
        self.check_poison()?;
        entry.check()?;
        let found = entry.encoded_bytes();
        let expected = self.options.entry_bytes_max();
        if found > expected {
            return Err(firn_core::journal::entry::EntryError::Long { expected, found }.into());
        }
        if matches!(entry, Entry::Change(_, Change::Append { .. })) {
            // Callers await `ready` before; one entry of each may come between.
            let expected = 2 * self.options.queue_bytes_max;
            let found = self.queue.borrow().bytes();
            if found > expected {
                return Err(JournalError::QueueFull { expected, found });
            }
            if !self.has_room(found) {
                self.wake_maintenance.notify_all();
                let stuck = self.stuck.get();
                return Err(if stuck { JournalError::Full } else { JournalError::NotReady });
            }
        }
        if self.queue.borrow().is_empty() {
            self.queued_since.set(Some(self.runtime.now()));
        }
        let ticket = self.queue.borrow_mut().push(entry);
        self.entries.set(self.entries.get() + 1);
        self.wake_lane();
        Ok(ticket)
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.get()
    }

    /// Lets one idle lane look for work.
    pub(super) fn wake_lane(&self) {
        let lane = self.idle_lanes.borrow_mut().pop();
        if let Some(lane) = lane {
            lane.wake();
        }
    }

    /// A frame was formed: how long its first entry waited.
    pub(super) fn note_formed(&self, now: MonotonicTime) {
        // What did not fit into the frame waits for the next from now on.
        let left = (!self.queue.borrow().is_empty()).then_some(now);
        if let Some(since) = self.queued_since.replace(left) {
            self.queue_latencies.record(now - since);
        }
    }

    /// The next write, as soon as there is one; `None` when the journal failed.
    pub(super) async fn next_work(&self) -> Option<Work> {
        poll_fn(|context| {
            if self.check_poison().is_err() {
                return Poll::Ready(None);
            }
            match self.find_work() {
                Some(work) => Poll::Ready(Some(work)),
                None => {
                    let mut idle = self.idle_lanes.borrow_mut();
                    if !idle.iter().any(|waker| waker.will_wake(context.waker())) {
                        idle.push(context.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether a lane would find something to write.
    pub(super) fn has_work(&self) -> bool {
        let log = self.log.borrow();
        log.may_submit() && (log.wants_write() || !self.queue.borrow().is_empty())
    }

    fn find_work(&self) -> Option<Work> {
        let mut log = self.log.borrow_mut();
        if !log.may_submit() {
            return None;
        }
        if let Some(place) = log.wants_segment() {
            return self.open_segment(&mut log, place);
        }
        let mut queue = self.queue.borrow_mut();
        let spare = || self.pool.borrow_mut().pop();
        let frame_bytes_max = self.options.frame_bytes_max;
        let spare = || spare().unwrap_or_else(|| Buffer::zeroed(frame_bytes_max));
        log.next_frame(&mut queue, &self.options, spare)
    }

    fn open_segment(&self, log: &mut Log, place: u64) -> Option<Work> {
        let mut ring = self.ring.borrow_mut();
        let Some(Spare { name, file }) = ring.spares.pop_front() else {
            self.wake_preparer.notify_all();
            return None;
        };
        firn_core::marks::hit("journal.began_segment");
        let header = log.next_header(self.options.segment_bytes, self.number, self.random_id());
        ring.used.insert(
            place,
            super::ring::Used {
                name,
                file: file.clone(),
                header,
                end_offset_bytes: firn_core::journal::segment::FRAMES_OFFSET_BYTES,
                closed: false,
            },
        );
        self.queue.borrow_mut().begin_segment();
        self.wake_preparer.notify_all();
        self.wake_maintenance.notify_all();
        Some(log.open_segment(file, header))
    }

    /// Notes a durable write and acknowledges what is in order.
    pub(super) fn complete(&self, number: u64, buffer: Buffer) {
        self.log.borrow_mut().complete(number, buffer);
        let mut acknowledged = false;
        loop {
            let next = self.log.borrow_mut().acknowledge();
            let Some(durable) = next else { break };
            acknowledged = true;
            if let Err(error) = self.apply(&durable) {
                self.poison("apply a durable frame", error);
                return;
            }
            self.keep_recent(durable);
        }
        let log = self.log.borrow();
        let (durable, witnessed) = (log.durable_through(), log.witnessed_through());
        let wants_seal = log.wants_seal();
        drop(log);
        if acknowledged {
            self.durable.wake_through(durable);
            self.witnessed.wake_through(witnessed);
            self.room.notify_all();
        }
        if wants_seal {
            self.wake_sealer.notify_all();
        }
    }

    /// Applies a durable frame's entries to the state, and to the index of its segment.
    fn apply(&self, durable: &Durable) -> Result<(), String> {
        let segment = self.place(durable.place);
        let frame = Frame::reread(&durable.buffer).map_err(|error| error.to_string())?;
        let place = FramePlace::of(&frame, durable.offset_bytes);
        let index = self.indexes.borrow_mut().entry(segment).or_default().clone();
        let mut index = index.borrow_mut();
        let mut state = self.state.borrow_mut();
        // One pass: each entry's CRC is checked on the way.
        for entry in frame.entries() {
            let (_, entry) = entry.map_err(|error| error.to_string())?;
            state.apply(&entry, segment).map_err(|error| error.to_string())?;
            index.add_entry(&entry, place);
            if let Entry::Change(key, Change::Delete) = entry {
                self.queue.borrow_mut().forget(key);
                self.wal_holds.borrow_mut().remove(&key);
            }
        }
        drop(state);
        let mut ring = self.ring.borrow_mut();
        let used = ring.used.get_mut(&durable.place).expect("a segment with frames is in use");
        used.end_offset_bytes = durable.offset_bytes + durable.buffer.len() as u64;
        if durable.closes_segment {
            used.closed = true;
            self.wake_maintenance.notify_all();
        }
        Ok(())
    }

    fn keep_recent(&self, durable: Durable) {
        let segment = self.place(durable.place);
        let Durable { offset_bytes, buffer, .. } = durable;
        let mut recent = self.recent.borrow_mut();
        recent.push_back(Recent { segment, offset_bytes, buffer });
        if recent.len() > RECENT_FRAMES {
            let oldest = recent.pop_front().map(|recent| recent.buffer);
            let full_size = |buffer: &Buffer| buffer.capacity() == self.options.frame_bytes_max;
            self.pool.borrow_mut().extend(oldest.filter(full_size));
        }
    }

    /// Waits for a ticket's frame.
    pub(super) async fn wait(&self, ticket: &Ticket, witnessed: bool) -> Result<(), JournalError> {
        poll_fn(|context| {
            let log = self.log.borrow();
            let (through, waiters) = match witnessed {
                false => (log.durable_through(), &self.durable),
                true => (log.witnessed_through(), &self.witnessed),
            };
            let sequence = ticket.sequence();
            if sequence.is_some_and(|sequence| sequence <= through) {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = self.check_poison() {
                return Poll::Ready(Err(error));
            }
            waiters.register(sequence, context.waker());
            Poll::Pending
        })
        .await
    }
}
