//! Keeps the ring turning: forgets WAL that nobody holds, moves live WAL out of old segments, takes snapshots, ends the
//! use of files.

use std::rc::Rc;
use std::time::Duration;

use firn_core::journal::entry::Entry;
use firn_core::journal::wal_file::timeline_directory;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::marks;
use firn_core::types::{Lsn, TimelineKey};
use futures_util::future::{Either, select};

use super::mover::{MoveError, Mover};
use super::options::JournalOptions;
use super::ring::SPARES;
use super::shared::Shared;
use super::snapshots::{self, SNAPSHOT_PREFIX, SnapshotError, Taken};

/// Segments that can be opened while old ones are emptied: a quarter of the ring besides the one that is being filled, at
/// least the ready ones and one more. Two of them are the reserve; appends go on in the others meanwhile.
fn low_water(options: &JournalOptions) -> usize {
    (options.segments_max / 4 + 1).max(SPARES + 1)
}

/// How long a full disk, an unreadable segment or a long read is left alone before the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long memory for moving WAL is kept for the next segment: a saturated ring empties several a second.
const KEEP_MEMORY: Duration = Duration::from_secs(1);

/// How a round ended.
enum Round {
    /// Nothing to do until something happens.
    Idle,
    /// Space is wanted and could not be made: why.
    Stuck(String),
    /// A read holds what should be freed: again soon.
    Held,
    Poisoned,
}

/// Runs until the journal fails.
pub(super) async fn maintain(shared: Rc<Shared>) {
    let mut mover = Mover::default();
    let mut snapshot: Option<Taken> = None;
    let mut was_stuck = false;
    loop {
        let woken = shared.wake_maintenance.notified();
        let round = round(&shared, &mut mover, &mut snapshot).await;
        let stuck = matches!(round, Round::Stuck(_));
        shared.stuck.set(stuck);
        if stuck || was_stuck {
            shared.room.notify_all();
        }
        match round {
            Round::Poisoned => return,
            Round::Idle => {
                let woken = std::pin::pin!(woken);
                let rested = std::pin::pin!(shared.runtime.sleep(KEEP_MEMORY));
                if let Either::Right((_, woken)) = select(woken, rested).await {
                    mover.rest();
                    woken.await;
                }
            }
            Round::Held => shared.runtime.sleep(RETRY_AFTER).await,
            Round::Stuck(reason) => {
                if !was_stuck {
                    marks::hit("journal.stuck");
                    tracing::warn!(
                        journal = shared.number.0,
                        "journal cannot free space: {reason}"
                    );
                }
                if shared.runtime.within(RETRY_AFTER, woken).await.is_some() {
                    // Something changed; but a full disk is not asked more often than this.
                    shared.runtime.sleep(RETRY_AFTER / 20).await;
                }
            }
        }
        was_stuck = stuck;
    }
}

async fn round(shared: &Shared, mover: &mut Mover, snapshot: &mut Option<Taken>) -> Round {
    if shared.check_poison().is_err() {
        return Round::Poisoned;
    }
    trim(shared);
    let mut unreadable = None;
    for segment in to_evacuate(shared) {
        match evacuate(shared, mover, segment, snapshot).await {
            Ok(()) => {}
            Err(MoveError::Poisoned) => return Round::Poisoned,
            Err(MoveError::Full(reason)) => {
                return free_and(shared, snapshot, Round::Stuck(reason)).await;
            }
            Err(MoveError::Unreadable(error)) => {
                tracing::error!(journal = shared.number.0, "wal stays where it is: {error}");
                unreadable = Some(error.to_string());
            }
        }
    }
    let end = match unreadable {
        Some(reason) if lacks_room(shared) => Round::Stuck(reason),
        _ => Round::Idle,
    };
    free_and(shared, snapshot, end).await
}

/// Empties a segment. It pauses whenever a snapshot is due, which appends may be waiting for.
async fn evacuate(
    shared: &Shared,
    mover: &mut Mover,
    segment: SegmentPlace,
    snapshot: &mut Option<Taken>,
) -> Result<(), MoveError> {
    let mut evacuating = std::pin::pin!(mover.evacuate(shared, segment));
    loop {
        let woken = std::pin::pin!(shared.wake_maintenance.notified());
        if let Either::Left((moved, _)) = select(evacuating.as_mut(), woken).await {
            return moved;
        }
        if take_due_snapshot(shared, snapshot).await.is_err() {
            // The end of the round tries again, and says why it fails.
            return evacuating.await;
        }
        if let Some(taken) = snapshot.as_ref() {
            free_segments(shared, taken);
        }
    }
}

/// Takes a snapshot when one is due.
async fn take_due_snapshot(shared: &Shared, snapshot: &mut Option<Taken>) -> Result<(), Round> {
    if !snapshot_is_due(shared, snapshot.as_ref()) {
        return Ok(());
    }
    match snapshots::take(shared).await {
        Ok(None) => Err(Round::Idle),
        Ok(Some(taken)) => {
            shared.ring.borrow_mut().snapshot_place = taken.position.place;
            if let Err(error) = remove_older(shared, &taken).await {
                shared.poison("remove an old snapshot", error);
                return Err(Round::Poisoned);
            }
            snapshots::keep_reserve(shared, taken.file_bytes).await;
            *snapshot = Some(taken);
            shared.room.notify_all();
            Ok(())
        }
        Err(SnapshotError::Poisoned) => Err(Round::Poisoned),
        Err(SnapshotError::Full(reason)) => Err(Round::Stuck(reason)),
    }
}

/// Takes a snapshot when one is due, frees what it no longer needs.
async fn free_and(shared: &Shared, snapshot: &mut Option<Taken>, end: Round) -> Round {
    if let Err(end) = take_due_snapshot(shared, snapshot).await {
        return end;
    }
    let Some(taken) = snapshot.as_ref() else { return end };
    let held = free_segments(shared, taken);
    match remove_wal_files(shared, taken).await {
        Ok(held_files) if matches!(end, Round::Idle) && (held || held_files) => Round::Held,
        Ok(_) => end,
        Err(error) => {
            shared.poison("remove a file of moved WAL", error);
            Round::Poisoned
        }
    }
}

/// Forgets WAL below the lowest hold, by whole WAL segments. Without a hold all is kept.
fn trim(shared: &Shared) {
    let holds = shared.wal_holds.borrow();
    let state = shared.state.borrow();
    let mut below: Vec<(TimelineKey, Lsn)> = Vec::new();
    for (key, holds) in holds.iter() {
        let Some(timeline) = state.timelines.get(key) else { continue };
        let Some(lowest) = holds.values().min() else { continue };
        let first = timeline.wal.first_range_value().map(|(range, _)| range.start);
        let to = lowest.min(&timeline.state.commit_lsn);
        let to = to.segment_start(u64::from(timeline.state.segment_size_bytes));
        if first.is_some_and(|first| first < to) {
            below.push((*key, to));
        }
    }
    drop((holds, state));
    for (key, lsn) in below {
        // Only a journal that failed refuses it.
        let _ = shared.push(&Entry::Trimmed(key, lsn));
    }
}

fn lacks_room(shared: &Shared) -> bool {
    lacks_room_for(&shared.ring.borrow(), shared)
}

/// Segments of earlier epochs, one at a time, and the oldest closed ones when the ring runs low.
fn to_evacuate(shared: &Shared) -> Vec<SegmentPlace> {
    let live = shared.state.borrow().segments();
    let ring = shared.ring.borrow();
    let mut segments: Vec<SegmentPlace> =
        live.iter().filter(|segment| segment.journal != shared.number).take(1).copied().collect();
    let available = ring.available(shared.options.segments_max);
    let wanted = low_water(&shared.options).saturating_sub(available);
    // One that is empty already waits for a snapshot, or for a read to end: others go on.
    let closed = ring.used.iter().filter(|(_, used)| used.closed);
    let places = closed.map(|(place, _)| shared.place(*place));
    segments.extend(places.filter(|segment| live.contains(segment)).take(wanted));
    segments
}

/// A snapshot is due when a segment was closed since the last one, or when there is none of this life.
fn snapshot_is_due(shared: &Shared, snapshot: Option<&Taken>) -> bool {
    let ring = shared.ring.borrow();
    let Some(taken) = snapshot else { return true };
    let newest_closed = ring.used.iter().rev().find(|(_, used)| used.closed);
    let segment_closed = newest_closed.is_some_and(|(place, _)| *place > taken.position.place)
        || ring
            .used
            .get(&taken.position.place)
            .is_some_and(|used| used.closed && taken.position.offset_bytes < used.end_offset_bytes);
    // Moves and trims since then show in the next one only: without it they free nothing.
    let freed = lacks_room_for(&ring, shared) && {
        let live = shared.state.borrow().segments();
        taken
            .segments
            .iter()
            .any(|segment| segment.place != taken.position.place && !live.contains(segment))
    };
    segment_closed || freed
}

fn lacks_room_for(ring: &super::ring::Ring, shared: &Shared) -> bool {
    ring.available(shared.options.segments_max) < low_water(&shared.options)
}

/// Ends the use of segments that the snapshot does not need. True when a read keeps one from it.
fn free_segments(shared: &Shared, taken: &Taken) -> bool {
    let mut ring = shared.ring.borrow_mut();
    let mut held = false;
    let dead: Vec<u64> = ring
        .used
        .keys()
        .take_while(|place| **place < taken.position.place)
        .filter(|place| !taken.segments.contains(&shared.place(**place)))
        .copied()
        .collect();
    let mut freed = false;
    for place in dead {
        let segment = shared.place(place);
        if shared.segment_reads.is_held(&segment) {
            marks::hit("journal.reader_on_segment_to_recycle");
            held = true;
            continue;
        }
        let used = ring.used.remove(&place).expect("it was found in the map");
        shared.indexes.borrow_mut().remove(&segment);
        // A file of another size than is wanted now is left to the next start, which removes it.
        if used.header.segment_bytes == shared.options.segment_bytes {
            ring.free.push(used.name);
        }
        freed = true;
    }
    drop(ring);
    if freed {
        marks::hit("journal.recycled_segment");
        shared.wake_preparer.notify_all();
        shared.room.notify_all();
    }
    held
}

async fn remove_older(shared: &Shared, taken: &Taken) -> std::io::Result<()> {
    for entry in shared.runtime.list_dir(&shared.directory).await? {
        if entry.name.starts_with(SNAPSHOT_PREFIX) && entry.name != taken.name {
            shared.runtime.remove_file(shared.path(&entry.name)).await?;
        }
    }
    Ok(())
}

/// Removes raw files whose WAL the snapshot no longer names. True when a read keeps one from it.
async fn remove_wal_files(shared: &Shared, taken: &Taken) -> std::io::Result<bool> {
    let live = snapshots::wal_files(shared, &shared.state.borrow());
    let dead: Vec<_> = {
        let known = shared.wal_files.borrow();
        known
            .iter()
            .filter(|file| !taken.wal_files.contains(*file) && !live.contains(*file))
            .cloned()
            .collect()
    };
    let mut held = false;
    for file in dead {
        if shared.file_reads.is_held(&file) {
            held = true;
            continue;
        }
        let (key, name) = &file;
        let path = shared.data.join(timeline_directory(*key)).join(name);
        match shared.runtime.remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => shared.wal_files.borrow_mut().remove(&file),
        };
    }
    Ok(held)
}
