//! Opening: recovery from the disk, then a life of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use firn_core::journal::entry::{Entry, PreviousEnd};
use firn_core::journal::recovery::{
    Corruption, Recovered, Recovery, RecoveryInput, SegmentFile, SegmentUse,
};
use firn_core::journal::segment::{HeaderBlock, JournalNumber, SegmentHeader};
use firn_core::journal::snapshot::Snapshot;
use firn_core::journal::wal_file::timeline_directory;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::journal::{BLOCK_BYTES, FormatError};
use firn_core::mutant::{self, Mutant};
use firn_core::types::Id;

use super::error::OpenError;
use super::log::Log;
use super::options::JournalOptions;
use super::queue::Queue;
use super::ring::{Ring, Used};
use super::shared::{Parts, Shared};
use super::snapshots::{self, SNAPSHOT_PREFIX};
use super::{lanes, maintenance, spares};
use crate::runtime::{Buffer, File, OpenOptions, Runtime, Task, TaskClass};

/// Bytes per read of a whole file.
const READ_BYTES: usize = 1 << 20;

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// Frames replayed behind the snapshot.
    pub replayed_frames: u64,
    /// Bytes of those frames.
    pub replayed_bytes: u64,
    /// Valid frames behind the cut: they were in flight when the process died.
    pub void_frames: u64,
    /// Acknowledged frames are gone: every timeline of the shard is suspect.
    pub corruption: Option<Corruption>,
}

impl OpenReport {
    pub(super) fn new(recovered: &Recovered) -> OpenReport {
        OpenReport {
            replayed_frames: recovered.replayed_frames,
            replayed_bytes: recovered.replayed_bytes,
            void_frames: recovered.void_frames,
            corruption: recovered.corruption.clone(),
        }
    }
}

/// The directory of a journal.
pub(super) fn journal_directory(data: &Path, number: JournalNumber) -> PathBuf {
    data.join(format!("shard-{number}")).join("journal")
}

/// What lies in a journal's directory.
pub(super) struct Found {
    pub(super) directory: PathBuf,
    /// Segment files by their place in the list that recovery numbers them by.
    pub(super) files: Vec<(String, File)>,
    pub(super) input: RecoveryInput,
}

/// Reads headers and the newest complete snapshot.
pub(super) async fn look(
    runtime: &Runtime,
    data: &Path,
    number: JournalNumber,
) -> Result<Found, OpenError> {
    let directory = journal_directory(data, number);
    let entries = runtime.list_dir(&directory).await.map_err(OpenError::io("list", &directory))?;
    let mut files = Vec::new();
    let mut segments = Vec::new();
    let mut snapshots = Vec::new();
    for entry in entries {
        let path = directory.join(&entry.name);
        if entry.name.starts_with(SNAPSHOT_PREFIX) {
            snapshots.push(path);
        } else if entry.name.starts_with("SEGMENT-") {
            let opened = runtime.open(&path, OpenOptions::read_write()).await;
            let file = opened.map_err(OpenError::io("open", &path))?;
            let block = read_header(&file).await?;
            segments.push(SegmentFile { file: files.len() as u32, block });
            files.push((entry.name, file));
        }
    }
    let snapshot = newest_snapshot(runtime, snapshots).await?;
    let other_journals = other_journals(runtime, data, number, snapshot.as_ref()).await?;
    let uses = other_journals.iter().map(|(segment, used)| (*segment, used.header.use_id));
    let input =
        RecoveryInput { journal: number, segments, snapshot, other_journals: uses.collect() };
    Ok(Found { directory, files, input })
}

async fn read_header(file: &File) -> Result<HeaderBlock, OpenError> {
    let (result, buffer) = file.read_at(Buffer::zeroed(BLOCK_BYTES), 0).await;
    let count = result.map_err(OpenError::io("read", file.path()))?;
    if count < BLOCK_BYTES {
        // Made, but not yet filled when the process died: it never had a use.
        return Ok(HeaderBlock::Blank);
    }
    let format = |error| OpenError::Format { path: file.path().to_path_buf(), error };
    SegmentHeader::decode(&buffer).map_err(format)
}

/// The newest snapshot that is complete; torn ones are passed over.
async fn newest_snapshot(
    runtime: &Runtime,
    mut paths: Vec<PathBuf>,
) -> Result<Option<Snapshot>, OpenError> {
    // Names end in the sequence, in hex of fixed width.
    paths.sort();
    for path in paths.into_iter().rev() {
        let file = runtime.open(&path, OpenOptions::read()).await;
        let bytes = read_whole(&file.map_err(OpenError::io("open", &path))?).await?;
        match Snapshot::decode(&bytes) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error @ FormatError::Version { .. }) => {
                return Err(OpenError::Format { path, error });
            }
            Err(error) => {
                firn_core::marks::hit("journal.torn_snapshot");
                tracing::warn!("{} is not complete and passed over: {error}", path.display());
            }
        }
    }
    Ok(None)
}

pub(super) async fn read_whole(file: &File) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    let mut buffer = Buffer::zeroed(READ_BYTES);
    loop {
        let (result, returned) = file.read_at(buffer, bytes.len() as u64).await;
        let count = result.map_err(OpenError::io("read", file.path()))?;
        bytes.extend_from_slice(&returned[..count]);
        if count < READ_BYTES {
            return Ok(bytes);
        }
        buffer = returned;
    }
}

/// Segments of journals of earlier epochs that the snapshot lists.
pub(super) async fn other_journals(
    runtime: &Runtime,
    data: &Path,
    number: JournalNumber,
    snapshot: Option<&Snapshot>,
) -> Result<BTreeMap<SegmentPlace, Used>, OpenError> {
    let listed = snapshot.map(|snapshot| &snapshot.head.segments[..]).unwrap_or_default();
    let foreign = listed.iter().filter(|listed| listed.segment.journal != number);
    let ends: BTreeMap<_, _> =
        foreign.map(|listed| (listed.segment, listed.end_offset_bytes)).collect();
    let journals: BTreeSet<JournalNumber> = ends.keys().map(|segment| segment.journal).collect();
    let mut found = BTreeMap::new();
    for journal in journals {
        let directory = journal_directory(data, journal);
        let entries =
            runtime.list_dir(&directory).await.map_err(OpenError::io("list", &directory))?;
        for entry in entries.into_iter().filter(|entry| entry.name.starts_with("SEGMENT-")) {
            let path = directory.join(&entry.name);
            let opened = runtime.open(&path, OpenOptions::read()).await;
            let file = opened.map_err(OpenError::io("open", &path))?;
            let HeaderBlock::Valid(header) = read_header(&file).await? else { continue };
            let segment = SegmentPlace { journal, place: header.place };
            if let Some(end) = ends.get(&segment) {
                let (name, end_offset_bytes) = (entry.name, *end);
                found.insert(segment, Used { name, file, header, end_offset_bytes, closed: true });
            }
        }
    }
    Ok(found)
}

/// Runs recovery over what was found.
pub(super) async fn recover(found: &Found) -> Result<Recovered, OpenError> {
    let directory = &found.directory;
    let failed = |error| OpenError::Recovery { directory: directory.clone(), error };
    let mut recovery = Recovery::new(found.input.clone()).map_err(failed)?;
    while let Some(file) = recovery.wanted() {
        firn_core::marks::hit("journal.recovering");
        let bytes = read_whole(&found.files[file as usize].1).await?;
        recovery.segment(&bytes).map_err(failed)?;
    }
    Ok(recovery.finish())
}

/// A journal that runs, and its tasks.
pub(super) struct Opened {
    pub(super) shared: Rc<Shared>,
    pub(super) tasks: Vec<Task<()>>,
    pub(super) report: OpenReport,
}

/// Recovers and begins a new life. When this returns, the life's first frame is durable.
pub(super) async fn open(
    runtime: &Runtime,
    data: &Path,
    number: JournalNumber,
    options: JournalOptions,
) -> Result<Opened, OpenError> {
    options.check()?;
    let directory = journal_directory(data, number);
    runtime.create_dir_all(&directory).await.map_err(OpenError::io("create", &directory))?;
    for parent in directory.ancestors().take(3) {
        runtime.sync_dir(parent).await.map_err(OpenError::io("flush", parent))?;
    }
    let found = look(runtime, data, number).await?;
    let recovered = recover(&found).await?;
    let foreign = other_journals(runtime, data, number, found.input.snapshot.as_ref()).await?;
    let report = OpenReport::new(&recovered);
    say(number, &report);
    let (ring, unused) = sort_files(&found, &recovered, &options, foreign);
    remove_unused(runtime, &found.directory, &unused).await?;
    let mut ring = first_segment(runtime, &options, &directory, ring).await?;

    let mut life_id = Id::default();
    if !mutant::active(Mutant::DropLifeId) {
        runtime.fill_random(&mut life_id.0);
    }
    let mut log = Log::new(&recovered, life_id);
    if mutant::active(Mutant::WriteBehindCut)
        && let Some(end) = recovered.end
    {
        log.write_behind_cut(&mut ring, end, &options);
    }
    let parts = Parts {
        runtime: runtime.clone(),
        number,
        data: data.to_path_buf(),
        directory,
        queue: Queue::new(&options, recovered.last_sequence + 1),
        log,
        ring,
        state: recovered.state.clone(),
        options,
    };
    let shared = Rc::new(Shared::new(parts));
    find_wal_files(&shared).await?;
    let mut tasks = lanes::start(&shared);
    let corrupt = recovered.corruption.is_some();
    let previous = PreviousEnd { end: recovered.end, corrupt };
    let ticket = shared.push(&Entry::PreviousEnd(previous))?;
    shared.wait(&ticket, true).await?;
    if corrupt {
        keep_for_people(&shared, &found, &recovered).await?;
    }
    let background = [
        runtime.spawn(TaskClass::Background, spares::prepare(shared.clone())),
        runtime.spawn(TaskClass::Background, maintenance::maintain(shared.clone())),
    ];
    tasks.extend(background);
    Ok(Opened { shared, tasks, report })
}

fn say(number: JournalNumber, report: &OpenReport) {
    let OpenReport { replayed_frames, replayed_bytes, void_frames, corruption } = report;
    match corruption {
        None => tracing::info!(
            journal = number.0,
            replayed_frames,
            replayed_bytes,
            void_frames,
            "journal recovered"
        ),
        Some(corruption) => tracing::error!(
            journal = number.0,
            "journal lost acknowledged frames, its timelines must be re-seeded: {corruption}"
        ),
    }
}

/// Sorts segment files into those in use, those that may be used again, and those of no use.
fn sort_files(
    found: &Found,
    recovered: &Recovered,
    options: &JournalOptions,
    foreign: BTreeMap<SegmentPlace, Used>,
) -> (Ring, Vec<String>) {
    // Counted from this life's first segment: its first snapshot is taken at once.
    let mut ring = Ring { foreign, snapshot_place: recovered.next_place, ..Ring::default() };
    let mut unused = Vec::new();
    // The snapshot goes on to need what it lists, also where the frames behind it moved that WAL elsewhere.
    let mut needed = recovered.state.segments();
    let snapshot = found.input.snapshot.as_ref();
    needed.extend(
        snapshot.iter().flat_map(|found| &found.head.segments).map(|listed| listed.segment),
    );
    let mut in_use = BTreeMap::new();
    for (place, SegmentUse { file, header }) in &recovered.segments {
        let segment = SegmentPlace { journal: header.journal, place: *place };
        let counts = recovered.segment_ends.get(&segment).copied();
        let replayed = *place >= recovered.replay_place;
        if let Some(end_offset_bytes) = counts.filter(|_| replayed || needed.contains(&segment)) {
            in_use.insert(*file, (*header, end_offset_bytes));
        }
    }
    let corrupt = recovered.corruption.is_some();
    for (index, (name, file)) in found.files.iter().enumerate() {
        let number = name.rsplit('-').next().and_then(|digits| digits.parse::<u32>().ok());
        ring.next_file = ring.next_file.max(number.map_or(0, |number| number + 1));
        let block = &found.input.segments[index].block;
        if let Some((header, end_offset_bytes)) = in_use.get(&(index as u32)) {
            let used = Used {
                name: name.clone(),
                file: file.clone(),
                header: *header,
                end_offset_bytes: *end_offset_bytes,
                closed: true,
            };
            ring.used.insert(header.place, used);
        } else if corrupt && *block != HeaderBlock::Blank {
            // What is void or rotten may help people to repair; nothing is written over it.
            continue;
        } else if matches!(block, HeaderBlock::Valid(header) if header.segment_bytes == options.segment_bytes)
        {
            ring.free.push(name.clone());
        } else {
            unused.push(name.clone());
        }
    }
    (ring, unused)
}

async fn remove_unused(
    runtime: &Runtime,
    directory: &Path,
    names: &[String],
) -> Result<(), OpenError> {
    for name in names {
        let path = directory.join(name);
        runtime.remove_file(&path).await.map_err(OpenError::io("remove", &path))?;
    }
    Ok(())
}

/// The new life needs one segment before anything else runs.
async fn first_segment(
    runtime: &Runtime,
    options: &JournalOptions,
    directory: &Path,
    mut ring: Ring,
) -> Result<Ring, OpenError> {
    let spare = match ring.free.pop() {
        Some(name) => {
            let path = directory.join(&name);
            let opened = runtime.open(&path, OpenOptions::read_write()).await;
            super::ring::Spare { name, file: opened.map_err(OpenError::io("open", &path))? }
        }
        None => {
            let name = spares::segment_name(ring.next_file);
            ring.next_file += 1;
            let made = spares::make_segment(runtime, options, directory, name).await;
            made.map_err(OpenError::io("make a segment in", directory))?
        }
    };
    ring.spares.push_back(spare);
    Ok(ring)
}

/// Lists the files of moved WAL; those that the journal names must be there.
async fn find_wal_files(shared: &Shared) -> Result<(), OpenError> {
    let keys: Vec<_> = shared.state.borrow().timelines.keys().copied().collect();
    for key in keys {
        let directory = shared.data.join(timeline_directory(key));
        if !shared
            .runtime
            .exists(&directory)
            .await
            .map_err(OpenError::io("look for", &directory))?
        {
            continue;
        }
        let entries = shared.runtime.list_dir(&directory).await;
        let entries = entries.map_err(OpenError::io("list", &directory))?;
        let names = entries.into_iter().map(|entry| (key, entry.name));
        shared.wal_files.borrow_mut().extend(names);
    }
    let needed = snapshots::wal_files(shared, &shared.state.borrow());
    let found = shared.wal_files.borrow();
    match needed.difference(&found).next() {
        None => Ok(()),
        Some((key, name)) => {
            let path = shared.data.join(timeline_directory(*key)).join(name);
            Err(OpenError::MissingWalFile { path })
        }
    }
}

/// Renames what recovery found rotten or void beside a corruption, so that the next start does not find it again.
async fn keep_for_people(
    shared: &Shared,
    found: &Found,
    recovered: &Recovered,
) -> Result<(), OpenError> {
    let used: BTreeSet<String> = {
        let ring = shared.ring.borrow();
        let spares = ring.spares.iter().map(|spare| spare.name.clone());
        let used = ring.used.values().map(|used| used.name.clone());
        used.chain(spares).chain(ring.free.iter().cloned()).collect()
    };
    for (index, (name, _)) in found.files.iter().enumerate() {
        let blank = found.input.segments[index].block == HeaderBlock::Blank;
        if used.contains(name) || blank {
            continue;
        }
        let (from, to) = (shared.path(name), shared.path(format!("DAMAGED-{name}")));
        shared.runtime.rename(&from, &to).await.map_err(OpenError::io("rename", &from))?;
    }
    let directory = &shared.directory;
    shared.runtime.sync_dir(directory).await.map_err(OpenError::io("flush", directory))?;
    tracing::warn!(
        journal = shared.number.0,
        rotten = recovered.damaged_files.len(),
        "files that may help a repair are kept as DAMAGED-*"
    );
    Ok(())
}
