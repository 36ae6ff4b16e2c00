//! Records of real servers with the pages that they change, from `tests/golden/redo-samples`: seeds for fuzzing.

use std::path::PathBuf;

use anyhow::{Context, Result};
use firn_core::postgres::bytes::Reader;
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::redo::Outcome;
use firn_core::postgres::wal::WalVersion;
use firn_core::postgres::wal::names::rmgr;
use firn_core::types::Lsn;

use crate::neon_recording;
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

/// Records of Neon's own resource manager out of its recording: of each kind, and with and without a new page, the first
/// few that change a page.
pub fn neon_samples() -> Result<Vec<Sample>> {
    const OF_A_KIND: usize = 6;
    let mut samples: Vec<Sample> = Vec::new();
    let mut replay = neon_recording::Replay::new()?;
    neon_recording::each_record(|record| {
        replay.record(record, |block_id, before, after, outcome| {
            let kind = |sample: &Sample| (sample.record[16], sample.block_id);
            let of_a_kind =
                samples.iter().filter(|sample| kind(sample) == (record.info(), block_id)).count();
            if record.resource_manager() == rmgr::NEON
                && outcome == Outcome::Applied
                && of_a_kind < OF_A_KIND
            {
                samples.push(Sample {
                    version: record.version,
                    start: record.start,
                    end: record.end,
                    block_id,
                    record: record.bytes().to_vec(),
                    before: *before,
                    after: *after,
                });
            }
        })
    })?;
    Ok(samples)
}

/// The same record as Neon's Postgres 14 and 15 write it, by what is known of their format: no recording has one. The heap
/// manager's own operations, and the command id behind two bytes of padding where something is deleted or locked.
pub fn as_neon_heap(sample: &Sample) -> Sample {
    const SHORT_DATA: u8 = 255;
    let mut sample = sample.clone();
    sample.version = WalVersion::V15;
    let info = sample.record[16];
    let (manager, operation) = match info & 0x70 {
        0x30 => (rmgr::HEAP, 0x40),
        0x40 => (rmgr::HEAP, 0x60),
        0x50 => (rmgr::HEAP2, 0x50),
        same => (rmgr::HEAP, same),
    };
    (sample.record[16], sample.record[17]) = (operation | info & 0x8F, manager);
    // What is deleted or locked has 12 bytes of main data behind their sub-header; here they become 14.
    if let Some((head, data)) = sample.record.split_last_chunk::<14>()
        && let [SHORT_DATA, 12, x0, x1, x2, x3, rest @ ..] = *data
    {
        let (offset, infobits, flags, cid) = match (operation, rest) {
            (0x10, [o0, o1, infobits, flags, cid @ ..]) => ([o0, o1], infobits, flags, cid),
            (0x60, [c0, c1, c2, c3, o0, o1, infobits, flags]) => {
                ([o0, o1], infobits, flags, [c0, c1, c2, c3])
            }
            _ => return sample,
        };
        let mut record = head.to_vec();
        record.extend([SHORT_DATA, 14, x0, x1, x2, x3, offset[0], offset[1], 0, 0]);
        record.extend(cid);
        record.extend([infobits, flags]);
        let len = u32::try_from(record.len()).expect("a few bytes longer than a record");
        record[..4].copy_from_slice(&len.to_le_bytes());
        sample.record = record;
    }
    sample
}
