//! The journal of one shard: makes entries durable, reads WAL back, recovers. `firn_core::journal` says what is on the
//! disk and what it means; here it is written and read.
//!
//! All of it lives on the shard's thread. [`Journal`] is a handle; its tasks are eight *lanes* that carry frames to the
//! device, the *sealer*, the *preparer* (ready segments) and the *maintenance* (trims, moves, snapshots, recycling).
//!
//! Invariants: nothing is acknowledged before it and all before it are durable; after a failed write or flush nothing is
//! acknowledged at all; nothing is ever written behind a cut; the state is that of the durable frames, in order.
//!
//! Budget of an append in steady state: one copy of its bytes (into the forming frame), two passes of CRC32C at encoding
//! (entry, frame) and one when the frame is durable (entry), no allocation; three look-ups in ordered maps. A frame is one
//! `write_durable_at` (RWF_DSYNC: one submission, one completion, one enter), no allocation, no task; appends that come
//! together, of however many timelines, share it. A timeline over its share of a frame costs a second copy and two
//! allocations per entry. A waiter costs one waker. A seal is a frame of 4 KiB, at most one per idle millisecond.
//! `tests/journal_budget.rs` counts all of this. Reads of recent WAL cost one copy, older ones one device read per frame.
//! A segment that leaves the ring is read once, in windows of two frames, and held in memory until it is empty; its live
//! bytes are copied once and pass CRC32C three times (frame, entry, piece of the raw file).
//!
//! Read first: `shared.rs` (an entry's way in and its acknowledgement), `log.rs` (the order of frames), `queue.rs`
//! (forming), then `open.rs`, `maintenance.rs` with `mover.rs`, `segment_wal.rs` and `snapshots.rs`, `reader.rs`.

mod data_directory;
mod error;
mod index;
mod lanes;
mod log;
mod maintenance;
mod mover;
mod open;
mod options;
mod progress;
mod queue;
mod reader;
mod ring;
mod segment_wal;
mod shared;
mod snapshots;
mod spares;

use std::cell::{Ref, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use firn_core::consensus::change::Change;
use firn_core::journal::entry::{Entry, LayerEdit};
use firn_core::journal::segment::JournalNumber;
use firn_core::journal::state::{LAYER_EDITS_BYTES_MAX, ShardState};
use firn_core::types::{Lsn, TimelineKey};

pub use data_directory::{inspect, open_layout};
pub use error::{JournalError, OpenError, Poison};
pub use open::OpenReport;
pub use options::{JournalOptions, OptionsError};
pub use progress::Ticket;
pub use reader::READ_BYTES_MAX;

use crate::latencies::Latencies;
use crate::runtime::{Runtime, Task};
use shared::Shared;

/// One shard's journal. Clones are the same journal; it never leaves the shard's thread and runs until the shard ends.
#[derive(Clone)]
pub struct Journal {
    shared: Rc<Shared>,
    /// Timelines that there are when everything queued is durable.
    timelines: Rc<RefCell<BTreeSet<TimelineKey>>>,
    tasks: Rc<RefCell<Vec<Task<()>>>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.shared.number)
    }
}

impl Journal {
    /// Recovers a journal and begins a new life of it: its first frame is durable and witnessed when this returns.
    ///
    /// # Errors
    /// Files that cannot be read, belong to a newer program, or do not fit together. Nothing is lost by trying again.
    pub async fn open(
        runtime: &Runtime,
        data_directory: impl AsRef<Path>,
        number: JournalNumber,
        options: JournalOptions,
    ) -> Result<(Journal, OpenReport), OpenError> {
        let opened = open::open(runtime, data_directory.as_ref(), number, options).await?;
        let timelines = opened.shared.state.borrow().timelines.keys().copied().collect();
        let journal = Journal {
            shared: opened.shared,
            timelines: Rc::new(RefCell::new(timelines)),
            tasks: Rc::new(RefCell::new(opened.tasks)),
        };
        Ok((journal, opened.report))
    }

    /// Queues a change of a timeline; it is durable when the ticket is. Await [`Journal::ready`] before WAL.
    ///
    /// # Errors
    /// Nothing was queued: the journal failed, is full, or the change cannot be.
    pub fn append(&self, key: TimelineKey, change: Change<'_>) -> Result<Ticket, JournalError> {
        if self.is_suspect(key) && !matches!(change, Change::Delete) {
            return Err(JournalError::Suspect(key));
        }
        self.append_to_reseed(key, change)
    }

    /// As [`Journal::append`], also for a timeline that is suspect: its changes come from a majority of its other
    /// acceptors, and [`Journal::reseeded`] ends them.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn append_to_reseed(
        &self,
        key: TimelineKey,
        change: Change<'_>,
    ) -> Result<Ticket, JournalError> {
        let mut timelines = self.timelines.borrow_mut();
        let exists = timelines.contains(&key);
        match &change {
            Change::Create(create) => {
                let state = self.shared.state.borrow();
                let buried = state.tombstones.get(&key);
                let old = buried.is_some_and(|buried| *buried >= create.membership.generation);
                if exists || old || state.timelines.contains_key(&key) {
                    return Err(JournalError::TimelineExists(key));
                }
            }
            _ if !exists => return Err(JournalError::UnknownTimeline(key)),
            _ => {}
        }
        let change_of_map = match &change {
            Change::Create(_) => Some(true),
            Change::Delete => Some(false),
            _ => None,
        };
        let ticket = self.shared.push(&Entry::Change(key, change))?;
        match change_of_map {
            Some(true) => timelines.insert(key),
            Some(false) => timelines.remove(&key),
            None => false,
        };
        Ok(ticket)
    }

    /// The timeline was made whole again: votes and appends are taken from now on.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn reseeded(&self, key: TimelineKey) -> Result<Ticket, JournalError> {
        self.shared.push(&Entry::Reseeded(key))
    }

    /// Queues a change of the page store's layers; `replaces_all` when a manifest has all earlier ones.
    ///
    /// # Errors
    /// As [`Journal::append`], and when edits exceed their bound.
    pub fn layer_edit(
        &self,
        key: TimelineKey,
        replaces_all: bool,
        edit: &[u8],
    ) -> Result<Ticket, JournalError> {
        let state = self.shared.state.borrow();
        let timeline = state.timelines.get(&key).ok_or(JournalError::UnknownTimeline(key))?;
        let before = if replaces_all { 0 } else { timeline.layer_edits_bytes() };
        drop(state);
        let (expected, found) = (LAYER_EDITS_BYTES_MAX, before + edit.len());
        if found > expected || edit.len() > LayerEdit::BYTES_MAX {
            return Err(JournalError::LayerEdits { key, expected, found });
        }
        self.shared.push(&Entry::LayerEdit(key, LayerEdit { replaces_all, edit }))
    }

    /// Waits until WAL of a timeline can be appended: there is room in the queue and in the ring. A timeline that fills
    /// the ring leaves some of both to others.
    ///
    /// # Errors
    /// The journal failed, or it is full and cannot free space.
    pub async fn ready(&self, key: TimelineKey) -> Result<(), JournalError> {
        loop {
            let room = self.shared.room.notified();
            if let Some(result) = self.shared.readiness(key) {
                return result;
            }
            self.shared.wake_maintenance.notify_all();
            room.await;
        }
    }

    /// Waits until the entry, and everything before it, is durable.
    ///
    /// # Errors
    /// The journal failed before.
    pub async fn durable(&self, ticket: &Ticket) -> Result<(), JournalError> {
        self.shared.wait(ticket, false).await
    }

    /// Waits until the entry is durable and a later durable frame says so: what a vote, a term or a membership change
    /// is answered on. Takes at least a millisecond when nothing else is written.
    ///
    /// # Errors
    /// The journal failed before.
    pub async fn witnessed(&self, ticket: &Ticket) -> Result<(), JournalError> {
        self.shared.wait(ticket, true).await
    }

    /// Durable WAL from `from` on: what is there without a gap, at most `max_bytes` and [`READ_BYTES_MAX`]. Empty at the
    /// end of what is durable.
    ///
    /// # Errors
    /// The WAL is not here, cannot be read, or fails its CRC.
    pub async fn read_wal(
        &self,
        key: TimelineKey,
        from: Lsn,
        max_bytes: usize,
    ) -> Result<Vec<u8>, JournalError> {
        reader::read_wal(&self.shared, key, from, max_bytes).await
    }

    /// The durable state. Not to be held across an await.
    pub fn state(&self) -> Ref<'_, ShardState> {
        self.shared.state.borrow()
    }

    /// Whether the timeline may have lost acknowledged entries: it takes no votes and appends until it was re-seeded.
    pub fn is_suspect(&self, key: TimelineKey) -> bool {
        self.shared.state.borrow().is_suspect(key)
    }

    /// Says that `name` needs the timeline's WAL from `lsn` on, or none any more. WAL below the lowest hold is forgotten
    /// when its space is wanted; a timeline without holds keeps all. Holds are not durable: set them again at start.
    pub fn set_hold(&self, key: TimelineKey, name: &str, lsn: Option<Lsn>) {
        let mut holds = self.shared.wal_holds.borrow_mut();
        let of_timeline = holds.entry(key).or_default();
        match lsn {
            Some(lsn) => of_timeline.insert(name.to_string(), lsn),
            None => of_timeline.remove(name),
        };
        if of_timeline.is_empty() {
            holds.remove(&key);
        }
        if self.shared.stuck.get() {
            self.shared.wake_maintenance.notify_all();
        }
    }

    /// What the journal looks like now.
    pub fn status(&self) -> JournalStatus {
        let log = self.shared.log.borrow();
        let ring = self.shared.ring.borrow();
        JournalStatus {
            durable_through: log.durable_through(),
            witnessed_through: log.witnessed_through(),
            queue_bytes: self.shared.queue.borrow().bytes(),
            segments_used: ring.used.len(),
            segments_available: ring.available(self.shared.options.segments_max),
            moved_files: self.shared.wal_files.borrow().len(),
            cannot_free: self.shared.stuck.get(),
            poison: self.shared.check_poison().err().map(|error| error.to_string()),
        }
    }

    /// How long frames waited to be formed, and how long their writes took.
    pub fn latencies(&self) -> (&Latencies, &Latencies) {
        (&self.shared.queue_latencies, &self.shared.device_latencies)
    }

    /// Ends the journal's tasks. Everybody who still waits is refused; what was not acknowledged may be lost.
    pub async fn close(self) {
        self.shared.poison("run: the journal was closed", "no error");
        let tasks = self.tasks.take();
        for task in tasks {
            task.cancel().await;
        }
    }
}

/// Figures of one journal, for metrics and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStatus {
    /// Sequence through which all frames are durable.
    pub durable_through: u64,
    /// Sequence through which a durable frame says so.
    pub witnessed_through: u64,
    /// Bytes of entries not yet on their way to the device.
    pub queue_bytes: usize,
    /// Segments with frames that are needed.
    pub segments_used: usize,
    /// Segments that could still be opened.
    pub segments_available: usize,
    /// Raw WAL files.
    pub moved_files: usize,
    /// Space is wanted and could not be made.
    pub cannot_free: bool,
    /// Why the journal takes nothing.
    pub poison: Option<String>,
}

#[cfg(test)]
mod tests;
