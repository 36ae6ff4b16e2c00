//! Writes snapshots: the state as of the last durable frame, in slices beside normal work.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use firn_core::journal::entry::{Entry, SnapshotName};
use firn_core::journal::snapshot::{ListedSegment, Position, SnapshotBuilder, SnapshotHead};
use firn_core::journal::state::ShardState;
use firn_core::journal::wal_place::{SegmentPlace, WalPlace};
use firn_core::marks;
use firn_core::types::Id;

use super::reader::file_name;
use super::shared::{Shared, WalFile};
use crate::runtime::{Buffer, OpenOptions};

/// Timelines encoded before others get a turn: some microseconds each.
const TIMELINES_PER_SLICE: usize = 64;

/// Bytes per write.
const WRITE_BYTES: usize = 256 << 10;

/// Room kept for a snapshot on a full disk.
const RESERVE: &str = "RESERVE";
/// Its size changes in such steps: a snapshot of some thousand timelines.
const RESERVE_STEP_BYTES: u64 = 1 << 20;

pub(super) const SNAPSHOT_PREFIX: &str = "SNAPSHOT-";

/// The name of a snapshot's file.
pub(super) fn snapshot_name(covers_through: u64) -> String {
    format!("{SNAPSHOT_PREFIX}{covers_through:016x}")
}

/// What a durable snapshot rests on.
pub(super) struct Taken {
    pub(super) position: Position,
    pub(super) segments: BTreeSet<SegmentPlace>,
    pub(super) wal_files: BTreeSet<WalFile>,
    pub(super) name: String,
    pub(super) file_bytes: u64,
}

/// Why there is no snapshot.
#[derive(Debug)]
pub(super) enum SnapshotError {
    /// The disk is full: the journal goes on with the previous one.
    Full(String),
    /// The journal failed.
    Poisoned,
}

/// Takes, writes and names a snapshot. `None`: nothing is durable in this life yet.
pub(super) async fn take(shared: &Shared) -> Result<Option<Taken>, SnapshotError> {
    let captured = {
        let log = shared.log.borrow();
        log.position().map(|position| (position, log.durable_through()))
    };
    let Some((position, covers_through)) = captured else { return Ok(None) };
    // Timelines are shared until they change: this is the state of exactly that moment.
    let state = shared.state.borrow().clone();
    let mut segments = state.segments();
    segments.insert(shared.place(position.place));
    let head = SnapshotHead {
        journal: shared.number,
        covers_through,
        position: Some(position),
        segments: listed(shared, &segments),
    };
    let wal_files = wal_files(shared, &state);
    let mut builder = SnapshotBuilder::new(head, &state);
    for (count, (key, timeline)) in state.timelines.iter().enumerate() {
        builder.push(*key, timeline);
        if count % TIMELINES_PER_SLICE == TIMELINES_PER_SLICE - 1 {
            shared.runtime.yield_now().await;
        }
    }
    drop(state);
    let (bytes, snapshot) = builder.finish();
    let name = snapshot_name(covers_through);
    write_on_full_disk(shared, &name, &bytes).await.map_err(|error| {
        if error.kind() == io::ErrorKind::StorageFull {
            return SnapshotError::Full(error.to_string());
        }
        shared.poison("write a snapshot", error);
        SnapshotError::Poisoned
    })?;
    announce(shared, snapshot).await?;
    Ok(Some(Taken { position, segments, wal_files, name, file_bytes: snapshot.file_bytes }))
}

/// Every segment that the snapshot needs, with the use of its file and where its frames that count end.
fn listed(shared: &Shared, segments: &BTreeSet<SegmentPlace>) -> Vec<ListedSegment> {
    let ring = shared.ring.borrow();
    let segments = segments.iter().filter_map(|segment| {
        let used = ring.get(*segment, shared.number)?;
        Some(ListedSegment {
            segment: *segment,
            use_id: used.header.use_id,
            end_offset_bytes: used.end_offset_bytes,
        })
    });
    segments.collect()
}

/// The files that hold moved WAL.
pub(super) fn wal_files(shared: &Shared, state: &ShardState) -> BTreeSet<WalFile> {
    let mut files = BTreeSet::new();
    for (key, timeline) in &state.timelines {
        for (range, place) in timeline.wal.iter() {
            if let WalPlace::File(piece) = place {
                files.insert((*key, file_name(shared, *key, piece, range.start)));
            }
        }
    }
    files
}

/// Gives up the reserve when the disk is full: without snapshots the ring could not free even what votes fill.
async fn write_on_full_disk(shared: &Shared, name: &str, bytes: &[u8]) -> io::Result<()> {
    match write(shared, name, bytes).await {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            marks::hit("journal.snapshot_from_reserve");
            match shared.runtime.remove_file(shared.path(RESERVE)).await {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Err(error),
                removed => removed?,
            }
            write(shared, name, bytes).await
        }
        written => written,
    }
}

/// Keeps room for the next snapshot, once the one before the last is gone. As good as the disk allows.
pub(super) async fn keep_reserve(shared: &Shared, snapshot_bytes: u64) {
    let wanted = (2 * snapshot_bytes).next_multiple_of(RESERVE_STEP_BYTES);
    let path = shared.path(RESERVE);
    let made = async {
        let file = shared.runtime.open(&path, OpenOptions::read_write().create()).await?;
        if file.len().await? < wanted {
            file.fallocate(0, wanted).await?;
        }
        io::Result::Ok(())
    };
    if made.await.is_err() {
        // Half a reserve is none, and takes room from those that ask for it next.
        let _ = shared.runtime.remove_file(&path).await;
    }
}

async fn write(shared: &Shared, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = shared.path(name);
    let options = OpenOptions::read_write().create().truncate();
    let file = shared.runtime.open(&path, options).await?;
    let mut at = 0;
    for part in bytes.chunks(WRITE_BYTES) {
        let written = file.write_at(Buffer::padded_copy(part), at).await.0;
        if let Err(error) = written {
            let _ = shared.runtime.remove_file(&path).await;
            return Err(error);
        }
        at += part.len() as u64;
        marks::hit("journal.snapshot_being_written");
        shared.runtime.yield_now().await;
    }
    file.fdatasync().await?;
    shared.runtime.sync_dir(&shared.directory).await
}

/// Names the snapshot in the journal: only then the one before it, and the frames after that, may go.
async fn announce(shared: &Shared, snapshot: SnapshotName) -> Result<(), SnapshotError> {
    let ticket = shared.push(&Entry::Snapshot(snapshot)).map_err(|_| SnapshotError::Poisoned)?;
    shared.wait(&ticket, false).await.map_err(|_| SnapshotError::Poisoned)
}

/// The use ids of segments, for a head that no running journal writes.
pub(super) fn list_uses(
    segments: &BTreeSet<SegmentPlace>,
    uses: &BTreeMap<SegmentPlace, (Id, u64)>,
) -> Vec<ListedSegment> {
    let listed = segments.iter().filter_map(|segment| {
        let (use_id, end_offset_bytes) = *uses.get(segment)?;
        Some(ListedSegment { segment: *segment, use_id, end_offset_bytes })
    });
    listed.collect()
}
