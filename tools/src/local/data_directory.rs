//! Which file of a data directory holds which blocks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use firn_core::postgres::wal::{Fork, RelationId};

/// Blocks of one file of a relation; larger ones go on in `.1`, `.2` ...
pub const BLOCKS_PER_FILE: u32 = 131_072;
/// Tablespace of shared relations.
pub const GLOBAL_TABLESPACE: u32 = 1664;
/// Tablespace of everything that was not put elsewhere.
pub const DEFAULT_TABLESPACE: u32 = 1663;

/// One file of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationFile {
    /// The relation.
    pub relation: RelationId,
    /// The fork.
    pub fork: Fork,
    /// Number of its first block.
    pub first_block: u32,
    /// Where it is.
    pub path: PathBuf,
}

/// Every file of every relation in a stopped server's data directory or a base backup.
pub fn relation_files(data: &Path) -> Result<Vec<RelationFile>> {
    let mut files = Vec::new();
    add_folder(&mut files, &data.join("global"), GLOBAL_TABLESPACE, 0)?;
    add_databases(&mut files, &data.join("base"), DEFAULT_TABLESPACE)?;
    for (name, path) in entries(&data.join("pg_tblspc"))? {
        let Ok(tablespace) = name.parse() else { continue };
        for (name, path) in entries(&path)? {
            if name.starts_with("PG_") {
                add_databases(&mut files, &path, tablespace)?;
            }
        }
    }
    Ok(files)
}

fn add_databases(files: &mut Vec<RelationFile>, folder: &Path, tablespace: u32) -> Result<()> {
    for (name, path) in entries(folder)? {
        if let Ok(database) = name.parse() {
            add_folder(files, &path, tablespace, database)?;
        }
    }
    Ok(())
}

fn add_folder(
    files: &mut Vec<RelationFile>,
    folder: &Path,
    tablespace: u32,
    database: u32,
) -> Result<()> {
    for (name, path) in entries(folder)? {
        if let Some((number, fork, file)) = parse_name(&name) {
            let relation = RelationId { tablespace, database, number };
            let first_block = file
                .checked_mul(BLOCKS_PER_FILE)
                .with_context(|| format!("{} is numbered too high", path.display()))?;
            files.push(RelationFile { relation, fork, first_block, path });
        }
    }
    Ok(())
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

/// `16384`, `16384_vm`, `16384.1`, `16384_vm.1`.
fn parse_name(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, file) = match name.split_once('.') {
        Some((name, file)) => (name, file.parse().ok()?),
        None => (name, 0),
    };
    let (number, fork) = match name.split_once('_') {
        None => (name, Fork::Main),
        Some((number, fork)) => (
            number,
            [Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init]
                .into_iter()
                .find(|known| known.name() == fork)?,
        ),
    };
    Some((number.parse().ok()?, fork, file))
}
