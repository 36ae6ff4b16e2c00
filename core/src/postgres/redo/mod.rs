//! What a WAL record does to a page, and to everything else.
//!
//! Two questions, two functions. [`effects`] says what a record touches: blocks it refers to, visibility-map bits it
//! clears without saying so, and state that is no relation page (transaction status, sizes, databases ...).
//! [`Redo::redo_block`] replays the record onto one block's page, in place. A record's effect on a block depends on
//! the record and on that block's page alone, never on another page, so a page can be rebuilt from its own records.
//!
//! Invariants: no allocation (a zstd image makes a context once), no panic on any record and any page, same bytes as
//! Postgres' startup process leaves apart from what Postgres itself masks when it compares. After an error the page is
//! half changed and must be thrown away.
//!
//! # Adding a resource manager
//!
//! One file, named after it, with `pub(super) fn redo(change: &Change, page: &mut Page) -> Result<Touch, Misfit>`: match
//! on the operation, then on the block's id. When it is called the general rules are done: images restored, a
//! `will_init` page zeroed, old LSNs skipped, the page header checked. Return [`Touch::Changed`] and the LSN is
//! set, [`Touch::Unchanged`] for a block that is only locked. A check that fails is a [`Misfit`]; it gets LSN, record
//! and block added here. Then add a line to `redo_change` below, one to `effects` if it has any besides its blocks, and one
//! to `after_image` if it changes pages after restoring their images. What differs between versions is an `if` beside
//! the record. The oracle in `tests/` says whether it is right: run it before you believe it.

pub mod ahead;
mod brin;
mod btree;
mod clog;
mod commit_ts;
mod database;
pub mod effect;
mod error;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod heap2;
mod heap_layout;
mod heap_tuple;
mod index_tuple;
mod multixact;
mod neon;
mod relation_map;
mod replication_origin;
mod sequence;
pub mod slru;
mod spgist;
mod standby;
mod storage;
mod tablespace;
mod transaction;
pub mod visibility_map;
mod xlog;

pub use effect::Effect;
pub use error::{RecordName, RedoError};

use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::{Page, PageBytes};
use crate::postgres::wal::names::rmgr;
use crate::postgres::wal::{Block, Fork, ImageScratch, Record, RelationId, WalVersion};

/// What a cluster's settings change in redo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Heap2/VISIBLE moves the heap page's LSN: with data checksums or `wal_log_hints`, and always on Neon.
    pub visible_moves_heap_lsn: bool,
    /// The WAL is of a Neon compute of version 14 or 15, whose heap records carry a command id.
    pub neon_heap_records: bool,
}

/// What happened to the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is now the image in the record.
    Restored,
    /// The record was replayed.
    Applied,
    /// The record refers to the block but does not change it.
    Unchanged,
    /// The page's LSN says that the record is in it already.
    AlreadyApplied,
    /// The page is all zero, so there is nothing to replay onto: legal only if the relation is dropped or cut later.
    Missing,
}

/// Replays records onto pages; holds what decompression needs.
#[derive(Debug, Default)]
pub struct Redo {
    settings: Settings,
    scratch: ImageScratch,
}

/// A record and the block of it that is to be changed.
struct Change<'a> {
    record: &'a Record<'a>,
    block: Block<'a>,
    settings: Settings,
}

/// Whether the page's LSN moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Changed,
    /// The page has changed, its LSN stays.
    ChangedSameLsn,
    Unchanged,
}

impl Redo {
    /// Redo under these settings.
    pub fn new(settings: Settings) -> Redo {
        Redo { settings, scratch: ImageScratch::default() }
    }

    /// Replays `record` onto the block that it refers to by `block_id`, whose page is `page` (all zero if it does not
    /// exist).
    pub fn redo_block(
        &mut self,
        record: &Record<'_>,
        block_id: u8,
        page: &mut PageBytes,
    ) -> Result<Outcome, RedoError> {
        let block =
            record.expect_block(block_id).map_err(|misfit| RedoError::new(record, None, misfit))?;
        let change = Change { record, block, settings: self.settings };
        redo_change(&change, page, &mut self.scratch)
            .map_err(|misfit| RedoError::new(record, Some(block.tag()), misfit))
    }
}

fn redo_change(
    change: &Change<'_>,
    bytes: &mut PageBytes,
    scratch: &mut ImageScratch,
) -> Result<Outcome, Misfit> {
    let record = change.record;
    let block = change.block;
    if let Some(image) = block.image().filter(|image| image.applies()) {
        image.restore(bytes, scratch)?;
        let mut page = Page::new(bytes);
        if !page.is_new() {
            page.set_lsn(record.end);
        }
        after_image(change, &mut page)?;
        return Ok(Outcome::Restored);
    }
    let mut page = Page::new(bytes);
    if block.will_init() {
        page.bytes_mut().fill(0);
    } else if !page.is_new() {
        if page.lsn() >= record.end {
            return Ok(Outcome::AlreadyApplied);
        }
        page.check()?;
    } else if block.tag().fork != Fork::VisibilityMap {
        return Ok(Outcome::Missing);
    }
    let touch = match record.resource_manager() {
        rmgr::XLOG => xlog::redo(change),
        rmgr::HEAP => heap::redo(change, &mut page),
        rmgr::HEAP2 => heap2::redo(change, &mut page),
        rmgr::BTREE => btree::redo(change, &mut page),
        rmgr::HASH => hash::redo(change, &mut page),
        rmgr::GIN => gin::redo(change, &mut page),
        rmgr::GIST => gist::redo(change, &mut page),
        rmgr::SEQUENCE => sequence::redo(change, &mut page),
        rmgr::SPGIST => spgist::redo(change, &mut page),
        rmgr::BRIN => brin::redo(change, &mut page),
        rmgr::NEON => neon::redo(change, &mut page),
        rmgr::GENERIC => generic::redo(change, &mut page),
        other => Err(Misfit::new("a resource manager with page redo", other.into())),
    }?;
    match touch {
        Touch::Changed => page.set_lsn(record.end),
        Touch::ChangedSameLsn => {}
        Touch::Unchanged => return Ok(Outcome::Unchanged),
    }
    Ok(Outcome::Applied)
}

/// What a few records do to a page even when its image has just been restored.
fn after_image(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    match change.record.resource_manager() {
        rmgr::HASH => hash::after_image(change, page),
        rmgr::GIST => gist::after_image(change, page),
        _ => Ok(()),
    }
}

/// Tells `emit` everything that `record` touches, blocks first. An error means that the record contradicts itself or
/// belongs to an unknown resource manager; its blocks have been told by then.
pub fn effects<'a>(
    record: &Record<'a>,
    settings: Settings,
    mut emit: impl FnMut(Effect<'a>),
) -> Result<(), RedoError> {
    for block in record.blocks() {
        emit(Effect::Block { id: block.id(), tag: block.tag() });
    }
    let emit: &mut dyn FnMut(Effect<'a>) = &mut emit;
    match record.resource_manager() {
        rmgr::XLOG => xlog::effects(record, emit),
        rmgr::XACT => transaction::effects(record, emit),
        rmgr::SMGR => storage::effects(record, emit),
        rmgr::CLOG => clog::effects(record, emit),
        rmgr::DBASE => database::effects(record, emit),
        rmgr::TBLSPC => tablespace::effects(record, emit),
        rmgr::MULTIXACT => multixact::effects(record, emit),
        rmgr::RELMAP => relation_map::effects(record, emit),
        rmgr::STANDBY => standby::effects(record, emit),
        rmgr::HEAP2 => heap2::effects(record, emit),
        rmgr::HEAP => heap::effects(record, settings, emit),
        rmgr::NEON => neon::effects(record, emit),
        rmgr::COMMIT_TS => commit_ts::effects(record, emit),
        rmgr::REPLICATION_ORIGIN => replication_origin::effects(record, emit),
        // Their blocks are all that they touch.
        rmgr::BTREE
        | rmgr::HASH
        | rmgr::GIN
        | rmgr::GIST
        | rmgr::SEQUENCE
        | rmgr::SPGIST
        | rmgr::BRIN
        | rmgr::GENERIC
        | rmgr::LOGICAL_MESSAGE => Ok(()),
        other => Err(Misfit::new("a resource manager that is known", other.into())),
    }
    .map_err(|misfit| RedoError::new(record, None, misfit))
}

/// A page number of a simple log: four bytes up to 16, eight from 17 on.
fn slru_page(record: &Record<'_>, main: &mut Reader<'_>) -> Result<u64, Misfit> {
    if record.version >= WalVersion::V17 { main.u64() } else { main.u32().map(u64::from) }
}

/// A relation as records name it: tablespace, database, number.
fn relation(main: &mut Reader<'_>) -> Result<RelationId, Misfit> {
    Ok(RelationId { tablespace: main.u32()?, database: main.u32()?, number: main.u32()? })
}

fn unknown(record: &Record<'_>) -> Misfit {
    Misfit::new("an operation of the resource manager", record.operation().into())
}

#[cfg(test)]
mod tests;
