//! All pages of a cluster in memory: a hash table from fork to its blocks, an array of block numbers for each fork.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use anyhow::{Context, Result};
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::slru::{self, PAGES_PER_SEGMENT, Slru};
use firn_core::postgres::redo::{Effect, visibility_map};
use firn_core::postgres::wal::{BlockTag, Fork, RelationId};
use firn_tools::local::data_directory::relation_files;

use super::page_memory::PageMemory;

/// Not there.
const NO_PAGE: u32 = u32::MAX;
/// Mixes the few numbers of a key by multiplication: keys are the server's own, not an attacker's.
#[derive(Default)]
struct MixHasher(u64);

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

type Forks = HashMap<ForkKey, Vec<u32>, BuildHasherDefault<MixHasher>>;

/// A relation's fork in two words: shorter to hash and to compare than four numbers.
type ForkKey = (u64, u64);

#[inline]
fn fork_key(relation: RelationId, fork: Fork) -> ForkKey {
    let RelationId { tablespace, database, number } = relation;
    (u64::from(tablespace) << 32 | u64::from(database), u64::from(number) << 8 | fork as u64)
}

/// Where a page is; pages stay in their places.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot(u32);

/// The pages, and as much of a server's other state as its records change in place.
pub struct Pages {
    forks: Forks,
    logs: [Vec<u32>; Slru::ALL.len()],
    pages: PageMemory,
}

impl Pages {
    /// Every page of a data directory.
    pub fn read(data: &Path) -> Result<Pages> {
        let mut pages = Pages {
            forks: Forks::default(),
            logs: Default::default(),
            pages: PageMemory::reserve()?,
        };
        for file in relation_files(data)? {
            let bytes = fs::read(&file.path)
                .with_context(|| format!("cannot read {}", file.path.display()))?;
            for (block, page) in (file.first_block..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                let tag = BlockTag { relation: file.relation, fork: file.fork, block };
                let slot = pages.add(tag);
                pages.pages.all_mut()[slot as usize] = *page;
            }
        }
        for (index, log) in Slru::ALL.into_iter().enumerate() {
            for entry in fs::read_dir(data.join(log.folder()))? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let segment = u64::from_str_radix(name, 16).context("a simple log's file name")?;
                let bytes = fs::read(&path)?;
                for (number, page) in (segment * PAGES_PER_SEGMENT..).zip(bytes.as_chunks().0) {
                    let slot = pages.add_log(index, number);
                    pages.pages.all_mut()[slot as usize] = *page;
                }
            }
        }
        Ok(pages)
    }

    /// The block's page exists from now on.
    pub fn add(&mut self, tag: BlockTag) -> u32 {
        let blocks = self.forks.entry(fork_key(tag.relation, tag.fork)).or_default();
        slot(blocks, tag.block.into(), &mut self.pages)
    }

    fn add_log(&mut self, log: usize, number: u64) -> u32 {
        slot(&mut self.logs[log], number, &mut self.pages)
    }

    /// As [`add`](Self::add), for the pages of simple logs that an effect changes.
    pub fn add_for(&mut self, effect: &Effect<'_>) {
        let place = match *effect {
            Effect::SlruZeroPage { slru, page } => Some((slru, page)),
            // Kept only with track_commit_timestamp, which is off.
            Effect::CommitTimestamp { .. } => None,
            _ => slru::page_of(effect),
        };
        if let Some((log, number)) = place {
            self.add_log(log as usize, number);
        }
    }

    /// All pages are as they are in `other`, which has the same ones.
    pub fn copy_from(&mut self, other: &[PageBytes]) {
        let (same, rest) = self.pages.all_mut().split_at_mut(other.len());
        same.copy_from_slice(other);
        rest.fill([0; PAGE_BYTES]);
    }

    /// The bytes of all pages.
    pub fn all(&self) -> &[PageBytes] {
        self.pages.all()
    }

    /// Where the block's page is.
    #[inline]
    pub fn find(&self, tag: BlockTag) -> Option<Slot> {
        let blocks = self.forks.get(&fork_key(tag.relation, tag.fork))?;
        blocks.get(tag.block as usize).copied().map(Slot)
    }

    /// The page in a place that [`find`](Self::find) gave.
    #[inline]
    pub fn at(&mut self, slot: Slot) -> Option<&mut PageBytes> {
        self.pages.get_mut(slot.0)
    }

    /// The block's page.
    #[inline]
    pub fn page(&mut self, tag: BlockTag) -> Option<&mut PageBytes> {
        self.at(self.find(tag)?)
    }

    /// Does what an effect says that changes pages. Files that come and go are the caller's matter.
    #[inline]
    pub fn apply(&mut self, effect: &Effect<'_>) {
        match *effect {
            Effect::Block { .. } => {}
            Effect::ClearVisibility { relation, heap_block, bits } => {
                let block = visibility_map::map_block(heap_block);
                let tag = BlockTag { relation, fork: Fork::VisibilityMap, block };
                if let Some(page) = self.page(tag) {
                    visibility_map::clear(&mut Page::new(page), heap_block, bits);
                }
            }
            Effect::SlruZeroPage { slru, page } => {
                if let Some(page) = self.log_page(slru, page) {
                    slru::zero(slru, page);
                }
            }
            _ => {
                if let Some((log, number)) = slru::page_of(effect)
                    && let Some(page) = self.log_page(log, number)
                {
                    slru::apply(effect, page);
                }
            }
        }
    }

    fn log_page(&mut self, log: Slru, number: u64) -> Option<&mut PageBytes> {
        let slot = *self.logs[log as usize].get(number as usize)?;
        self.pages.get_mut(slot)
    }
}

fn slot(blocks: &mut Vec<u32>, number: u64, pages: &mut PageMemory) -> u32 {
    let index = number as usize;
    if index >= blocks.len() {
        blocks.resize(index + 1, NO_PAGE);
    }
    if blocks[index] == NO_PAGE {
        blocks[index] = pages.add();
    }
    blocks[index]
}
