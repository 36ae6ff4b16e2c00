use std::time::Duration;

use super::*;

fn at(milliseconds: u64) -> MonotonicTime {
    MonotonicTime::default() + Duration::from_millis(milliseconds)
}

fn counts(metrics: &RelayMetrics) -> Vec<u64> {
    metrics.snapshot().stages.iter().map(|stage| stage.len()).collect()
}

#[test]
fn a_message_is_timed_from_stage_to_stage() {
    let metrics = RelayMetrics::default();
    metrics.begin_session();
    metrics.received(Lsn(100), 100, at(0));
    metrics.received(Lsn(200), 100, at(1));
    metrics.sent(Lsn(150), 150, at(2));
    // The second message is on its way to the acceptors still, so that no quorum can have it.
    metrics.committed(Lsn(150), at(5));
    assert_eq!(counts(&metrics), [1, 1, 0, 0]);
    metrics.sent(Lsn(200), 50, at(6));
    metrics.sent(Lsn(200), 200, at(7));
    metrics.committed(Lsn(200), at(8));
    metrics.reported(Lsn(200), at(9));
    assert_eq!(counts(&metrics), [2, 2, 2, 2]);
    let total = &metrics.snapshot().stages[3];
    assert_eq!(total.count_between(8_000_000, 9_100_000), 2);
}

#[test]
fn what_is_timed_has_a_bound_and_ends_with_the_session() {
    let metrics = RelayMetrics::default();
    for end in 1..=2 * TIMED_MAX as u64 {
        metrics.received(Lsn(end), 1, at(0));
    }
    assert_eq!(metrics.on_the_way.borrow().len(), TIMED_MAX);
    metrics.begin_session();
    metrics.sent(Lsn(u64::MAX), 1, at(1));
    assert_eq!(counts(&metrics), [0, 0, 0, 0]);
    assert_eq!(metrics.counters.wal_messages.get(), 2 * TIMED_MAX as u64);
}
