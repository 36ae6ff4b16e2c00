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
