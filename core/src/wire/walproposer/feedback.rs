//! Feedback that travels from WAL readers through acceptors to the proposer.

use crate::types::Lsn;
use crate::wire::WireError;
use crate::wire::bytes::{Put, Reader};

/// Which rows hot standbys still need, combined over all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// Microseconds since 2000-01-01 of the latest message; 0 = none.
    pub timestamp_us: i64,
    /// Oldest transaction a standby needs, epoch in the upper half; 0 = none.
    pub xmin: u64,
    /// The same for catalogs.
    pub catalog_xmin: u64,
}

/// How far a page store is, as a block of named values: one count byte, then per value a name that ends with a zero
/// byte, an `i32` length and the value, all big-endian in both protocol versions. Unknown names are skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageserverFeedback {
    /// Logical size in bytes.
    pub timeline_size_bytes: u64,
    /// End of the WAL it has taken in.
    pub received_lsn: Lsn,
    /// What it has on its own disk.
    pub disk_consistent_lsn: Lsn,
    /// What it has in object storage.
    pub remote_consistent_lsn: Lsn,
    /// Microseconds since 2000-01-01 when it said so.
    pub reply_time_us: i64,
    /// Which shard of a sharded tenant; not written when 0.
    pub shard_number: u32,
    /// It found a page that cannot be right; not written when false.
    pub corruption_detected: bool,
}

const SIZE: &str = "current_timeline_size";
const RECEIVED: &str = "ps_writelsn";
const DISK: &str = "ps_flushlsn";
const REMOTE: &str = "ps_applylsn";
const REPLY_TIME: &str = "ps_replytime";
const SHARD: &str = "shard_number";
const CORRUPTION: &str = "corruption_detected";

impl PageserverFeedback {
    /// Reads a block that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<PageserverFeedback, WireError> {
        let mut reader = Reader::new("pageserver feedback", bytes);
        let feedback = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(feedback)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<PageserverFeedback, WireError> {
        let mut feedback = PageserverFeedback::default();
        let count = reader.u8()?;
        for _ in 0..count {
            let name = reader.text("name")?;
            let len = reader.i32_be()?;
            let len = usize::try_from(len)
                .map_err(|_| reader.out_of_range("value length", "at least 0", len as u64))?;
            let value = reader.take(len)?;
            let mut value = Reader::new("pageserver feedback value", value);
            match name {
                SIZE => feedback.timeline_size_bytes = value.u64_be()?,
                RECEIVED | "last_received_lsn" => feedback.received_lsn = value.lsn_be()?,
                DISK | "disk_consistent_lsn" => feedback.disk_consistent_lsn = value.lsn_be()?,
                REMOTE | "remote_consistent_lsn" => {
                    feedback.remote_consistent_lsn = value.lsn_be()?
                }
                REPLY_TIME | "replytime" => feedback.reply_time_us = value.i64_be()?,
                SHARD => feedback.shard_number = value.u32_be()?,
                CORRUPTION => feedback.corruption_detected = value.u8()? != 0,
                _ => continue,
            }
            value.finish()?;
        }
        Ok(feedback)
    }

    /// Appends the block to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        const ALWAYS: u8 = 5;
        let optional = u8::from(self.shard_number != 0) + u8::from(self.corruption_detected);
        out.put(&[ALWAYS + optional]);
        put_value(out, SIZE, &self.timeline_size_bytes.to_be_bytes());
        put_value(out, RECEIVED, &self.received_lsn.0.to_be_bytes());
        put_value(out, DISK, &self.disk_consistent_lsn.0.to_be_bytes());
        put_value(out, REMOTE, &self.remote_consistent_lsn.0.to_be_bytes());
        put_value(out, REPLY_TIME, &self.reply_time_us.to_be_bytes());
        if self.shard_number != 0 {
            put_value(out, SHARD, &self.shard_number.to_be_bytes());
        }
        if self.corruption_detected {
            put_value(out, CORRUPTION, &[1]);
        }
    }
}

fn put_value(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.put_text(name);
    out.put_u32_be(value.len() as u32);
    out.put(value);
}
