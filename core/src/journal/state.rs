//! What a shard's journal adds up to.
//!
//! Invariant: the state is a function of the entries in order. The writer applies frames as they become durable,
//! recovery applies them as it reads them, and a snapshot is the same thing written down; so a timeline looks the same
//! after a crash as it did to the journal before it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rangemap::RangeMap;
use thiserror::Error;

use super::entry::{Entry, Forwarded, LayerEdit, Moved};
use super::wal_place::{SegmentPlace, WalPlace};
use crate::consensus::change::{Change, Create};
use crate::consensus::state::{ChangeError, TimelineState};
use crate::marks;
use crate::types::{Generation, Lsn, TimelineKey};

/// Bytes of layer edits that one timeline may gather between manifests: with [`WAL_RANGES_MAX`] it bounds a timeline's
/// part of a snapshot.
pub const LAYER_EDITS_BYTES_MAX: usize = 1 << 20;

/// Ranges of WAL in different places that one timeline may have: 64 GiB in moved pieces of 1 MiB. At the bound nothing
/// more is moved out of the ring for it, so the ring fills and appends wait.
pub const WAL_RANGES_MAX: usize = 65_536;

/// All that a shard's journal holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardState {
    /// The timelines. Shared, so that a snapshot can be written while they change.
    pub timelines: BTreeMap<TimelineKey, Rc<Timeline>>,
    /// Deleted timelines: the generation that they had. Only a higher one may begin anew under the key.
    pub tombstones: BTreeMap<TimelineKey, Generation>,
    /// Acknowledged frames were lost once: a timeline that is not in the map may have been in them.
    pub lost_frames: bool,
}

/// One timeline's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The acceptor's durable state.
    pub state: TimelineState,
    /// Where the live WAL lies; none of it at or past `state.write_lsn`.
    pub wal: RangeMap<Lsn, WalPlace>,
    /// Layer edits since the last manifest, oldest first.
    pub layer_edits: Vec<Rc<[u8]>>,
    /// The journal lost acknowledged frames and the timeline was not re-seeded since: no vote, no append.
    pub suspect: bool,
}

/// Entries that cannot follow the ones before them: a broken program wrote them, not a broken disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// The timeline is not there.
    #[error("{entry} entry for timeline {key}, which does not exist")]
    Unknown {
        /// Kind of entry.
        entry: &'static str,
        /// The timeline.
        key: TimelineKey,
    },
    /// A change that cannot follow the timeline's state.
    #[error("timeline {key}: {error}")]
    Change {
        /// The timeline.
        key: TimelineKey,
        /// Why.
        error: ChangeError,
    },
    /// The timeline is there already, or was there with as high a generation.
    #[error("create entry for timeline {key} in generation {found}, expected more than {expected}")]
    Exists {
        /// The timeline.
        key: TimelineKey,
        /// Generation of the existing timeline or its tombstone.
        expected: Generation,
        /// Generation in the entry.
        found: Generation,
    },
}

impl ShardState {
    /// Applies one entry of a frame in the segment `at`.
    pub fn apply(&mut self, entry: &Entry<'_>, at: SegmentPlace) -> Result<(), StateError> {
        match entry {
            Entry::Change(key, Change::Create(create)) => return self.create(*key, create),
            Entry::Change(key, change) => return self.change(*key, change, at),
            Entry::Moved(key, moved) => {
                self.edit(*key, |timeline| timeline.apply_moved(moved));
            }
            Entry::Forwarded(key, forwarded) => {
                self.edit(*key, |timeline| timeline.apply_forwarded(forwarded, at));
            }
            Entry::Trimmed(key, below) => {
                self.edit(*key, |timeline| remove(&mut timeline.wal, Lsn(0), *below));
            }
            Entry::LayerEdit(key, edit) => {
                self.edit(*key, |timeline| timeline.apply_layer_edit(edit));
            }
            Entry::Reseeded(key) => self.edit(*key, |timeline| timeline.suspect = false),
            Entry::PreviousEnd(previous) => {
                if previous.corrupt {
                    self.distrust();
                }
            }
            Entry::Snapshot(_) | Entry::Seal | Entry::End => {}
        }
        Ok(())
    }

    /// Whether nothing may rest on what this shard knows of the timeline.
    pub fn is_suspect(&self, key: TimelineKey) -> bool {
        self.timelines.get(&key).map_or(self.lost_frames, |timeline| timeline.suspect)
    }

    /// Every segment that holds live WAL.
    pub fn segments(&self) -> BTreeSet<SegmentPlace> {
        self.timelines.values().flat_map(|timeline| timeline.segments()).collect()
    }

    fn distrust(&mut self) {
        self.lost_frames = true;
        for timeline in self.timelines.values_mut() {
            Rc::make_mut(timeline).suspect = true;
        }
    }

    fn create(&mut self, key: TimelineKey, create: &Create) -> Result<(), StateError> {
        let found = create.membership.generation;
        let existing =
            self.timelines.get(&key).map(|timeline| timeline.state.membership.generation);
        let buried = self.tombstones.get(&key).copied().filter(|generation| *generation >= found);
        if let Some(expected) = existing.or(buried) {
            return Err(StateError::Exists { key, expected, found });
        }
        self.tombstones.remove(&key);
        let timeline = Timeline {
            state: TimelineState::create(create),
            wal: RangeMap::new(),
            layer_edits: Vec::new(),
            suspect: self.lost_frames,
        };
        self.timelines.insert(key, Rc::new(timeline));
        Ok(())
    }

    fn change(
        &mut self,
        key: TimelineKey,
        change: &Change<'_>,
        at: SegmentPlace,
    ) -> Result<(), StateError> {
        let entry = super::entry::change::name(change);
        let timeline = self.timelines.get_mut(&key).ok_or(StateError::Unknown { entry, key })?;
        if matches!(change, Change::Delete) {
            self.tombstones.insert(key, timeline.state.membership.generation);
            self.timelines.remove(&key);
            return Ok(());
        }
        let changed = Rc::make_mut(timeline).apply_change(change, at);
        changed.map_err(|error| StateError::Change { key, error })
    }

    /// Changes a timeline that may have been deleted after the entry's work had begun.
    fn edit(&mut self, key: TimelineKey, edit: impl FnOnce(&mut Timeline)) {
        if let Some(timeline) = self.timelines.get_mut(&key) {
            edit(Rc::make_mut(timeline));
        }
    }
}

impl Timeline {
    fn apply_change(&mut self, change: &Change<'_>, at: SegmentPlace) -> Result<(), ChangeError> {
        self.state.try_apply(change)?;
        match change {
            Change::Append { begin, end, .. } if begin < end => {
                self.wal.insert(*begin..*end, WalPlace::Ring(at));
            }
            Change::Elected { truncate_to, .. } => {
                remove(&mut self.wal, *truncate_to, Lsn(u64::MAX));
            }
            _ => {}
        }
        Ok(())
    }

    fn apply_moved(&mut self, moved: &Moved) {
        let target = &moved.target;
        self.relocate(moved.source, target.begin, target.end, WalPlace::File(*target));
    }

    fn apply_forwarded(&mut self, forwarded: &Forwarded<'_>, at: SegmentPlace) {
        let end = forwarded.begin + forwarded.wal.len() as u64;
        self.relocate(forwarded.source, forwarded.begin, end, WalPlace::Ring(at));
    }

    /// Moves what of `[begin, end)` still lies at `source`; what was cut off or rewritten meanwhile stays as it is.
    fn relocate(&mut self, source: WalPlace, begin: Lsn, end: Lsn, target: WalPlace) {
        if begin >= end {
            return;
        }
        let range = begin..end;
        let mut live_bytes = 0;
        let still_there: Vec<_> = self
            .wal
            .overlapping(&range)
            .filter(|(_, place)| **place == source)
            .map(|(found, _)| found.start.max(begin)..found.end.min(end))
            .collect();
        for part in still_there {
            live_bytes += part.end - part.start;
            self.wal.insert(part, target);
        }
        if live_bytes < end - begin {
            marks::hit("journal.moved_after_truncate");
        }
    }

    fn apply_layer_edit(&mut self, edit: &LayerEdit<'_>) {
        if edit.replaces_all {
            self.layer_edits.clear();
        }
        if !edit.edit.is_empty() {
            self.layer_edits.push(edit.edit.into());
        }
    }

    /// Bytes of layer edits since the last manifest.
    pub fn layer_edits_bytes(&self) -> usize {
        self.layer_edits.iter().map(|edit| edit.len()).sum()
    }

    /// The segments that hold live WAL of this timeline.
    pub fn segments(&self) -> impl Iterator<Item = SegmentPlace> {
        self.wal.iter().filter_map(|(_, place)| match place {
            WalPlace::Ring(segment) => Some(*segment),
            WalPlace::File(_) => None,
        })
    }

    /// The live ranges in one segment.
    pub fn ranges_in(&self, segment: SegmentPlace) -> impl Iterator<Item = std::ops::Range<Lsn>> {
        self.wal
            .iter()
            .filter(move |(_, place)| **place == WalPlace::Ring(segment))
            .map(|(range, _)| range.clone())
    }
}

fn remove(wal: &mut RangeMap<Lsn, WalPlace>, begin: Lsn, end: Lsn) {
    if begin < end {
        wal.remove(begin..end);
    }
}

#[cfg(test)]
mod tests;
