//! Reads a stopped server's data directory: relation files and WAL segments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use firn_core::postgres::page::PAGE_BYTES;
use firn_core::postgres::redo::slru::{PAGES_PER_SEGMENT, Slru};

use super::state_files;
use super::store::Store;
use crate::local::data_directory::{entries, relation_files};

/// Reads every relation and simple log of the data directory, and its other state.
pub fn read(data: &Path) -> Result<Store> {
    let mut store = Store { state: state_files::read(data)?, ..Store::default() };
    for slru in Slru::ALL {
        for (name, path) in entries(&data.join(slru.folder()))? {
            let segment = u64::from_str_radix(&name, 16).context("a simple log's file name")?;
            let bytes = fs::read(&path)?;
            let first = segment * PAGES_PER_SEGMENT;
            for (page, bytes) in (first..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                store.slru.insert((slru, page), Box::new(*bytes));
            }
        }
    }
    for file in relation_files(data)? {
        let bytes =
            fs::read(&file.path).with_context(|| format!("cannot read {}", file.path.display()))?;
        let pages = store.forks.entry((file.relation, file.fork)).or_default();
        for (block, page) in (file.first_block..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            *pages.page(block) = *page;
        }
    }
    Ok(store)
}

/// The WAL segments of a folder by number. A segment that two Postgres timelines have is the newer one's: it begins with
/// what the older one holds up to the switch.
pub fn segments(folder: &Path, segment_bytes: u32) -> Result<BTreeMap<u64, PathBuf>> {
    let per_high = (1 << 32) / u64::from(segment_bytes);
    let mut files: Vec<_> = entries(folder)?
        .into_iter()
        .filter(|(name, _)| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .collect();
    files.sort();
    let mut segments = BTreeMap::new();
    for (name, path) in files {
        let number = |range| u64::from_str_radix(&name[range], 16);
        segments.insert(number(8..16)? * per_high + number(16..24)?, path);
    }
    Ok(segments)
}
