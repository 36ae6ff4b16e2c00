//! Damage to a node's disk that is its own to notice.

use std::fs;

use anyhow::{Result, bail};
use firn_core::journal::BLOCK_BYTES;
use firn_core::journal::inspect::{Item, items};
use firn_core::journal::segment::{HeaderBlock, SegmentHeader};

use crate::local::node::NodeProcess;

/// Flips a bit in the first frame with an entry of this kind, in any of the node's journals. The node must not be running.
pub fn rot_frame_with(node: &NodeProcess, kind: &str) -> Result<()> {
    for shard in fs::read_dir(node.data())? {
        let directory = shard?.path().join("journal");
        if !directory.is_dir() {
            continue;
        }
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            let is_segment = |name: &str| name.starts_with("SEGMENT-");
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_segment) {
                continue;
            }
            let mut bytes = fs::read(&path)?;
            let header = match bytes.get(..BLOCK_BYTES).map(SegmentHeader::decode) {
                Some(Ok(HeaderBlock::Valid(header))) => header,
                _ => continue,
            };
            let is_kind = |entries: &[String]| entries.iter().any(|entry| entry.starts_with(kind));
            let found = items(&header, &bytes).find_map(|item| match item {
                Item::Frame { offset_bytes, entries, .. } if is_kind(&entries) => {
                    Some(offset_bytes as usize)
                }
                _ => None,
            });
            if let Some(offset) = found {
                bytes[offset + 100] ^= 1;
                return Ok(fs::write(&path, &bytes)?);
            }
        }
    }
    bail!("no frame has an entry {kind}")
}
