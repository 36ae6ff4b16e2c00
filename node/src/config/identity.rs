//! Who a data directory belongs to: the node id, made once, and the lock that one process holds.
//!
//! The file `node`, one block of 4 KiB written by direct I/O, little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `FIRNNODE` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 8 | node id, not 0 |
//! | 24 | 8 | time of creation, microseconds since 1970 |
//! | 32 | 4 | CRC32C of bytes 0..32 |
//! | 36 | 4060 | zero |
//!
//! Reading and writing it is also the check that the directory takes direct I/O and writes at all.

use std::io;
use std::path::{Path, PathBuf};

use firn_core::types::NodeId;
use thiserror::Error;

use crate::runtime::{Buffer, FileLock, OpenOptions, Runtime};

const MAGIC: [u8; 8] = *b"FIRNNODE";
const VERSION: u32 = 1;
const FILE_BYTES: usize = 4096;
const CHECKED_BYTES: usize = 32;

/// Why a data directory cannot be this node's. Each is the one line that its user gets.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Another process runs on it.
    #[error("data directory {path} is in use by another firn-node process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing can be written.
    #[error("data directory {path} cannot be written: {source}")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system has no O_DIRECT.
    #[error(
        "data directory {path} is on a file system without direct I/O (O_DIRECT): {source}; choose another"
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what this module writes.
    #[error("{path} is damaged: expected {expected}, found {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Written by a later version.
    #[error("{path} has format version {found}, expected {VERSION}: run a newer firn-node")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Not the node that was asked for.
    #[error("data directory {path} belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The node of the command line.
        expected: NodeId,
        /// The node that made it.
        found: NodeId,
    },
    /// Files of a node, but not the one that says which.
    #[error(
        "data directory {path} holds {found} but no file `node`: it is not a firn data directory, or part of one"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Name of something in it.
        found: String,
    },
    /// Any other failure.
    #[error("data directory: {0}")]
    Io(#[from] io::Error),
}

/// A data directory that this process owns. Held as long as the node runs.
#[derive(Debug)]
pub struct DataDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub node_id: NodeId,
    /// Whether it was made just now.
    pub created: bool,
    _lock: FileLock,
}

impl DataDirectory {
    /// Takes the directory: locks it, then reads its node id, or makes one (`wanted`, or a random one).
    pub async fn open(
        runtime: &Runtime,
        path: &Path,
        wanted: Option<NodeId>,
    ) -> Result<DataDirectory, IdentityError> {
        let owned = || path.to_path_buf();
        let not_writable = |source| IdentityError::NotWritable { path: owned(), source };
        runtime.create_dir_all(path).await.map_err(not_writable)?;
        let lock = runtime.lock_file(path.join("lock")).await.map_err(not_writable)?;
        let lock = lock.ok_or_else(|| IdentityError::InUse { path: owned() })?;

        let file = path.join("node");
        let created = !runtime.exists(&file).await?;
        if created {
            refuse_foreign(runtime, path).await?;
            create(runtime, path, wanted).await?;
        }
        let node_id = read(runtime, path, &file).await?;
        match wanted {
            Some(expected) if expected != node_id => {
                Err(IdentityError::OtherNode { path: owned(), expected, found: node_id })
            }
            _ => Ok(DataDirectory { path: owned(), node_id, created, _lock: lock }),
        }
    }
}

/// Looks whether [`DataDirectory::open`] would take the directory, and changes nothing: whose it is, `None` when it is new.
pub async fn inspect(
    runtime: &Runtime,
    path: &Path,
    wanted: Option<NodeId>,
) -> Result<Option<NodeId>, IdentityError> {
    let owned = || path.to_path_buf();
    if !runtime.exists(path).await? {
        return Ok(None);
    }
    let lock = path.join("lock");
    if runtime.exists(&lock).await? && runtime.is_locked(&lock)? {
        return Err(IdentityError::InUse { path: owned() });
    }
    let file = path.join("node");
    if !runtime.exists(&file).await? {
        refuse_foreign(runtime, path).await?;
        return Ok(None);
    }
    let found = read(runtime, path, &file).await?;
    match wanted {
        Some(expected) if expected != found => {
            Err(IdentityError::OtherNode { path: owned(), expected, found })
        }
        _ => Ok(Some(found)),
    }
}

async fn refuse_foreign(runtime: &Runtime, path: &Path) -> Result<(), IdentityError> {
    // `lost+found` is what a fresh file system holds; an unfinished creation leaves `node.new`.
    let known = ["lock", "node.new", "lost+found"];
    let entries = runtime.list_dir(path).await?;
    match entries.into_iter().find(|entry| !known.contains(&entry.name.as_str())) {
        Some(entry) => Err(IdentityError::Foreign { path: path.into(), found: entry.name }),
        None => Ok(()),
    }
}

async fn create(
    runtime: &Runtime,
    path: &Path,
    wanted: Option<NodeId>,
) -> Result<(), IdentityError> {
    let not_writable = |source| IdentityError::NotWritable { path: path.to_path_buf(), source };
    let node_id = wanted.unwrap_or_else(|| random_node_id(runtime));
    let mut block = Buffer::zeroed(FILE_BYTES);
    block.copy_from_slice(&encode(node_id, runtime.unix_time_us()));
    let unfinished = path.join("node.new");
    let options = OpenOptions::read_write().create().truncate();
    let file = match runtime.open(&unfinished, options).await {
        Err(source) if source.kind() == io::ErrorKind::InvalidInput => {
            return Err(IdentityError::NoDirectIo { path: path.into(), source });
        }
        opened => opened.map_err(not_writable)?,
    };
    let (written, _) = file.write_durable_at(block, 0).await;
    written.map_err(not_writable)?;
    file.fdatasync().await?;
    drop(file);
    runtime.rename(&unfinished, path.join("node")).await?;
    runtime.sync_dir(path).await?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        runtime.sync_dir(parent).await?;
    }
    Ok(())
}

/// Below 2^53, so that tools which keep JSON numbers as floating point show it exactly.
fn random_node_id(runtime: &Runtime) -> NodeId {
    NodeId((runtime.random_u64() >> 11).max(1))
}

async fn read(runtime: &Runtime, path: &Path, file: &Path) -> Result<NodeId, IdentityError> {
    let opened = match runtime.open(file, OpenOptions::read()).await {
        Err(source) if source.kind() == io::ErrorKind::InvalidInput => {
            return Err(IdentityError::NoDirectIo { path: path.into(), source });
        }
        opened => opened?,
    };
    let (result, block) = opened.read_at(Buffer::zeroed(FILE_BYTES), 0).await;
    decode(file, &block[..result?.min(FILE_BYTES)])
}

fn encode(node_id: NodeId, created_unix_us: i64) -> [u8; FILE_BYTES] {
    let mut block = [0; FILE_BYTES];
    block[..8].copy_from_slice(&MAGIC);
    block[8..12].copy_from_slice(&VERSION.to_le_bytes());
    block[16..24].copy_from_slice(&node_id.0.to_le_bytes());
    block[24..32].copy_from_slice(&created_unix_us.to_le_bytes());
    let crc = crc32c::crc32c(&block[..CHECKED_BYTES]);
    block[32..36].copy_from_slice(&crc.to_le_bytes());
    block
}

fn decode(path: &Path, block: &[u8]) -> Result<NodeId, IdentityError> {
    let damaged =
        |expected, found| IdentityError::Damaged { path: path.to_path_buf(), expected, found };
    let u32_at = |offset: usize| {
        let bytes = block[offset..].first_chunk().expect("the length was checked");
        u32::from_le_bytes(*bytes)
    };
    if block.len() != FILE_BYTES {
        return Err(damaged("4096 bytes", format!("{} bytes", block.len())));
    }
    if block[..8] != MAGIC {
        return Err(damaged("magic FIRNNODE", format!("{:02x?}", &block[..8])));
    }
    // Before the CRC: a later version may check other bytes.
    if u32_at(8) != VERSION {
        return Err(IdentityError::NewerFormat { path: path.to_path_buf(), found: u32_at(8) });
    }
    let crc = crc32c::crc32c(&block[..CHECKED_BYTES]);
    if u32_at(32) != crc {
        return Err(damaged("the CRC of its bytes", format!("{:08x}, not {crc:08x}", u32_at(32))));
    }
    let id = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
    if id == 0 {
        return Err(damaged("a node id", "0".to_string()));
    }
    Ok(NodeId(id))
}

#[cfg(test)]
mod tests;
