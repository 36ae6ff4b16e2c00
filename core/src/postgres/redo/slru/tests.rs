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
