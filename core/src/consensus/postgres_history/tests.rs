use super::*;

fn history(entries: &[(u32, u64)]) -> PostgresHistory {
    let switch =
        |&(timeline, lsn)| PostgresSwitch { timeline: PostgresTimeline(timeline), lsn: Lsn(lsn) };
    PostgresHistory(entries.iter().map(switch).collect())
}

#[test]
fn a_byte_belongs_to_the_last_timeline_begun() {
    assert_eq!(PostgresHistory::default().timeline_at(Lsn(7)), PostgresTimeline(1));
    let two = history(&[(1, 0), (3, 100)]);
    assert_eq!(two.timeline_at(Lsn(99)), PostgresTimeline(1));
    assert_eq!(two.timeline_at(Lsn(100)), PostgresTimeline(3));
    assert_eq!(history(&[(4, 100)]).timeline_at(Lsn(5)), PostgresTimeline(4));
}

#[test]
fn order_and_bound_are_checked() {
    assert_eq!(history(&[(1, 0), (2, 8), (3, 8)]).validate(), Ok(()));
    let back = history(&[(1, 0), (2, 8), (2, 9)]).validate();
    assert_eq!(back, Err(PostgresHistoryError::OutOfOrder { entry: 2 }));
    let long: Vec<_> = (0..=SWITCHES_MAX as u32).map(|n| (n, 0)).collect();
    assert!(history(&long).validate().is_err());
}

#[test]
fn a_switch_is_settled_when_wal_behind_it_is_committed() {
    let all = history(&[(1, 0), (2, 100), (4, 100), (5, 300)]);
    assert_eq!(all.settled(Lsn(0)), history(&[(1, 0)]));
    assert_eq!(all.settled(Lsn(100)), history(&[(1, 0)]));
    assert_eq!(all.settled(Lsn(101)), history(&[(1, 0), (2, 100), (4, 100)]));
    assert_eq!(history(&[(3, 50)]).settled(Lsn(0)), history(&[(3, 50)]));
    assert_eq!(PostgresHistory::default().settled(Lsn(9)), PostgresHistory::default());
}

#[test]
fn timelines_know_their_begin_and_what_follows() {
    let all = history(&[(1, 0), (2, 100), (4, 300)]);
    let after = |timeline| all.after(PostgresTimeline(timeline)).map(|next| next.timeline.0);
    assert_eq!([after(1), after(2), after(4)], [Some(2), Some(4), None]);
    assert_eq!(all.begin_of(PostgresTimeline(1)), Lsn(0));
    assert_eq!(all.begin_of(PostgresTimeline(4)), Lsn(300));
    assert_eq!(history(&[(3, 50)]).begin_of(PostgresTimeline(3)), Lsn(0));
    assert_eq!(
        (all.last(), PostgresHistory::default().last()),
        (PostgresTimeline(4), PostgresTimeline(1))
    );
    assert!(all.contains(PostgresTimeline(2)) && !all.contains(PostgresTimeline(3)));
    assert!(PostgresHistory::default().contains(PostgresTimeline(1)));
}
