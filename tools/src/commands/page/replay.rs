//! `firn page replay`.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::slru::Slru;
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, effects, visibility_map};
use firn_core::postgres::wal::{BlockTag, Fork, Record, RelationId};
use firn_core::types::Lsn;

use super::{base, decoded, log};
use crate::commands::wal_dump::{describe, fork, relation};
use crate::wal_segments::WalSegments;

/// `firn page replay`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// A base backup (plain, not tar), or the data directory of a stopped server or a copy of one.
    #[arg(long)]
    base: PathBuf,
    /// WAL segment files, or directories of them. Without it those in the base's pg_wal.
    #[arg(long, num_args = 1..)]
    wal: Vec<PathBuf>,
    /// The relation: tablespace/database/relation, as `SELECT pg_relation_filepath(...)` helps to find.
    #[arg(long, short = 'R', value_name = "T/D/R", value_parser = relation, required_unless_present = "log")]
    relation: Option<RelationId>,
    /// Its fork: main, fsm, vm or init.
    #[arg(long, short = 'F', default_value = "main", value_parser = fork)]
    fork: Fork,
    /// In place of a relation a simple log: pg_xact, pg_commit_ts, pg_multixact/offsets or pg_multixact/members.
    #[arg(long, value_name = "FOLDER", value_parser = log::log, conflicts_with_all = ["relation", "fork"])]
    log: Option<Slru>,
    /// The block, or the number of the simple log's page.
    #[arg(long, short = 'B', value_name = "N")]
    block: u32,
    /// The page as it was here: records that end here or before are replayed. All WAL without it.
    #[arg(long)]
    at: Option<Lsn>,
    /// How to show the page.
    #[arg(long, value_enum, default_value_t = Format::Decoded)]
    format: Format,
    /// Leave out the list of records.
    #[arg(long)]
    no_records: bool,
}

/// Which page.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A relation's.
    Block(BlockTag),
    /// A simple log's, by its number.
    Log(Slru, u64),
}

/// How to show a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Header, line pointers, tuples, special space.
    Decoded,
    /// Its bytes, 32 to a row after their offset.
    Hex,
}

impl ReplayArguments {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        let mut output = io::stdout().lock();
        let place = match (self.log, self.relation) {
            (Some(log), _) => Place::Log(log, self.block.into()),
            (None, Some(relation)) => {
                Place::Block(BlockTag { relation, fork: self.fork, block: self.block })
            }
            (None, None) => bail!("say --relation or --log"),
        };
        let page = self.replay(place, &mut output)?;
        match (self.format, place) {
            (Format::Decoded, Place::Block(tag)) => {
                write!(output, "{}", decoded::Decoded::new(tag, &page))?;
            }
            (Format::Decoded, Place::Log(log, number)) => {
                write!(output, "{}", log::DecodedLog { log, number, page: &page })?;
            }
            (Format::Hex, _) => {
                for (row, bytes) in page.chunks(32).enumerate() {
                    writeln!(output, "{:04x} {}", row * 32, decoded::hex(bytes))?;
                }
            }
        }
        Ok(output.flush()?)
    }

    fn replay(&self, place: Place, output: &mut impl Write) -> Result<PageBytes> {
        let control = base::Control::read(&self.base)?;
        let start = base::start(&self.base, &control)?;
        let at = self.at.unwrap_or(Lsn(u64::MAX));
        ensure!(at >= start, "the base begins at {start}, after {at}");
        let paths = match self.wal.as_slice() {
            [] => &[self.base.join("pg_wal")],
            paths => paths,
        };
        let settings =
            Settings { visible_moves_heap_lsn: control.hints_are_logged, ..Settings::default() };
        let mut history = History {
            place,
            settings,
            tracks_commit_timestamp: control.tracks_commit_timestamp,
            redo: Redo::new(settings),
            page: base::page(&self.base, place)?,
            line: String::new(),
        };
        let base_lsn = match place {
            Place::Block(_) => Page::new(&mut history.page).lsn(),
            // These pages have no LSN, and what a record puts there does no harm twice.
            Place::Log(..) => start,
        };
        ensure!(
            base_lsn <= at,
            "the base has the page as of {base_lsn}, after {at}: an older base is needed"
        );
        let mut reached = start;
        let end = WalSegments::from_paths(paths, Some(start))?.each(|record| {
            if record.end > at {
                return Ok(ControlFlow::Break(()));
            }
            reached = record.end;
            if record.start < start {
                return Ok(ControlFlow::Continue(()));
            }
            if let Some(touched) = history.record(record)?
                && !self.no_records
            {
                writeln!(output, "{}, {touched}", history.line)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(at) = self.at.filter(|&at| end.lsn < at && reached < at) {
            let why = end.error.map(|error| format!(": {error}")).unwrap_or_default();
            bail!("the WAL ends at {}, before {at}{why}", end.lsn);
        }
        Ok(history.page)
    }
}

/// A page and how records change it.
struct History {
    place: Place,
    settings: Settings,
    tracks_commit_timestamp: bool,
    redo: Redo,
    page: PageBytes,
    /// The last record that touched it.
    line: String,
}

impl History {
    /// Replays a record; what it did, if it has to do with the page.
    fn record(&mut self, record: &Record<'_>) -> Result<Option<String>> {
        let mut touched = None;
        for block in record.blocks() {
            if !matches!(self.place, Place::Block(tag) if tag == block.tag()) {
                continue;
            }
            let outcome = self.redo.redo_block(record, block.id(), &mut self.page)?;
            touched = Some(match outcome {
                Outcome::Restored => "page restored",
                Outcome::Applied => "page changed",
                Outcome::Unchanged => "page unchanged",
                Outcome::AlreadyApplied => "in the page already",
                Outcome::Missing => "no page to change",
            });
        }
        let mut gone = None;
        effects(record, self.settings, |effect| {
            if let Some(said) = self.apply(&effect) {
                gone = Some(said);
            }
        })?;
        let Some(said) = gone.or(touched) else { return Ok(None) };
        self.line.clear();
        describe(record, &mut self.line);
        Ok(Some(said.to_string()))
    }

    fn apply(&mut self, effect: &Effect<'_>) -> Option<&'static str> {
        if let Effect::Parameters(parameters) = effect {
            self.tracks_commit_timestamp = parameters.track_commit_timestamp;
        }
        match self.place {
            Place::Block(tag) => self.apply_to_block(tag, effect),
            Place::Log(Slru::CommitTimestamp, _)
                if !self.tracks_commit_timestamp
                    && matches!(effect, Effect::CommitTimestamp { .. }) =>
            {
                None
            }
            Place::Log(log, number) => log::apply(effect, log, number, &mut self.page),
        }
    }

    fn apply_to_block(&mut self, tag: BlockTag, effect: &Effect<'_>) -> Option<&'static str> {
        let BlockTag { relation, fork, block } = tag;
        match *effect {
            Effect::ClearVisibility { relation: heap, heap_block, bits }
                if heap == relation
                    && fork == Fork::VisibilityMap
                    && visibility_map::map_block(heap_block) == block =>
            {
                visibility_map::clear(&mut Page::new(&mut self.page), heap_block, bits);
                Some("visibility bits cleared")
            }
            Effect::RelationTruncate { relation: cut, blocks, main, visibility_map, .. }
                if cut == relation =>
            {
                self.truncate(tag, blocks, main, visibility_map)
            }
            Effect::RelationDrop(dropped) if dropped == relation => {
                self.page = [0; PAGE_BYTES];
                Some("relation dropped")
            }
            Effect::DatabaseDrop { database, tablespace }
                if (database, tablespace) == (relation.database, relation.tablespace) =>
            {
                self.page = [0; PAGE_BYTES];
                Some("database dropped")
            }
            _ => None,
        }
    }

    fn truncate(
        &mut self,
        tag: BlockTag,
        blocks: u32,
        main: bool,
        map: bool,
    ) -> Option<&'static str> {
        let zero = match tag.fork {
            Fork::Main => main && tag.block >= blocks,
            Fork::VisibilityMap if map => {
                let last = visibility_map::map_block(blocks);
                let cut_inside = !blocks.is_multiple_of(visibility_map::HEAP_BLOCKS_PER_PAGE);
                if tag.block == last && cut_inside {
                    visibility_map::truncate(&mut Page::new(&mut self.page), blocks);
                    return Some("cut");
                }
                tag.block >= last
            }
            _ => false,
        };
        zero.then(|| {
            self.page = [0; PAGE_BYTES];
            "cut off"
        })
    }
}
