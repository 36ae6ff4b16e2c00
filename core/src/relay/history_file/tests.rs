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
fn a_switch_at_or_past_the_commit_is_followed_and_one_before_is_not() {
    let path = path();
    let check = |held, lsn| path.check_not_left_before(PostgresTimeline(held), Lsn(lsn));
    assert_eq!(check(1, 0x300_0100), Ok(()));
    assert_eq!(check(1, 0x300_0148), Ok(()));
    let refused = check(1, 0x300_0150).unwrap_err();
    assert_eq!((refused.left, refused.entered, refused.at), (1, 2, Lsn(0x300_0148)));
    let refused = check(2, 0x500_0008).unwrap_err();
    assert_eq!((refused.left, refused.entered), (2, 4));
    assert_eq!(check(4, 0x900_0000), Ok(()));
    assert_eq!(
        TimelinePath::first(PostgresTimeline(1)).check_not_left_before(PostgresTimeline(1), Lsn(9)),
        Ok(())
    );
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
