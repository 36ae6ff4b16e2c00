use super::*;

const FILE: &str =
    "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t0/5000000\tbefore 2000-01-01\n";

fn path() -> TimelinePath {
    TimelinePath::parse(PostgresTimeline(4), FILE).unwrap()
}

#[test]
fn positions_belong_to_timelines() {
    let path = path();
    assert_eq!(path.timeline_at(Lsn(0x300_0147)), PostgresTimeline(1));
    assert_eq!(path.timeline_at(Lsn(0x300_0148)), PostgresTimeline(2));
    assert_eq!(path.timeline_at(Lsn(0x500_0000)), PostgresTimeline(4));
    let starts = path.starts(Lsn(0x100_0000));
    let expected = [(1, 0x100_0000), (2, 0x300_0148), (4, 0x500_0000)];
    assert_eq!(starts, expected.map(|(timeline, lsn)| (PostgresTimeline(timeline), Lsn(lsn))));
}

#[test]
fn a_switch_past_the_commit_is_followed_and_one_before_is_not() {
    let judge = |from, at, committed| path().judge_parting(Lsn(from), Lsn(at), Lsn(committed));
    let switch = Lsn(0x300_0148);
    assert_eq!(judge(0x300_0000, 0x300_0148, 0x300_0148), Parting::Follow { at: switch });
    assert_eq!(judge(0x300_0000, 0x300_0160, 0x300_0100), Parting::Follow { at: switch });
    let left = LeftBeforeCommit { left: 1, entered: 2, at: switch, committed: Lsn(0x300_0150) };
    assert_eq!(judge(0x300_0000, 0x300_0160, 0x300_0150), Parting::LeftBeforeCommit(left));
    let left =
        LeftBeforeCommit { left: 2, entered: 4, at: Lsn(0x500_0000), committed: Lsn(0x500_0008) };
    assert_eq!(judge(0x500_0000, 0x500_0000, 0x500_0008), Parting::LeftBeforeCommit(left));
}

#[test]
fn parting_elsewhere_is_a_difference() {
    let judge = |from, at| path().judge_parting(Lsn(from), Lsn(at), Lsn(0));
    assert_eq!(judge(0x200_0000, 0x300_0000), Parting::Different, "before the first switch");
    assert_eq!(judge(0x400_0000, 0x400_0100), Parting::Different, "the quorum has that switch too");
    let first = TimelinePath::first(PostgresTimeline(1));
    assert_eq!(first.judge_parting(Lsn(0), Lsn(9), Lsn(0)), Parting::Different);
}

#[test]
fn files_that_are_none_are_refused() {
    for text in ["1 0/10", "x\t0/10\tr", "1", "1\t0/zz\tr"] {
        let parsed = TimelinePath::parse(PostgresTimeline(2), text);
        assert_eq!(parsed.is_err(), text != "1 0/10", "{text:?}");
    }
    for text in ["2\t0/10\tr\n1\t0/20\tr", "1\t0/20\tr\n2\t0/10\tr", "7\t0/10\tr"] {
        assert!(matches!(
            TimelinePath::parse(PostgresTimeline(4), text),
            Err(HistoryFileError::OutOfOrder { .. })
        ));
    }
}
