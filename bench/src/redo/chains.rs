//! One page rebuilt from its own records, as a page store does for a request.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::redo::{Outcome, Redo, Settings};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Layout, Record, WalVersion};
use firn_core::types::Lsn;

use super::pages::Pages;
use super::recording::Recording;
use super::stream::{Replayed, each, replay_record};

/// Records of a chain.
pub const CHAIN_RECORDS: usize = 100;
/// Chains of each kind: enough that their pages and records do not all stay in the processor's nearest cache.
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

/// Chains of heap pages and chains of btree pages: the first of each page's records that change it without replacing it.
pub fn chains(recording: &Recording, pages: &mut Pages) -> Result<[Vec<Chain>; 2]> {
    let kind = |record: &Record<'_>| match record.resource_manager() {
        rmgr::HEAP | rmgr::HEAP2 => Some(0),
        rmgr::BTREE => Some(1),
        _ => None,
    };
    let mut counts: BTreeMap<(usize, BlockTag), usize> = BTreeMap::new();
    each(recording, |record| {
        let Some(kind) = kind(record) else { return Ok(()) };
        for block in record.blocks() {
            *counts.entry((kind, block.tag())).or_default() += 1;
        }
        Ok(())
    })?;
    let mut open: BTreeMap<BlockTag, (usize, Chain)> = BTreeMap::new();
    let mut chosen: BTreeMap<BlockTag, usize> = BTreeMap::new();
    for wanted in [0, 1] {
        let long = counts.iter().filter(|&(&(kind, _), &count)| {
            kind == wanted && count >= CHAIN_RECORDS + CHAIN_RECORDS / 4
        });
        // Pages from all over, not the first of one relation.
        let step = (long.clone().count() / CHAINS).max(1);
        chosen.extend(long.step_by(step).take(CHAINS).map(|(&(kind, tag), _)| (tag, kind)));
    }
    let mut found = [Vec::new(), Vec::new()];
    let mut redo = Redo::default();
    let mut done = Replayed::default();
    each(recording, |record| {
        for block in record.blocks() {
            let tag = block.tag();
            let Some(&wanted) = chosen.get(&tag) else { continue };
            let replaces = block.will_init() || block.image().is_some_and(|image| image.applies());
            if replaces || kind(record) != Some(wanted) {
                open.remove(&tag);
                continue;
            }
            let Some(page) = pages.page(tag) else { continue };
            let (_, chain) = open.entry(tag).or_insert_with(|| {
                (wanted, Chain { base: *page, version: record.version, records: Vec::new() })
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
                let (kind, chain) = open.remove(&tag).expect("it was there a moment ago");
                found[kind].push(chain);
                chosen.remove(&tag);
            }
        }
        replay_record(record, pages, &mut redo, &mut done)
    })?;
    ensure!(!found[0].is_empty(), "no heap page has {CHAIN_RECORDS} records in a row");
    Ok(found)
}

/// Redo as the chains' recording needs it.
pub fn redo() -> Redo {
    Redo::new(Settings::default())
}
