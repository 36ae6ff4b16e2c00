use super::*;
use crate::postgres::redo::effect::Parameters;

fn kept(effect: Effect<'_>, slru: Slru, pages: &[u64]) -> Vec<u64> {
    pages.iter().copied().filter(|&page| !drops(&effect, slru, page)).collect()
}

#[test]
fn truncation_drops_whole_segments_before_the_page() {
    let cut = |slru, page| Effect::SlruTruncate { slru, page, oldest_xid: 0 };
    let status = Slru::TransactionStatus;
    assert_eq!(kept(cut(status, 70), status, &[0, 31, 32, 63, 64, 69, 70, 96]), [64, 69, 70, 96]);
    assert_eq!(kept(cut(status, 70), Slru::CommitTimestamp, &[0, 64]), [0, 64]);
    // 2^32 transactions are 131,072 pages: the last are before the first again.
    assert_eq!(kept(cut(status, 40), status, &[131_071, 0, 32, 33]), [32, 33]);
    assert_eq!(kept(cut(status, 131_040), status, &[131_000, 131_040, 3]), [131_040, 3]);
}

#[test]
fn multixact_truncation_cuts_both_logs() {
    let cut = |multixact, members_from, members_to| Effect::MultiXactTruncate {
        multixact,
        members_from,
        members_to,
        oldest_database: 1,
    };
    let offsets = Slru::MultiXactOffsets;
    assert_eq!(kept(cut(65_537, 1, 1), offsets, &[0, 31, 32]), [32]);
    // The last multixact that goes is in the first segment, which therefore stays.
    assert_eq!(kept(cut(65_536, 1, 1), offsets, &[0, 31, 32]), [0, 31, 32]);
    let members = Slru::MultiXactMembers;
    let segment = MEMBERS_PER_PAGE * PAGES_PER_SEGMENT as u32;
    assert_eq!(kept(cut(1, 1, 2 * segment), members, &[0, 63, 64]), [64]);
    let wrapped = cut(1, 4_000_000_000, segment);
    let first = u64::from(4_000_000_000 / MEMBERS_PER_PAGE);
    assert_eq!(
        kept(wrapped, members, &[0, 31, 32, first - 32, first, first + 32]),
        [32, first - 32]
    );
}

#[test]
fn commit_timestamps_go_when_they_are_switched_off() {
    let off = Effect::Parameters(Parameters::default());
    assert!(drops(&off, Slru::CommitTimestamp, 7));
    assert!(!drops(&off, Slru::TransactionStatus, 7));
    let on = Parameters { track_commit_timestamp: true, ..Parameters::default() };
    assert!(!drops(&Effect::Parameters(on), Slru::CommitTimestamp, 7));
}

#[test]
fn entries_are_read_back_as_they_were_applied() {
    let applied = [
        (Effect::TransactionEnd { xid: 32_770, committed: true }, 32_770, Entry::Status(1)),
        (Effect::TransactionEnd { xid: 65_535, committed: false }, 65_535, Entry::Status(2)),
        (
            Effect::CommitTimestamp { xid: 1_637, time_us: -5, origin: 3 },
            1_637,
            Entry::Timestamp { time_us: -5, origin: 3 },
        ),
        (
            Effect::MultiXactOffset { multixact: 2_049, offset: 77, ahead: false },
            2_049,
            Entry::Offset(77),
        ),
        (
            Effect::MultiXactMember { offset: 3_271, xid: 9, status: 5 },
            3_271,
            Entry::Member { xid: 9, status: 5 },
        ),
    ];
    for (effect, index, entry) in applied {
        let (slru, number) = page_of(&effect).unwrap();
        assert_eq!(number, 1);
        let mut page = [0; 8192];
        apply(&effect, &mut page);
        assert_eq!(entries(slru, number, &page).collect::<Vec<_>>(), [(index, entry)]);
    }
}
