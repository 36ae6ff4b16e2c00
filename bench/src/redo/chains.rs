//! One page rebuilt from its own records, as a page store does for a request.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::redo::{Outcome, Redo};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Layout, Record, WalVersion};
use firn_core::types::Lsn;

use super::pages::Pages;
use super::recording::Recording;
use super::stream::{Replayed, each, replay_record};

/// Records of a chain.
pub const CHAIN_RECORDS: usize = 100;
/// Chains at most: enough that their pages and records do not all stay in the processor's nearest cache.
const CHAINS: usize = 200;

/// A page and its next records.
pub struct Chain {
    base: PageBytes,
    version: WalVersion,
    records: Vec<Link>,
}

struct Link {
    start: Lsn,
    end: Lsn,
    block_id: u8,
    bytes: Vec<u8>,
}

impl Chain {
    /// Rebuilds the page.
    #[inline]
    pub fn rebuild(
        &self,
        redo: &mut Redo,
        layout: &mut Layout,
        page: &mut PageBytes,
    ) -> Result<()> {
        *page = self.base;
        for link in &self.records {
            let record = Record::parse(&link.bytes, layout, self.version, link.start, link.end)?;
            redo.redo_block(&record, link.block_id, page)?;
        }
        Ok(())
    }
}

/// Whose pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tables.
    Heap,
    /// B-trees.
    Btree,
}

impl Kind {
    /// As records are named.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Heap => "heap",
            Kind::Btree => "btree",
        }
    }

    fn of(record: &Record<'_>) -> Option<Kind> {
        match record.resource_manager() {
            rmgr::HEAP | rmgr::HEAP2 => Some(Kind::Heap),
            rmgr::BTREE => Some(Kind::Btree),
            _ => None,
        }
    }
}

/// Chains of pages: of each page the first records that change it without replacing it.
pub fn chains(recording: &Recording, pages: &mut Pages, wanted: Kind) -> Result<Vec<Chain>> {
    let mut counts: BTreeMap<BlockTag, usize> = BTreeMap::new();
    each(recording, |record| {
        if Kind::of(record) == Some(wanted) {
            for block in record.blocks() {
                *counts.entry(block.tag()).or_default() += 1;
            }
        }
        Ok(())
    })?;
    let long = counts.iter().filter(|&(_, &count)| count >= CHAIN_RECORDS + CHAIN_RECORDS / 4);
    // Pages from all over, not the first of one relation.
    let step = (long.clone().count() / CHAINS).max(1);
    let mut chosen: BTreeSet<BlockTag> =
        long.step_by(step).take(CHAINS).map(|(&tag, _)| tag).collect();
    let mut open: BTreeMap<BlockTag, Chain> = BTreeMap::new();
    let mut found = Vec::new();
    let mut redo = Redo::default();
    let mut done = Replayed::default();
    each(recording, |record| {
        for block in record.blocks() {
            let tag = block.tag();
            if !chosen.contains(&tag) {
                continue;
            }
            let replaces = block.will_init() || block.image().is_some_and(|image| image.applies());
            if replaces || Kind::of(record) != Some(wanted) {
                open.remove(&tag);
                continue;
            }
            let Some(page) = pages.page(tag) else { continue };
            let chain = open.entry(tag).or_insert_with(|| Chain {
                base: *page,
                version: record.version,
                records: Vec::new(),
            });
            // A block that a record only locks is no link.
            let mut copy = *page;
            if redo.redo_block(record, block.id(), &mut copy)? == Outcome::Applied {
                chain.records.push(Link {
                    start: record.start,
                    end: record.end,
                    block_id: block.id(),
                    bytes: record.bytes().to_vec(),
                });
            }
            if chain.records.len() == CHAIN_RECORDS {
                found.extend(open.remove(&tag));
                chosen.remove(&tag);
            }
        }
        replay_record(record, pages, &mut redo, &mut done)
    })?;
    ensure!(!found.is_empty(), "no {} page has {CHAIN_RECORDS} records in a row", wanted.name());
    Ok(found)
}
