//! Records of real servers with the pages that they change, from `tests/golden/redo-samples`: seeds for fuzzing.

use std::path::PathBuf;

use anyhow::{Context, Result};
use firn_core::postgres::bytes::Reader;
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::wal::WalVersion;
use firn_core::types::Lsn;

use crate::recordings::unpacked;

/// One record, and one of its blocks as it was before and is after it: see [`crate::oracle::samples`].
#[derive(Debug, Clone)]
pub struct Sample {
    /// The Postgres that wrote it.
    pub version: WalVersion,
    /// Where it starts.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Reference to the block.
    pub block_id: u8,
    /// The record's bytes, header included.
    pub record: Vec<u8>,
    /// The block's page before.
    pub before: PageBytes,
    /// The block's page after.
    pub after: PageBytes,
}

/// All samples.
pub fn samples() -> Result<Vec<Sample>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/redo-samples");
    let mut samples = Vec::new();
    for version in [WalVersion::V15, WalVersion::V18] {
        let bytes = unpacked(&folder.join(format!("{version}.zst")))?;
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() {
            samples.push(sample(version, &mut reader).context("a sample is cut short")?);
        }
    }
    Ok(samples)
}

fn sample(version: WalVersion, reader: &mut Reader<'_>) -> Result<Sample> {
    let (start, end) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
    let (block_id, len) = (reader.u8()?, reader.u32()?);
    let record = reader.take(len as usize)?.to_vec();
    let mut page = || -> Result<PageBytes> {
        let bytes = reader.take(size_of::<PageBytes>())?;
        Ok(*bytes.first_chunk().context("a page is taken whole")?)
    };
    Ok(Sample { version, start, end, block_id, record, before: page()?, after: page()? })
}
