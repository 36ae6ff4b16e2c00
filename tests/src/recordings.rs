//! Recorded connections (`.nwt.zst`) of real programs, and where they are.
//!
//! A file is `NWT1`, then records to its end: kind (one byte), microseconds since the connection was accepted (8 bytes),
//! length (4 bytes), bytes; integers little-endian. A record is what one socket read returned: it knows no message
//! borders, so readers join the bytes of one direction first.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub mod conversation;

/// Largest recording that is unpacked; the largest one there is has a few MB.
const RECORDING_BYTES_MAX: u64 = 256 << 20;

/// What a record of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Bytes from the client to the server.
    ClientBytes,
    /// Bytes from the server to the client.
    ServerBytes,
    /// The client closed its sending side.
    ClientClosed,
    /// The server closed.
    ServerClosed,
}

/// One record of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: RecordKind,
    /// When, in microseconds since the connection was accepted.
    pub time_us: u64,
    /// The bytes; none for closing.
    pub bytes: Vec<u8>,
}

/// One recorded connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Its records in order.
    pub records: Vec<Record>,
}

impl Recording {
    /// Reads a `.nwt.zst` file.
    pub fn read(path: &Path) -> Result<Recording> {
        let bytes = unpacked(path)?;
        let mut rest = bytes
            .strip_prefix(b"NWT1")
            .with_context(|| format!("{} does not begin with NWT1", path.display()))?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (header, after) = rest.split_at_checked(13).context("a record's header is cut")?;
            let kind = match header[0] {
                0 => RecordKind::ClientBytes,
                1 => RecordKind::ServerBytes,
                2 => RecordKind::ClientClosed,
                3 => RecordKind::ServerClosed,
                other => bail!("{}: record of kind {other}", path.display()),
            };
            let time_us = u64::from_le_bytes(header[1..9].try_into().context("8 bytes")?);
            let length = u32::from_le_bytes(header[9..13].try_into().context("4 bytes")?) as usize;
            let (bytes, after) = after.split_at_checked(length).context("a record is cut")?;
            records.push(Record { kind, time_us, bytes: bytes.to_vec() });
            rest = after;
        }
        Ok(Recording { records })
    }

    /// All bytes of one direction, joined.
    pub fn joined(&self, kind: RecordKind) -> Vec<u8> {
        let records = self.records.iter().filter(|record| record.kind == kind);
        records.flat_map(|record| record.bytes.iter().copied()).collect()
    }
}

/// The directory with the recordings: `FIRN_SHARED`, or `shared` beside the workspace, or beside the repository that this
/// work tree belongs to.
pub fn shared_directory() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let candidates = match std::env::var_os("FIRN_SHARED") {
        Some(given) => vec![PathBuf::from(given)],
        None => std::iter::once(workspace.join("../shared"))
            .chain(repository_of(&workspace).map(|repository| repository.join("../shared")))
            .collect(),
    };
    let found = candidates.iter().find(|directory| directory.join("golden").is_dir());
    found.cloned().with_context(|| {
        format!("no recordings (a directory with golden/ in it) in {candidates:?}: set FIRN_SHARED")
    })
}

/// The repository's own directory when `workspace` is a linked work tree: its `.git` is then a file that names a folder
/// inside the repository's.
fn repository_of(workspace: &Path) -> Option<PathBuf> {
    let link = fs::read_to_string(workspace.join(".git")).ok()?;
    let folder = Path::new(link.strip_prefix("gitdir:")?.trim());
    let git = folder.ancestors().find(|ancestor| ancestor.ends_with(".git"))?;
    git.parent().map(Path::to_path_buf)
}

/// The recorded connections of one scenario (as `a1-first-start`), by name, in the order of connecting.
pub fn scenario(name: &str) -> Result<Vec<(String, Recording)>> {
    let folder = shared_directory()?.join("golden/neon/wire").join(name);
    let entries =
        fs::read_dir(&folder).with_context(|| format!("no scenario at {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(connection) = file_name.strip_suffix(".nwt.zst") {
            found.push((connection.to_string(), Recording::read(&path)?));
        }
    }
    Ok(found)
}

/// The content of a `.zst` file.
pub fn unpacked(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let file =
        fs::File::open(path).with_context(|| format!("no recording at {}", path.display()))?;
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(27)?;
    let mut bytes = Vec::new();
    decoder
        .take(RECORDING_BYTES_MAX)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{} is damaged", path.display()))?;
    Ok(bytes)
}
