//! Entries read back out of pages of simple logs, for people.

use std::fmt;

use super::{GROUP_BYTES, MEMBERS_PER_GROUP, Slru, TIMESTAMP_BYTES};
use crate::postgres::page::PageBytes;

/// One entry of a page that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A transaction's status: 1 committed, 2 aborted, 3 committed as part of a transaction that may not have been yet.
    Status(u8),
    /// When a transaction committed, in microseconds since 2000-01-01, and its origin.
    Timestamp {
        /// The time.
        time_us: i64,
        /// The origin, 0 = none.
        origin: u16,
    },
    /// Where a multixact's members begin.
    Offset(u32),
    /// A multixact's member.
    Member {
        /// The transaction.
        xid: u32,
        /// What it did to the tuple (MultiXactStatus).
        status: u8,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Status(1) => f.write_str("committed"),
            Entry::Status(2) => f.write_str("aborted"),
            Entry::Status(_) => f.write_str("sub-committed"),
            Entry::Timestamp { time_us, origin } => write!(f, "time {time_us} us, origin {origin}"),
            Entry::Offset(offset) => write!(f, "members from {offset}"),
            Entry::Member { xid, status } => write!(f, "xid {xid}, status {status}"),
        }
    }
}

/// The entries of the page `number` that are not empty, by their transaction, multixact or member index.
pub fn entries(
    slru: Slru,
    number: u64,
    page: &PageBytes,
) -> impl Iterator<Item = (u64, Entry)> + '_ {
    let first = number.saturating_mul(slru.entries_per_page().into());
    (0..slru.entries_per_page()).filter_map(move |index| {
        Some((first.saturating_add(index.into()), entry(slru, index as usize, page)?))
    })
}

fn entry(slru: Slru, index: usize, page: &PageBytes) -> Option<Entry> {
    let u32_at =
        |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let entry = match slru {
        Slru::TransactionStatus => Entry::Status(page[index / 4] >> (index % 4 * 2) & 3),
        Slru::CommitTimestamp => {
            let at = index * TIMESTAMP_BYTES;
            let time_us = u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
            let origin = u16::from_le_bytes([page[at + 8], page[at + 9]]);
            Entry::Timestamp { time_us: time_us as i64, origin }
        }
        Slru::MultiXactOffsets => Entry::Offset(u32_at(index * 4)),
        Slru::MultiXactMembers => {
            let per_group = MEMBERS_PER_GROUP as usize;
            let (group, member) = (index / per_group * GROUP_BYTES, index % per_group);
            Entry::Member {
                xid: u32_at(group + per_group + member * 4),
                status: page[group + member],
            }
        }
    };
    let empty = matches!(
        entry,
        Entry::Status(0)
            | Entry::Timestamp { time_us: 0, .. }
            | Entry::Offset(0)
            | Entry::Member { xid: 0, .. }
    );
    (!empty).then_some(entry)
}
