//! Whether WAL is of the Postgres timeline that a reader is told.
//!
//! A node learns bytes and the names of their timelines by separate messages. A reader must never get a timeline's WAL
//! under another one's number, and every page says whose it is.

use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::types::{Lsn, PostgresTimeline};

use super::PAGE_BYTES;

/// Where a page header has its timeline, 4 bytes, little-endian (PostgreSQL src/include/access/xlog_internal.h).
const TIMELINE_OFFSET_BYTES: usize = 4;

/// The first page in `wal` whose header names another timeline than the history, and that timeline. Pages before
/// `first` are not looked at: before a log's start they are made up.
pub(super) fn foreign_page(
    wal: &[u8],
    begin: Lsn,
    first: Lsn,
    history: &PostgresHistory,
) -> Option<(Lsn, PostgresTimeline)> {
    let to_page = (begin.0.next_multiple_of(PAGE_BYTES) - begin.0) as usize;
    let offsets = (to_page..wal.len()).step_by(PAGE_BYTES as usize);
    offsets.map(|offset| (begin + offset as u64, &wal[offset..])).find_map(|(page, bytes)| {
        let field = bytes.get(TIMELINE_OFFSET_BYTES..)?.first_chunk::<4>()?;
        let found = PostgresTimeline(u32::from_le_bytes(*field));
        // Zeros are not a page of anybody's.
        let foreign = found.0 != 0 && page >= first && found != history.timeline_at(page);
        foreign.then_some((page, found))
    })
}

#[cfg(test)]
mod tests {
    use firn_core::consensus::postgres_history::PostgresSwitch;

    use super::*;

    #[test]
    fn a_page_of_another_timeline_is_found() {
        let switch = |timeline, lsn| PostgresSwitch { timeline: PostgresTimeline(timeline), lsn };
        let history =
            PostgresHistory(vec![switch(1, Lsn(0)), switch(2, Lsn(5 * PAGE_BYTES + 100))]);
        let mut wal = vec![0; 5 * PAGE_BYTES as usize];
        let begin = Lsn(3 * PAGE_BYTES + 8);
        let name = |wal: &mut [u8], page: u64, timeline: u8| {
            wal[(page * PAGE_BYTES - begin.0) as usize + TIMELINE_OFFSET_BYTES] = timeline;
        };
        for (page, timeline) in [(4, 1), (5, 1), (6, 2), (7, 2)] {
            name(&mut wal, page, timeline);
        }
        let find = |wal: &[u8], first| foreign_page(wal, begin, first, &history);
        assert_eq!(find(&wal, Lsn(0)), None);
        assert_eq!(find(&wal[..PAGE_BYTES as usize - 4], Lsn(0)), None);
        name(&mut wal, 7, 0);
        assert_eq!(find(&wal, Lsn(0)), None);
        name(&mut wal, 4, 3);
        name(&mut wal, 7, 3);
        assert_eq!(find(&wal, Lsn(0)), Some((Lsn(4 * PAGE_BYTES), PostgresTimeline(3))));
        assert_eq!(
            find(&wal, begin + PAGE_BYTES),
            Some((Lsn(7 * PAGE_BYTES), PostgresTimeline(3)))
        );
    }
}
