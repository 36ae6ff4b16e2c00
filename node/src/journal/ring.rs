//! The segment files of one journal: which are in use, which are ready, which may be used again.
//!
//! Invariant: a file's use ends only when the newest durable snapshot neither lists it nor needs its frames, and no read
//! holds it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use firn_core::journal::segment::{JournalNumber, SegmentHeader};
use firn_core::journal::wal_place::SegmentPlace;

use crate::runtime::File;

/// Segments ready before they are needed: one that is opened next, one while the first is being filled.
pub(super) const SPARES: usize = 2;

/// A snapshot and two segments of frames are what a start replays at most.
pub(super) const REPLAY_SEGMENTS_MAX: u64 = 2;

/// A file that is in use.
#[derive(Debug, Clone)]
pub(super) struct Used {
    pub(super) name: String,
    pub(super) file: File,
    pub(super) header: SegmentHeader,
    /// Where its last frame that counts ends, as far as it is durable.
    pub(super) end_offset_bytes: u64,
    /// No frame will follow.
    pub(super) closed: bool,
}

/// A file that may be given a new use.
#[derive(Debug, Clone)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: File,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    /// By place.
    pub(super) used: BTreeMap<u64, Used>,
    /// Segments of other journals that this one's WAL lies in.
    pub(super) foreign: BTreeMap<SegmentPlace, Used>,
    /// Ready for use.
    pub(super) spares: VecDeque<Spare>,
    /// Names of files whose use has ended.
    pub(super) free: Vec<String>,
    /// Number for the next file that is made.
    pub(super) next_file: u32,
    /// Where a start would begin to replay this life's frames now.
    pub(super) snapshot_place: u64,
    /// No more space for files at the last attempt.
    pub(super) cannot_grow: bool,
}

impl Ring {
    /// Segment files that there are.
    pub(super) fn files(&self) -> usize {
        self.used.len() + self.spares.len() + self.free.len()
    }

    /// Segments that could still be opened.
    pub(super) fn available(&self, segments_max: usize) -> usize {
        let growth = if self.cannot_grow { 0 } else { segments_max.saturating_sub(self.files()) };
        self.spares.len() + self.free.len() + growth
    }

    /// Whether WAL in the segment at `place` stays within what a start replays. Only appends of WAL wait for a snapshot:
    /// moves and the snapshot's own entry must pass.
    pub(super) fn may_append(&self, place: u64) -> bool {
        place < self.snapshot_place + REPLAY_SEGMENTS_MAX
    }

    /// The use of a file that `segment` names; `own` is this journal.
    pub(super) fn get(&self, segment: SegmentPlace, own: JournalNumber) -> Option<&Used> {
        if segment.journal == own {
            self.used.get(&segment.place)
        } else {
            self.foreign.get(&segment)
        }
    }
}

/// What reads hold: neither a segment nor a file is reused or removed under a reader.
#[derive(Debug, Clone)]
pub(super) struct Holds<K: Ord>(Rc<RefCell<BTreeMap<K, usize>>>);

impl<K: Ord + Clone> Holds<K> {
    pub(super) fn new() -> Holds<K> {
        Holds(Rc::new(RefCell::new(BTreeMap::new())))
    }

    pub(super) fn hold(&self, key: K) -> Hold<K> {
        *self.0.borrow_mut().entry(key.clone()).or_default() += 1;
        Hold { holds: self.0.clone(), key }
    }

    pub(super) fn is_held(&self, key: &K) -> bool {
        self.0.borrow().contains_key(key)
    }
}

/// Ends a hold when dropped.
#[derive(Debug)]
pub(super) struct Hold<K: Ord> {
    holds: Rc<RefCell<BTreeMap<K, usize>>>,
    key: K,
}

impl<K: Ord> Drop for Hold<K> {
    fn drop(&mut self) {
        let mut holds = self.holds.borrow_mut();
        if let Some(count) = holds.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.key);
            }
        }
    }
}
