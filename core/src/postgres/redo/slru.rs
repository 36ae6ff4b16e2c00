//! Simple logs (SLRU): arrays indexed by transaction or multixact, in 8 KiB pages without header or LSN.
//!
//! A page store keeps their pages like others and applies effects to them with [`apply`]; all of it is idempotent, so
//! replaying twice does no harm (PostgreSQL src/backend/access/transam/{clog,commit_ts,multixact}.c).

mod entries;

pub use entries::{Entry, entries};

use super::Effect;
use crate::postgres::page::PageBytes;

/// Pages to a file of 256 KiB.
pub const PAGES_PER_SEGMENT: u64 = 32;

const XIDS_PER_STATUS_PAGE: u32 = 32_768;
const XIDS_PER_TIMESTAMP_PAGE: u32 = 819;
const TIMESTAMP_BYTES: usize = 10;
const OFFSETS_PER_PAGE: u32 = 2048;
/// Members come in groups of four: four flag bytes, then four transaction ids.
const MEMBERS_PER_GROUP: u32 = 4;
const GROUP_BYTES: usize = 20;
const MEMBERS_PER_PAGE: u32 = 1636;

/// A simple log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slru {
    /// Two bits for each transaction.
    TransactionStatus,
    /// When each transaction committed, and its origin.
    CommitTimestamp,
    /// Where the members of each multixact begin.
    MultiXactOffsets,
    /// Members of multixacts.
    MultiXactMembers,
}

impl Slru {
    /// All that WAL keeps.
    pub const ALL: [Slru; 4] = [
        Slru::TransactionStatus,
        Slru::CommitTimestamp,
        Slru::MultiXactOffsets,
        Slru::MultiXactMembers,
    ];

    /// Its folder in the data directory.
    pub fn folder(self) -> &'static str {
        match self {
            Slru::TransactionStatus => "pg_xact",
            Slru::CommitTimestamp => "pg_commit_ts",
            Slru::MultiXactOffsets => "pg_multixact/offsets",
            Slru::MultiXactMembers => "pg_multixact/members",
        }
    }

    fn entries_per_page(self) -> u32 {
        match self {
            Slru::TransactionStatus => XIDS_PER_STATUS_PAGE,
            Slru::CommitTimestamp => XIDS_PER_TIMESTAMP_PAGE,
            Slru::MultiXactOffsets => OFFSETS_PER_PAGE,
            Slru::MultiXactMembers => MEMBERS_PER_PAGE,
        }
    }
}

/// The page that an effect changes, if it changes one entry of a simple log.
pub fn page_of(effect: &Effect<'_>) -> Option<(Slru, u64)> {
    let (slru, page) = match *effect {
        Effect::TransactionEnd { xid, .. } => (Slru::TransactionStatus, xid / XIDS_PER_STATUS_PAGE),
        Effect::CommitTimestamp { xid, .. } => {
            (Slru::CommitTimestamp, xid / XIDS_PER_TIMESTAMP_PAGE)
        }
        Effect::MultiXactOffset { multixact, .. } => {
            (Slru::MultiXactOffsets, multixact / OFFSETS_PER_PAGE)
        }
        Effect::MultiXactMember { offset, .. } => {
            (Slru::MultiXactMembers, offset / MEMBERS_PER_PAGE)
        }
        _ => return None,
    };
    Some((slru, page.into()))
}

/// Writes an effect's entry into the page that [`page_of`] names; other effects do nothing.
pub fn apply(effect: &Effect<'_>, page: &mut PageBytes) {
    match *effect {
        Effect::TransactionEnd { xid, committed } => {
            let index = xid % XIDS_PER_STATUS_PAGE;
            let shift = index % 4 * 2;
            let byte = &mut page[index as usize / 4];
            *byte = *byte & !(3 << shift) | if committed { 1 } else { 2 } << shift;
        }
        Effect::CommitTimestamp { xid, time_us, origin } => {
            let at = (xid % XIDS_PER_TIMESTAMP_PAGE) as usize * TIMESTAMP_BYTES;
            page[at..at + 8].copy_from_slice(&time_us.to_le_bytes());
            page[at + 8..at + TIMESTAMP_BYTES].copy_from_slice(&origin.to_le_bytes());
        }
        Effect::MultiXactOffset { multixact, offset, .. } => {
            let at = (multixact % OFFSETS_PER_PAGE) as usize * 4;
            page[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        }
        Effect::MultiXactMember { offset, xid, status } => {
            let index = offset % MEMBERS_PER_PAGE;
            let group = (index / MEMBERS_PER_GROUP) as usize * GROUP_BYTES;
            let member = (index % MEMBERS_PER_GROUP) as usize;
            page[group + member] = status;
            let at = group + 4 + member * 4;
            page[at..at + 4].copy_from_slice(&xid.to_le_bytes());
        }
        _ => {}
    }
}

/// Whether an effect drops a page: whole segments that nobody needs any more go, and pages before a cut in the same segment
/// stay. Numbers of transactions and multixacts wrap, so a page is before another if it is less than half the space behind.
pub fn drops(effect: &Effect<'_>, slru: Slru, page: u64) -> bool {
    match *effect {
        Effect::SlruTruncate { slru: cut, page: first, .. } => {
            cut == slru && segment_precedes(page, first, slru.entries_per_page())
        }
        Effect::MultiXactTruncate { multixact, members_from, members_to, .. } => match slru {
            Slru::MultiXactOffsets => {
                // The page of the last multixact that goes: the next one's may not exist yet.
                let first = multixact.wrapping_sub(1) / OFFSETS_PER_PAGE;
                segment_precedes(page, first.into(), OFFSETS_PER_PAGE)
            }
            Slru::MultiXactMembers => {
                let segment =
                    |member: u32| u64::from(member / MEMBERS_PER_PAGE) / PAGES_PER_SEGMENT;
                let (from, to) = (segment(members_from), segment(members_to));
                let segment = page / PAGES_PER_SEGMENT;
                if from <= to {
                    (from..to).contains(&segment)
                } else {
                    segment >= from || segment < to
                }
            }
            Slru::TransactionStatus | Slru::CommitTimestamp => false,
        },
        Effect::Parameters(parameters) => {
            slru == Slru::CommitTimestamp && !parameters.track_commit_timestamp
        }
        _ => false,
    }
}

/// Whether the whole segment of `page` lies before the segment of `first`, modulo the space of entries.
fn segment_precedes(page: u64, first: u64, entries_per_page: u32) -> bool {
    let first_entry = |page: u64| {
        let first = page / PAGES_PER_SEGMENT * PAGES_PER_SEGMENT;
        (first as u32).wrapping_mul(entries_per_page)
    };
    (first_entry(page).wrapping_sub(first_entry(first)) as i32) < 0
}

/// Zeroes a page as SlruZeroPage says. Minor releases that learnt late to write the next multixact's offset do so before
/// that page's own zeroing record when they replay older WAL: an offsets page with nothing but its first entry stays.
pub fn zero(slru: Slru, page: &mut PageBytes) {
    if slru == Slru::MultiXactOffsets && page[4..].iter().all(|&byte| byte == 0) {
        return;
    }
    page.fill(0);
}

#[cfg(test)]
mod tests;
