//! The files of a stopped server's data directory that hold its [`State`].

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use firn_core::postgres::redo::effect::Parameters;
use firn_core::types::Lsn;

use super::state::State;
use crate::local::data_directory::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, entries};

/// Reads all of it.
pub fn read(data: &Path) -> Result<State> {
    let mut state = State::default();
    read_home(&mut state, &data.join("global"), (GLOBAL_TABLESPACE, 0))?;
    read_homes(&mut state, &data.join("base"), DEFAULT_TABLESPACE)?;
    for (name, path) in entries(&data.join("pg_tblspc"))? {
        let tablespace = name.parse().context("a tablespace's number")?;
        let place = match path.is_symlink() {
            true => fs::read_link(&path)?.as_os_str().as_bytes().to_vec(),
            false => Vec::new(),
        };
        state.tablespaces.insert(tablespace, place);
        for (name, path) in entries(&path)? {
            if name.starts_with("PG_") {
                read_homes(&mut state, &path, tablespace)?;
            }
        }
    }
    for (name, path) in entries(&data.join("pg_twophase"))? {
        // Versions from 17 on write the epoch before the xid.
        let xid = u64::from_str_radix(&name, 16).context("a prepared transaction's file name")?;
        state.two_phase.insert(xid as u32, without_crc(&path)?);
    }
    read_origins(&mut state, data)?;
    read_control(&mut state, data)?;
    Ok(state)
}

fn read_homes(state: &mut State, folder: &Path, tablespace: u32) -> Result<()> {
    for (name, path) in entries(folder)? {
        if let Ok(database) = name.parse() {
            read_home(state, &path, (tablespace, database))?;
        }
    }
    Ok(())
}

fn read_home(state: &mut State, folder: &Path, home: (u32, u32)) -> Result<()> {
    // Other databases' folders in a tablespace hold relations only.
    if folder.join("PG_VERSION").exists() {
        state.databases.insert(home);
    }
    let map = folder.join("pg_filenode.map");
    if map.exists() {
        state.relation_maps.insert(home, fs::read(map)?);
    }
    Ok(())
}

/// A file that ends with the CRC of what is before it.
fn without_crc(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let len = bytes.len().checked_sub(4).with_context(|| format!("{} is short", path.display()))?;
    let crc = u32_at(&bytes, len);
    bytes.truncate(len);
    ensure!(crc32c::crc32c(&bytes) == crc, "the CRC of {} is wrong", path.display());
    Ok(bytes)
}

/// Magic number, then an origin and its position in 16 bytes each (PostgreSQL src/backend/replication/logical/origin.c).
fn read_origins(state: &mut State, data: &Path) -> Result<()> {
    const MAGIC: u32 = 0x1257_DADE;
    let path = data.join("pg_logical/replorigin_checkpoint");
    if !path.exists() {
        return Ok(());
    }
    let bytes = without_crc(&path)?;
    ensure!(u32_at(&bytes, 0) == MAGIC, "{} has another magic number", path.display());
    for origin in bytes[4..].as_chunks::<16>().0 {
        let number = u16::from_le_bytes([origin[0], origin[1]]);
        state.origins.insert(number, Lsn(u64_at(origin, 8)));
    }
    Ok(())
}

fn read_control(state: &mut State, data: &Path) -> Result<()> {
    let bytes = fs::read(data.join("global/pg_control")).context("cannot read pg_control")?;
    state.checkpoint_lsn = Lsn(u64_at(&bytes, 32));
    state.checkpoint = bytes[40..128].to_vec();
    let number = |at| u32_at(&bytes, at).cast_signed();
    state.parameters = Parameters {
        wal_level: number(172),
        wal_log_hints: bytes[176] != 0,
        max_connections: number(180),
        max_worker_processes: number(184),
        max_wal_senders: number(188),
        max_prepared_transactions: number(192),
        max_locks_per_transaction: number(196),
        track_commit_timestamp: bytes[200] != 0,
    };
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("callers stay inside the file"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("callers stay inside the file"))
}
