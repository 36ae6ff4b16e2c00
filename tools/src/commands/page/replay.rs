//! `firn page replay`.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, effects, visibility_map};
use firn_core::postgres::wal::{BlockTag, Fork, Record, RelationId};
use firn_core::types::Lsn;

use super::{base, decoded};
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
    #[arg(long, short = 'R', value_name = "T/D/R", value_parser = relation)]
    relation: RelationId,
    /// Its fork: main, fsm, vm or init.
    #[arg(long, short = 'F', default_value = "main", value_parser = fork)]
    fork: Fork,
    /// The block.
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
        let tag = BlockTag { relation: self.relation, fork: self.fork, block: self.block };
        let page = self.replay(tag, &mut output)?;
        match self.format {
            Format::Decoded => write!(output, "{}", decoded::Decoded::new(tag, &page))?,
            Format::Hex => {
                for (row, bytes) in page.chunks(32).enumerate() {
                    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    writeln!(output, "{:04x} {text}", row * 32)?;
                }
            }
        }
        Ok(output.flush()?)
    }

    fn replay(&self, tag: BlockTag, output: &mut impl Write) -> Result<PageBytes> {
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
            tag,
            settings,
            redo: Redo::new(settings),
            page: base::page(&self.base, tag)?,
            line: String::new(),
        };
        let base_lsn = Page::new(&mut history.page).lsn();
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
    tag: BlockTag,
    settings: Settings,
    redo: Redo,
    page: PageBytes,
    /// The last record that touched it.
    line: String,
}

impl History {
    /// Replays a record; what it did, if it has to do with the page.
    fn record(&mut self, record: &Record<'_>) -> Result<Option<String>> {
        let mut touched = None;
        for block in record.blocks().filter(|block| block.tag() == self.tag) {
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
        let BlockTag { relation, fork, block } = self.tag;
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
                self.truncate(blocks, main, visibility_map)
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

    fn truncate(&mut self, blocks: u32, main: bool, map: bool) -> Option<&'static str> {
        let zero = match self.tag.fork {
            Fork::Main => main && self.tag.block >= blocks,
            Fork::VisibilityMap if map => {
                let last = visibility_map::map_block(blocks);
                let cut_inside = !blocks.is_multiple_of(visibility_map::HEAP_BLOCKS_PER_PAGE);
                if self.tag.block == last && cut_inside {
                    visibility_map::truncate(&mut Page::new(&mut self.page), blocks);
                    return Some("cut");
                }
                self.tag.block >= last
            }
            _ => false,
        };
        zero.then(|| {
            self.page = [0; PAGE_BYTES];
            "cut off"
        })
    }
}
