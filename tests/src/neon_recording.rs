//! WAL of a Neon compute of version 17, and the pages and sizes that Neon's page server returned for it
//! (`tests/golden/redo`, formats in the recordings' README).
//!
//! What the page server does otherwise than a stock server is in [`Replay`].

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use firn_core::postgres::page::{Page, PageBytes};
use firn_core::postgres::redo::slru::Slru;
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, effects, visibility_map};
use firn_core::postgres::wal::{BlockTag, Decoder, Fork, Record, RelationId, WalVersion};
use firn_core::types::Lsn;

use crate::oracle::store::Store;
use crate::recordings::unpacked;

/// Where the WAL begins.
pub const START: Lsn = Lsn(0x14E_C3C8);
/// Where it ends.
pub const END: Lsn = Lsn(0x20B_4F60);
const FIRST_SEGMENT: u64 = 0x100_0000;
/// Redo as the page server does it.
pub const SETTINGS: Settings = Settings { visible_moves_heap_lsn: true, neon_heap_records: false };

/// A file of the recording.
pub fn file(name: &str) -> Result<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/redo");
    unpacked(&folder.join(format!("{name}.zst")))
}

/// A page at an LSN.
pub struct RecordedPage {
    /// Which.
    pub tag: BlockTag,
    /// With all records that end here or before.
    pub lsn: Lsn,
    /// The page.
    pub page: Box<PageBytes>,
}

/// The pages of `base-pages.bin` or `pages.bin`: tablespace, database, relation, fork, block, kind, LSN, page.
pub fn pages(name: &str) -> Result<Vec<RecordedPage>> {
    let bytes = file(name)?;
    let (records, rest) = bytes.as_chunks::<8224>();
    ensure!(rest.is_empty(), "{name} ends inside a record");
    let u32_at = |record: &[u8; 8224], at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    let page = |record: &[u8; 8224]| {
        Ok(RecordedPage {
            tag: BlockTag {
                relation: RelationId {
                    tablespace: u32_at(record, 0),
                    database: u32_at(record, 4),
                    number: u32_at(record, 8),
                },
                fork: Fork::from_number(record[12]).context("a fork")?,
                block: u32_at(record, 16),
            },
            lsn: Lsn(u64::from(u32_at(record, 24)) | u64::from(u32_at(record, 28)) << 32),
            page: Box::new(*record[32..].first_chunk().context("a whole page")?),
        })
    };
    records.iter().map(page).collect()
}

/// First pages of simple logs by LSN: kind (0 status, 1 members, 2 offsets), number of blocks, LSN, page.
pub fn slru_pages() -> Result<Vec<(Slru, Lsn, Box<PageBytes>)>> {
    let bytes = file("slru.bin")?;
    let (records, rest) = bytes.as_chunks::<8208>();
    ensure!(rest.is_empty(), "slru.bin ends inside a record");
    let slru = |record: &[u8; 8208]| {
        let slru = match record[0] {
            0 => Slru::TransactionStatus,
            1 => Slru::MultiXactMembers,
            2 => Slru::MultiXactOffsets,
            other => anyhow::bail!("kind {other}"),
        };
        let lsn = u64::from_le_bytes(*record[8..].first_chunk().context("an LSN")?);
        Ok((slru, Lsn(lsn), Box::new(*record[16..].first_chunk().context("a whole page")?)))
    };
    records.iter().map(slru).collect()
}

/// Gives every record to `work`.
pub fn each_record(mut work: impl FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
    let mut wal = file("wal/000000010000000000000001")?;
    wal.extend(file("wal/000000010000000000000002")?);
    let mut decoder = Decoder::new(START, 16 << 20, Some(WalVersion::V17));
    let mut input = &wal[(START.0 - FIRST_SEGMENT) as usize..(END.0 - FIRST_SEGMENT) as usize];
    while let Some(record) = decoder.next(&mut input)? {
        work(&record)?;
    }
    Ok(())
}

/// The recording's pages while its records are replayed.
pub struct Replay {
    /// All pages.
    pub store: Store,
    redo: Redo,
}

impl Replay {
    /// The pages at [`START`].
    pub fn new() -> Result<Replay> {
        let mut store = Store::default();
        for base in pages("base-pages.bin")? {
            *store.page(base.tag) = *base.page;
        }
        Ok(Replay { store, redo: Redo::new(SETTINGS) })
    }

    /// Replays a record. `changed` is told each block's id, its page before and after, and what happened.
    pub fn record(
        &mut self,
        record: &Record<'_>,
        mut changed: impl FnMut(u8, &PageBytes, &PageBytes, Outcome),
    ) -> Result<()> {
        for block in record.blocks() {
            let page = self.store.page(block.tag());
            let before = *page;
            let outcome = self.redo.redo_block(record, block.id(), page)?;
            changed(block.id(), &before, page, outcome);
        }
        let store = &mut self.store;
        effects(record, SETTINGS, |effect| {
            // The recording is of 17.8, which does not write the next multixact's offset yet.
            if !matches!(effect, Effect::MultiXactOffset { ahead: true, .. }) {
                store.apply(&effect, record.start);
            }
            if let Effect::ClearVisibility { relation, heap_block, .. } = effect {
                // Neon's page server moves the map page's LSN, which stock Postgres leaves alone.
                let block = visibility_map::map_block(heap_block);
                let tag = BlockTag { relation, fork: Fork::VisibilityMap, block };
                Page::new(store.page(tag)).set_lsn(record.end);
            }
        })?;
        Ok(())
    }
}
