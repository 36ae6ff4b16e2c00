//! Every page of a cluster in memory, and what records do to it besides changing pages.

use std::collections::HashMap;

use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::{Effect, visibility_map};
use firn_core::postgres::wal::{BlockTag, Fork, RelationId};

/// The pages of one file set, in order; a gap reads as zeros.
#[derive(Debug, Default, Clone)]
pub struct ForkPages {
    pages: Vec<Option<Box<PageBytes>>>,
}

impl ForkPages {
    /// Number of blocks.
    pub fn len(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Whether there are no blocks.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page of `block`, made if it does not exist.
    pub fn page(&mut self, block: u32) -> &mut PageBytes {
        let index = block as usize;
        if index >= self.pages.len() {
            self.pages.resize_with(index + 1, || None);
        }
        self.pages[index].get_or_insert_with(|| Box::new([0; PAGE_BYTES]))
    }

    /// The page of `block` if it was ever written.
    pub fn get(&self, block: u32) -> Option<&PageBytes> {
        self.pages.get(block as usize)?.as_deref()
    }

    fn truncate(&mut self, blocks: u32) {
        self.pages.truncate(blocks as usize);
    }
}

/// All relations of a cluster.
#[derive(Debug, Default)]
pub struct Store {
    /// The forks that exist.
    pub forks: HashMap<(RelationId, Fork), ForkPages>,
}

impl Store {
    /// The page of a block, made if it does not exist.
    pub fn page(&mut self, tag: BlockTag) -> &mut PageBytes {
        self.forks.entry((tag.relation, tag.fork)).or_default().page(tag.block)
    }

    /// Does what an effect other than a block's says.
    pub fn apply(&mut self, effect: &Effect<'_>) {
        if let Effect::ClearVisibility { relation, heap_block, bits } = *effect {
            let block = visibility_map::map_block(heap_block);
            if let Some(fork) = self.forks.get_mut(&(relation, Fork::VisibilityMap))
                && block < fork.len()
            {
                visibility_map::clear(&mut Page::new(fork.page(block)), heap_block, bits);
            }
        }
    }

    /// Cuts a fork to a number of blocks.
    pub fn truncate(&mut self, relation: RelationId, fork: Fork, blocks: u32) {
        if let Some(pages) = self.forks.get_mut(&(relation, fork)) {
            pages.truncate(blocks);
        }
    }
}
