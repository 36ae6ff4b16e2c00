//! Every page of a cluster in memory, and what records do to it besides changing pages.

use std::collections::{BTreeMap, HashMap, HashSet};

use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::slru::{self, Slru};
use firn_core::postgres::redo::{Effect, visibility_map};
use firn_core::postgres::wal::{BlockTag, Fork, RelationId};
use firn_core::types::Lsn;

use super::state::State;

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

/// All relations and simple logs of a cluster.
#[derive(Debug, Default)]
pub struct Store {
    /// The forks that exist.
    pub forks: HashMap<(RelationId, Fork), ForkPages>,
    /// Pages of simple logs.
    pub slru: BTreeMap<(Slru, u64), Box<PageBytes>>,
    /// Pages of visibility maps that came without their bits. `CREATE DATABASE ... STRATEGY wal_log` logs a map's page as
    /// if it were a heap page, so that the whole map is its hole: replay clears the bits that the primary's copy has.
    pub maps_without_bits: HashSet<BlockTag>,
    /// What is no page.
    pub state: State,
}

impl Store {
    /// Whether a relation's changes are in WAL: an unlogged one's are not, and it has an init fork.
    pub fn is_unlogged(&self, relation: RelationId) -> bool {
        self.forks.contains_key(&(relation, Fork::Init))
    }

    /// The page of a block, made if it does not exist.
    pub fn page(&mut self, tag: BlockTag) -> &mut PageBytes {
        self.forks.entry((tag.relation, tag.fork)).or_default().page(tag.block)
    }

    /// Does what an effect other than a block's says; its record begins at `lsn`.
    pub fn apply(&mut self, effect: &Effect<'_>, lsn: Lsn) {
        self.state.apply(effect, lsn);
        match *effect {
            Effect::ClearVisibility { relation, heap_block, bits } => {
                let block = visibility_map::map_block(heap_block);
                if let Some(fork) = self.forks.get_mut(&(relation, Fork::VisibilityMap))
                    && block < fork.len()
                {
                    visibility_map::clear(&mut Page::new(fork.page(block)), heap_block, bits);
                }
            }
            Effect::RelationCreate { relation, fork } => {
                self.forks.entry((relation, fork)).or_default();
            }
            Effect::RelationTruncate { relation, blocks, main, visibility_map, .. } => {
                if main && let Some(pages) = self.forks.get_mut(&(relation, Fork::Main)) {
                    pages.truncate(blocks);
                }
                if visibility_map {
                    self.truncate_map(relation, blocks);
                }
            }
            Effect::RelationDrop(relation) => {
                self.forks.retain(|(other, _), _| *other != relation);
            }
            Effect::DatabaseDrop { database, tablespace } => {
                self.drop_database(database, tablespace)
            }
            Effect::DatabaseCopy { database, tablespace, source_database, source_tablespace } => {
                self.drop_database(database, tablespace);
                let copies: Vec<_> = self
                    .forks
                    .iter()
                    .filter(|((relation, _), _)| {
                        (relation.database, relation.tablespace)
                            == (source_database, source_tablespace)
                    })
                    .map(|(&(relation, fork), pages)| {
                        ((RelationId { tablespace, database, ..relation }, fork), pages.clone())
                    })
                    .collect();
                self.forks.extend(copies);
                let copies: Vec<_> = self
                    .maps_without_bits
                    .iter()
                    .filter(|tag| {
                        (tag.relation.database, tag.relation.tablespace)
                            == (source_database, source_tablespace)
                    })
                    .map(|tag| BlockTag {
                        relation: RelationId { tablespace, database, ..tag.relation },
                        ..*tag
                    })
                    .collect();
                self.maps_without_bits.extend(copies);
            }
            Effect::SlruZeroPage { slru, page } => {
                let page =
                    self.slru.entry((slru, page)).or_insert_with(|| Box::new([0; PAGE_BYTES]));
                slru::zero(slru, page);
            }
            Effect::SlruTruncate { .. }
            | Effect::MultiXactTruncate { .. }
            | Effect::Parameters(_) => {
                self.slru.retain(|&(slru, page), _| !slru::drops(effect, slru, page));
            }
            Effect::CommitTimestamp { .. } if !self.state.parameters.track_commit_timestamp => {}
            _ => {
                if let Some(place) = slru::page_of(effect) {
                    let page = self.slru.entry(place).or_insert_with(|| Box::new([0; PAGE_BYTES]));
                    slru::apply(effect, page);
                }
            }
        }
    }

    fn truncate_map(&mut self, relation: RelationId, blocks: u32) {
        let Some(map) = self.forks.get_mut(&(relation, Fork::VisibilityMap)) else { return };
        let block = visibility_map::map_block(blocks);
        if blocks.is_multiple_of(visibility_map::HEAP_BLOCKS_PER_PAGE) {
            map.truncate(block);
        } else if block < map.len() {
            visibility_map::truncate(&mut Page::new(map.page(block)), blocks);
            map.truncate(block + 1);
        }
    }

    fn drop_database(&mut self, database: u32, tablespace: u32) {
        self.forks.retain(|(relation, _), _| {
            (relation.database, relation.tablespace) != (database, tablespace)
        });
    }
}
