//! Reads a stopped server's data directory: relation files and WAL segments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use firn_core::postgres::page::PAGE_BYTES;
use firn_core::postgres::redo::slru::{PAGES_PER_SEGMENT, Slru};
use firn_core::postgres::wal::{Fork, RelationId};

use super::state_files;
use super::store::Store;

/// Blocks of one file of a relation; larger ones go on in `.1`, `.2` ...
const BLOCKS_PER_FILE: u32 = 131_072;
/// The tablespace of shared relations.
pub const GLOBAL_TABLESPACE: u32 = 1664;
/// The tablespace of databases that have no other.
pub const DEFAULT_TABLESPACE: u32 = 1663;

/// Reads every relation and simple log of the data directory, and its other state.
pub fn read(data: &Path) -> Result<Store> {
    let mut store = Store { state: state_files::read(data)?, ..Store::default() };
    for slru in [
        Slru::TransactionStatus,
        Slru::CommitTimestamp,
        Slru::MultiXactOffsets,
        Slru::MultiXactMembers,
    ] {
        for (name, path) in entries(&data.join(slru.folder()))? {
            let segment = u64::from_str_radix(&name, 16).context("a simple log's file name")?;
            let bytes = fs::read(&path)?;
            let first = segment * PAGES_PER_SEGMENT;
            for (page, bytes) in (first..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                store.slru.insert((slru, page), Box::new(*bytes));
            }
        }
    }
    read_folder(&mut store, &data.join("global"), GLOBAL_TABLESPACE, 0)?;
    read_databases(&mut store, &data.join("base"), DEFAULT_TABLESPACE)?;
    for (name, path) in entries(&data.join("pg_tblspc"))? {
        let Ok(tablespace) = name.parse() else { continue };
        for (name, path) in entries(&path)? {
            if name.starts_with("PG_") {
                read_databases(&mut store, &path, tablespace)?;
            }
        }
    }
    Ok(store)
}

/// Names and paths of a folder's entries.
pub fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    list.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
    })
    .collect()
}

fn read_databases(store: &mut Store, folder: &Path, tablespace: u32) -> Result<()> {
    for (name, path) in entries(folder)? {
        if let Ok(database) = name.parse() {
            read_folder(store, &path, tablespace, database)?;
        }
    }
    Ok(())
}

fn read_folder(store: &mut Store, folder: &Path, tablespace: u32, database: u32) -> Result<()> {
    for (name, path) in entries(folder)? {
        let Some((number, fork, file)) = parse_name(&name) else { continue };
        let relation = RelationId { tablespace, database, number };
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let pages = store.forks.entry((relation, fork)).or_default();
        for (block, page) in (file * BLOCKS_PER_FILE..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
            *pages.page(block) = *page;
        }
    }
    Ok(())
}

/// `16384`, `16384_vm`, `16384.1`, `16384_vm.1`.
fn parse_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, file) = match name.split_once('.') {
        Some((name, file)) => (name, file.parse().ok()?),
        None => (name, 0),
    };
    let (number, fork) = match name.split_once('_') {
        None => (name, Fork::Main),
        Some((number, "fsm")) => (number, Fork::FreeSpaceMap),
        Some((number, "vm")) => (number, Fork::VisibilityMap),
        Some((number, "init")) => (number, Fork::Init),
        Some(_) => return None,
    };
    Some((number.parse().ok()?, fork, file))
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
