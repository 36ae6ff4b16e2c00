//! What one page's replay starts from: a base backup, or a stopped server's data directory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use firn_core::postgres::page::{PAGE_BYTES, PageBytes};
use firn_core::postgres::redo::slru::{PAGES_PER_SEGMENT, Slru};
use firn_core::postgres::wal::BlockTag;
use firn_core::types::Lsn;

use super::replay::Place;
use crate::local::data_directory::{BLOCKS_PER_FILE, entries, relation_files};

/// What a cluster's control file says (PostgreSQL src/include/catalog/pg_control.h; the same places in 14 to 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Where a recovery from here would begin.
    pub redo: Lsn,
    /// Data checksums or wal_log_hints: setting visibility bits moves the heap page's LSN.
    pub hints_are_logged: bool,
    /// Commit timestamps are kept.
    pub tracks_commit_timestamp: bool,
}

impl Control {
    /// Reads `global/pg_control`.
    pub fn read(data: &Path) -> Result<Control> {
        const VERSION: usize = 8;
        const REDO: usize = 40;
        const WAL_LOG_HINTS: usize = 176;
        const TRACK_COMMIT_TIMESTAMP: usize = 200;
        const CHECKSUM_VERSION: usize = 252;
        let path = data.join("global/pg_control");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let field = |at: usize, len: usize| -> Result<u64> {
            let field = bytes.get(at..at + len).context("the control file is cut short")?;
            Ok(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
        };
        let version = field(VERSION, 4)?;
        ensure!(
            [1300, 1700, 1800].contains(&version),
            "{}: control file version {version}, expected one of Postgres 14 to 18",
            path.display()
        );
        Ok(Control {
            redo: Lsn(field(REDO, 8)?),
            hints_are_logged: field(WAL_LOG_HINTS, 1)? != 0 || field(CHECKSUM_VERSION, 4)? != 0,
            tracks_commit_timestamp: field(TRACK_COMMIT_TIMESTAMP, 1)? != 0,
        })
    }
}

/// Where WAL must be replayed from: the backup's start, or the last checkpoint's redo position.
pub fn start(data: &Path, control: &Control) -> Result<Lsn> {
    let path = data.join("backup_label");
    if !path.exists() {
        return Ok(control.redo);
    }
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "));
    let lsn = line.and_then(|line| line.split_whitespace().next());
    Ok(lsn.with_context(|| format!("{} has no start", path.display()))?.parse()?)
}

/// The page, all zero if the base has none.
pub fn page(data: &Path, place: Place) -> Result<PageBytes> {
    let found = match place {
        Place::Block(tag) => block_place(data, tag)?,
        Place::Log(log, number) => log_place(data, log, number)?,
    };
    let mut page = [0; PAGE_BYTES];
    let Some((path, index)) = found else { return Ok(page) };
    let opened = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let offset = index * PAGE_BYTES as u64;
    let mut read = 0;
    while read < PAGE_BYTES {
        match opened.read_at(&mut page[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) => bail!("cannot read {}: {error}", path.display()),
        }
    }
    Ok(page)
}

/// A block's file and its place in it, in pages.
fn block_place(data: &Path, tag: BlockTag) -> Result<Option<(PathBuf, u64)>> {
    let file = relation_files(data)?.into_iter().find(|file| {
        file.relation == tag.relation
            && file.fork == tag.fork
            && file.first_block == tag.block - tag.block % BLOCKS_PER_FILE
    });
    Ok(file.map(|file| (file.path, u64::from(tag.block - file.first_block))))
}

/// The same of a simple log's page. Files are named by their segment in hexadecimal, with digits as the version likes.
fn log_place(data: &Path, log: Slru, number: u64) -> Result<Option<(PathBuf, u64)>> {
    let segment = number / PAGES_PER_SEGMENT;
    let file = entries(&data.join(log.folder()))?
        .into_iter()
        .find(|(name, _)| u64::from_str_radix(name, 16) == Ok(segment));
    Ok(file.map(|(_, path)| (path, number % PAGES_PER_SEGMENT)))
}
