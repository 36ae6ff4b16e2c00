//! `firn journal`: what a stopped node's journals hold, and whether anything acknowledged is missing (reads only); and
//! `repair`, which asks running nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use firn_core::journal::inspect::{Item, items, repair_report};
use firn_core::journal::layout::Layout;
use firn_core::journal::recovery::{Recovered, Recovery, RecoveryInput, SegmentFile};
use firn_core::journal::segment::{HeaderBlock, JournalNumber, SegmentHeader};
use firn_core::journal::snapshot::Snapshot;
use firn_core::journal::wal_place::SegmentPlace;
use firn_core::journal::{BLOCK_BYTES, FormatError};
use firn_core::types::Id;
use repair::RepairArguments;
use rustix::fs::{FlockOperation, flock};

mod repair;

/// Journals.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Show every segment, frame and entry.
    Dump(JournalArguments),
    /// Recover each journal as a start would, without changing anything, and say what is missing.
    Verify(JournalArguments),
    /// Show what running nodes have not repaired yet after a loss, and wait until they have.
    Repair(RepairArguments),
}

/// Which journals.
#[derive(Debug, Args)]
pub struct JournalArguments {
    /// The data directory of a node that does not run.
    #[arg(long)]
    data: PathBuf,
    /// Only the journal of this shard.
    #[arg(long)]
    shard: Option<usize>,
}

/// What to do with a stopped node's journals.
enum Work {
    Dump,
    Verify,
}

impl JournalCommand {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let (arguments, work) = match &self {
            JournalCommand::Dump(arguments) => (arguments, Work::Dump),
            JournalCommand::Verify(arguments) => (arguments, Work::Verify),
            JournalCommand::Repair(arguments) => return repair::run(arguments),
        };
        let _lock = lock(&arguments.data)?;
        let journals = arguments.journals()?;
        match work {
            Work::Dump => dump(arguments, &journals),
            Work::Verify => verify(arguments, &journals),
        }
    }
}

/// Takes the lock that a running node holds.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let file = File::open(&path)
        .with_context(|| format!("{} is no node's data directory: no lock", data.display()))?;
    flock(&file, FlockOperation::NonBlockingLockShared)
        .with_context(|| format!("{} is in use: stop the node first", data.display()))?;
    Ok(file)
}

impl JournalArguments {
    fn journals(&self) -> Result<Vec<JournalNumber>> {
        let path = self.data.join("layout");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let layout = Layout::decode(&bytes).with_context(|| path.display().to_string())?;
        match self.shard {
            None => Ok(layout.journals),
            Some(shard) => {
                let shards = layout.journals.len();
                let journal = layout.journals.get(shard);
                Ok(vec![*journal.with_context(|| format!("there are {shards} shards, from 0 on"))?])
            }
        }
    }

    fn directory(&self, journal: JournalNumber) -> PathBuf {
        self.data.join(format!("shard-{:03}", journal.0)).join("journal")
    }

    /// The segment files of a journal with their headers.
    fn segments(&self, journal: JournalNumber) -> Result<Vec<(PathBuf, HeaderBlock)>> {
        let mut found = Vec::new();
        for path in list(&self.directory(journal), "SEGMENT-")? {
            found.push((path.clone(), read_header(&path)?));
        }
        Ok(found)
    }
}

fn dump(arguments: &JournalArguments, journals: &[JournalNumber]) -> Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    let written =
        journals.iter().try_for_each(|journal| dump_journal(arguments, *journal, &mut output));
    match written.and_then(|()| Ok(output.flush()?)) {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn dump_journal(
    arguments: &JournalArguments,
    journal: JournalNumber,
    output: &mut impl Write,
) -> Result<()> {
    let mut used = Vec::new();
    for (path, block) in arguments.segments(journal)? {
        match block {
            HeaderBlock::Valid(header) => used.push((header, path)),
            HeaderBlock::Blank => writeln!(output, "{}: never used", path.display())?,
            HeaderBlock::Damaged(error) => writeln!(output, "{}: {error}", path.display())?,
        }
    }
    used.sort_by_key(|(header, _)| header.place);
    for (header, path) in used {
        writeln!(
            output,
            "{}: place {}, from frame {}, life {}, use {}",
            path.display(),
            header.place,
            header.first_sequence,
            header.life_id,
            header.use_id
        )?;
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for item in items(&header, &bytes) {
            match item {
                Item::Frame { offset_bytes, header, entries } => {
                    writeln!(
                        output,
                        "  {offset_bytes:>10} frame {} ({} bytes, durable through {})",
                        header.sequence, header.frame_bytes, header.durable_through
                    )?;
                    for entry in entries {
                        writeln!(output, "             {entry}")?;
                    }
                }
                Item::Gap { offset_bytes, bytes } => {
                    writeln!(output, "  {offset_bytes:>10} no frame of this use in {bytes} bytes")?;
                }
            }
        }
    }
    Ok(())
}

fn verify(arguments: &JournalArguments, journals: &[JournalNumber]) -> Result<()> {
    let mut corrupt = 0;
    for journal in journals {
        let recovered = recover(arguments, *journal)
            .with_context(|| arguments.directory(*journal).display().to_string())?;
        println!(
            "journal {}: {} timelines, through frame {}; replayed {} frames ({} bytes), {} in flight when it ended",
            journal.0,
            recovered.state.timelines.len(),
            recovered.last_sequence,
            recovered.replayed_frames,
            recovered.replayed_bytes,
            recovered.void_frames
        );
        let report = repair_report(&recovered);
        if let Some(finding) = &report.finding {
            corrupt += 1;
            println!("  acknowledged data is missing: {finding}");
        }
        for key in &report.suspect_timelines {
            println!(
                "  {key} neither votes nor appends until the node, once started, has re-seeded it from the other members"
            );
        }
        if report.lost_frames {
            println!(
                "  timelines that are not known here may have been in what was lost: they are not created anew"
            );
        }
    }
    ensure!(corrupt == 0, "{corrupt} of {} journals lost acknowledged data", journals.len());
    Ok(())
}

/// Recovery as a start does it, over files that nobody writes.
fn recover(arguments: &JournalArguments, journal: JournalNumber) -> Result<Recovered> {
    let files = arguments.segments(journal)?;
    let segments = files.iter().enumerate();
    let segments = segments
        .map(|(number, (_, block))| SegmentFile { file: number as u32, block: block.clone() })
        .collect();
    let snapshot = newest_snapshot(&arguments.directory(journal))?;
    let other_journals = match &snapshot {
        Some(snapshot) => other_journals(arguments, journal, snapshot)?,
        None => BTreeMap::new(),
    };
    let mut recovery =
        Recovery::new(RecoveryInput { journal, segments, snapshot, other_journals })?;
    while let Some(file) = recovery.wanted() {
        let path = &files[file as usize].0;
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        recovery.segment(&bytes)?;
    }
    Ok(recovery.finish())
}

/// The newest snapshot that is complete; their names end in the sequence, in hex of fixed width.
fn newest_snapshot(directory: &Path) -> Result<Option<Snapshot>> {
    for path in list(directory, "SNAPSHOT-")?.into_iter().rev() {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match Snapshot::decode(&bytes) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error @ FormatError::Version { .. }) => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Err(error) => println!("{} is not complete: {error}", path.display()),
        }
    }
    Ok(None)
}

/// The segments of earlier epochs' journals that a snapshot lists, as far as they are there.
fn other_journals(
    arguments: &JournalArguments,
    journal: JournalNumber,
    snapshot: &Snapshot,
) -> Result<BTreeMap<SegmentPlace, Id>> {
    let listed: BTreeSet<SegmentPlace> =
        snapshot.head.segments.iter().map(|listed| listed.segment).collect();
    let foreign = listed.iter().map(|segment| segment.journal).filter(|other| *other != journal);
    let mut found = BTreeMap::new();
    for other in foreign.collect::<BTreeSet<_>>() {
        for (_, block) in arguments.segments(other)? {
            let HeaderBlock::Valid(header) = block else { continue };
            let segment = SegmentPlace { journal: other, place: header.place };
            if listed.contains(&segment) {
                found.insert(segment, header.use_id);
            }
        }
    }
    Ok(found)
}

/// The first block of a segment file; a file shorter than that was made and never used.
fn read_header(path: &Path) -> Result<HeaderBlock> {
    use std::io::Read;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(BLOCK_BYTES as u64)
        .read_to_end(&mut block)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if block.len() < BLOCK_BYTES {
        return Ok(HeaderBlock::Blank);
    }
    SegmentHeader::decode(&block).with_context(|| path.display().to_string())
}

/// The files of a directory whose names begin with `prefix`, sorted.
fn list(directory: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
