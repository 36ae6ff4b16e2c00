//! Whole clusters on simulated machines, seed by seed.

use firn_tests::simulation::cluster::world::run;
use firn_tests::simulation::runner::Runner;

/// What every batch of seeds must have met.
const MARKS: [&str; 17] = [
    "cluster.fenced",
    "fault.clock_jumped",
    "fault.disk_emptied",
    "fault.disk_full",
    "fault.disk_slow",
    "fault.flush_fails",
    "fault.node_killed",
    "fault.one_way_partition",
    "fault.partition",
    "fault.primary_crashed",
    "fault.primary_promoted",
    "fault.relay_killed",
    "fault.relays_compete",
    "fault.rot",
    "fault.shard_count_changed",
    "fault.voter_killed",
    "primary.lost_tail",
];

#[test]
fn nothing_acknowledged_is_lost() {
    let runner = Runner::from_environment(16);
    runner.run(&MARKS, |seed| {
        let outcome = run(seed)?;
        assert!(outcome.messages >= 5_000 && outcome.faults >= 3, "{outcome:?}");
        Ok(outcome.acknowledged as u64)
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(1), run(1));
}
