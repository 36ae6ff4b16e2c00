//! The data directory: which journals its shards write, and what happens when their number changes.
//!
//! A change writes complete snapshots for new journals that refer to the old ones' segments, flushes them all, and only
//! then switches `layout`. Before the switch the old epoch is whole, after it the new one is; whichever was not chosen
//! is removed at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use firn_core::journal::entry::{Entry, PreviousEnd};
use firn_core::journal::layout::{Layout, shard_of};
use firn_core::journal::segment::JournalNumber;
use firn_core::journal::snapshot::{self, SnapshotHead};
use firn_core::journal::state::ShardState;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::marks;
use firn_core::types::Id;

use super::error::OpenError;
use super::open::{OpenReport, journal_directory, look, other_journals, read_whole, recover};
use super::snapshots::{list_uses, snapshot_name};
use crate::runtime::{Buffer, OpenOptions, Runtime};

const LAYOUT: &str = "layout";
const LAYOUT_NEW: &str = "layout.new";

/// Reads the layout of a data directory, makes it for a new one, and changes it when the number of shards is another. To
/// be called once at start, before any journal is opened.
pub async fn open_layout(runtime: &Runtime, data: &Path, shards: u32) -> Result<Layout, OpenError> {
    let path = data.join(LAYOUT);
    let journals = journals(runtime, data).await?;
    if !runtime.exists(&path).await.map_err(OpenError::io("look for", &path))? {
        if !journals.is_empty() {
            return Err(OpenError::MissingLayout { path });
        }
        let layout = Layout::first(shards);
        write_layout(runtime, data, &layout).await?;
        return Ok(layout);
    }
    let layout = read_layout(runtime, &path).await?;
    if layout.journals.len() == shards as usize {
        clean_up(runtime, data, &layout, &journals).await?;
        return Ok(layout);
    }
    change_shards(runtime, data, &layout, shards, &journals).await
}

/// Recovers every journal of a data directory as a start would, and changes nothing: what each holds. A new directory has
/// none.
pub async fn inspect(
    runtime: &Runtime,
    data: &Path,
) -> Result<Vec<(JournalNumber, OpenReport)>, OpenError> {
    let path = data.join(LAYOUT);
    if !runtime.exists(&path).await.map_err(OpenError::io("look for", &path))? {
        let journals = journals(runtime, data).await?;
        return if journals.is_empty() {
            Ok(Vec::new())
        } else {
            Err(OpenError::MissingLayout { path })
        };
    }
    let mut reports = Vec::new();
    for journal in read_layout(runtime, &path).await?.journals {
        let directory = journal_directory(data, journal);
        // A first start that was cut short has written the layout only.
        if runtime.exists(&directory).await.map_err(OpenError::io("look for", &directory))? {
            let recovered = recover(&look(runtime, data, journal).await?).await?;
            reports.push((journal, OpenReport::new(&recovered)));
        }
    }
    Ok(reports)
}

async fn read_layout(runtime: &Runtime, path: &Path) -> Result<Layout, OpenError> {
    let options = OpenOptions::read().buffered();
    let file = runtime.open(path, options).await.map_err(OpenError::io("open", path))?;
    let bytes = read_whole(&file).await?;
    Layout::decode(&bytes).map_err(|error| OpenError::Format { path: path.to_path_buf(), error })
}

/// The journals that have a directory.
async fn journals(runtime: &Runtime, data: &Path) -> Result<BTreeSet<JournalNumber>, OpenError> {
    let entries = runtime.list_dir(data).await.map_err(OpenError::io("list", data))?;
    let numbers =
        entries.iter().filter_map(|entry| entry.name.strip_prefix("shard-")?.parse().ok());
    Ok(numbers.map(JournalNumber).collect())
}

/// Replaces the layout file atomically.
async fn write_layout(runtime: &Runtime, data: &Path, layout: &Layout) -> Result<(), OpenError> {
    let (new, path) = (data.join(LAYOUT_NEW), data.join(LAYOUT));
    let bytes = layout.encode();
    let written = async {
        let options = OpenOptions::read_write().create().truncate().buffered();
        let file = runtime.open(&new, options).await?;
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(&bytes);
        file.write_at(buffer, 0).await.0?;
        file.fdatasync().await?;
        runtime.rename(&new, &path).await?;
        runtime.sync_dir(data).await
    };
    written.await.map_err(OpenError::io("write", &path))
}

/// Moves all timelines to journals of a new epoch; their WAL stays where it is.
async fn change_shards(
    runtime: &Runtime,
    data: &Path,
    old: &Layout,
    shards: u32,
    journals: &BTreeSet<JournalNumber>,
) -> Result<Layout, OpenError> {
    let new = old.next(shards);
    // Left behind by a change that did not get to its switch.
    let unfinished = journals.iter().filter(|journal| **journal >= new.journals[0]);
    for journal in unfinished {
        marks::hit("journal.layout_switch_repeated");
        remove_journal(runtime, data, *journal).await?;
    }
    let (states, uses) = old_states(runtime, data, old).await?;
    for (index, journal) in new.journals.iter().enumerate() {
        let state = share_of(&states, index as u32, shards);
        write_first_snapshot(runtime, data, *journal, &state, &uses).await?;
    }
    marks::hit("journal.layout_about_to_switch");
    write_layout(runtime, data, &new).await?;
    marks::hit("journal.layout_switched");
    tracing::info!(epoch = new.epoch, shards, "the data directory's number of shards was changed");
    Ok(new)
}

/// A segment's use and where its frames end.
type Uses = BTreeMap<SegmentPlace, (Id, u64)>;

async fn old_states(
    runtime: &Runtime,
    data: &Path,
    old: &Layout,
) -> Result<(Vec<ShardState>, Uses), OpenError> {
    let mut states = Vec::new();
    let mut uses = Uses::new();
    for journal in &old.journals {
        let directory = journal_directory(data, *journal);
        runtime.create_dir_all(&directory).await.map_err(OpenError::io("create", &directory))?;
        let found = look(runtime, data, *journal).await?;
        let recovered = recover(&found).await?;
        for (place, segment) in &recovered.segments {
            let at = SegmentPlace { journal: *journal, place: *place };
            if let Some(end) = recovered.segment_ends.get(&at) {
                uses.insert(at, (segment.header.use_id, *end));
            }
        }
        let others = other_journals(runtime, data, *journal, found.input.snapshot.as_ref()).await?;
        for (segment, used) in others {
            uses.insert(segment, (used.header.use_id, used.end_offset_bytes));
        }
        let mut state = recovered.state;
        if recovered.corruption.is_some() {
            let previous = PreviousEnd { end: recovered.end, corrupt: true };
            let nowhere = SegmentPlace { journal: *journal, place: 0 };
            state
                .apply(&Entry::PreviousEnd(previous), nowhere)
                .expect("the end of a life follows any state");
        }
        states.push(state);
    }
    Ok((states, uses))
}

/// What of the old shards' states a new shard owns.
fn share_of(states: &[ShardState], shard: u32, shards: u32) -> ShardState {
    let mut share = ShardState::default();
    for state in states {
        share.lost_frames |= state.lost_frames;
        for (key, timeline) in &state.timelines {
            if shard_of(key.tenant_id, shards) == shard {
                share.timelines.insert(*key, timeline.clone());
            }
        }
        for (key, generation) in &state.tombstones {
            if shard_of(key.tenant_id, shards) == shard {
                share.tombstones.insert(*key, *generation);
            }
        }
    }
    share
}

async fn write_first_snapshot(
    runtime: &Runtime,
    data: &Path,
    journal: JournalNumber,
    state: &ShardState,
    uses: &Uses,
) -> Result<(), OpenError> {
    let head = SnapshotHead {
        journal,
        covers_through: 0,
        position: None,
        segments: list_uses(&state.segments(), uses),
    };
    let (bytes, _) = snapshot::encode(head, state);
    let directory = journal_directory(data, journal);
    let path = directory.join(snapshot_name(0));
    let written = async {
        runtime.create_dir_all(&directory).await?;
        let options = OpenOptions::read_write().create().truncate();
        let file = runtime.open(&path, options).await?;
        file.write_at(Buffer::padded_copy(&bytes), 0).await.0?;
        file.fdatasync().await?;
        for parent in directory.ancestors().take(3) {
            runtime.sync_dir(parent).await?;
        }
        Ok(())
    };
    written.await.map_err(OpenError::io("write", &path))
}

/// Removes journals of earlier epochs that no current one refers to.
async fn clean_up(
    runtime: &Runtime,
    data: &Path,
    layout: &Layout,
    journals: &BTreeSet<JournalNumber>,
) -> Result<(), OpenError> {
    let current: BTreeSet<JournalNumber> = layout.journals.iter().copied().collect();
    if journals.is_subset(&current) {
        return Ok(());
    }
    let mut needed = current.clone();
    for journal in current.intersection(journals) {
        let directory = journal_directory(data, *journal);
        if runtime.exists(&directory).await.map_err(OpenError::io("look for", &directory))? {
            let found = look(runtime, data, *journal).await?;
            needed.extend(found.input.other_journals.keys().map(|segment| segment.journal));
        }
    }
    for journal in journals.difference(&needed) {
        remove_journal(runtime, data, *journal).await?;
    }
    Ok(())
}

async fn remove_journal(
    runtime: &Runtime,
    data: &Path,
    journal: JournalNumber,
) -> Result<(), OpenError> {
    let path = data.join(format!("shard-{journal}"));
    runtime.remove_dir_all(&path).await.map_err(OpenError::io("remove", &path))?;
    runtime.sync_dir(data).await.map_err(OpenError::io("flush", data))
}
