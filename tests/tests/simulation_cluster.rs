//! Whole clusters on simulated machines, seed by seed.

use firn_tests::simulation::cluster::world::run;
use firn_tests::simulation::runner::Runner;

/// What every batch of seeds must have met.
const MARKS: [&str; 38] = [
    "acceptor.refused_unknown_timeline",
    "cluster.damaged_node_replaced",
    "cluster.fenced",
    "fault.clock_jumped",
    "fault.disk_emptied",
    "fault.disk_full",
    "fault.disk_slow",
    "fault.flush_fails",
    "fault.killed_while_starting",
    "fault.members_change",
    "fault.node_killed",
    "fault.one_way_partition",
    "fault.operator_left",
    "fault.partition",
    "fault.primary_crashed",
    "fault.primary_promoted",
    "fault.primary_rolled_back",
    "fault.relay_killed",
    "fault.relays_compete",
    "fault.rot",
    "fault.shard_count_changed",
    "fault.voter_killed",
    "journal.completed_out_of_order",
    "journal.layout_switched",
    "journal.moved_to_file",
    "journal.recycled_segment",
    "journal.stale_use",
    "journal.torn_snapshot",
    "members.added",
    "members.removed",
    "members.replaced",
    "operator.goes_on",
    "operator.joint_taken",
    "primary.half_record",
    "primary.lost_tail",
    "primary.overwrote_half_record",
    "relay.turned_to_another_member",
    "timeline.reseeded",
];

/// What a batch of at least [`SEEDS_FOR_RARE_MARKS`] must have met too: about one seed in 150 does.
const RARE_MARKS: [&str; 1] = ["timeline.reseed_refused"];

/// See [`RARE_MARKS`].
const SEEDS_FOR_RARE_MARKS: u64 = 5_000;

/// Seeds of a run that is told nothing: enough for every mark many times over.
const SEEDS: u64 = 160;

#[test]
fn nothing_acknowledged_is_lost() {
    let runner = Runner::from_environment(SEEDS);
    let mut marks = MARKS.to_vec();
    if runner.count() >= SEEDS_FOR_RARE_MARKS {
        marks.extend(RARE_MARKS);
    }
    runner.run(&marks, |seed| {
        let outcome = run(seed)?;
        assert!(outcome.messages >= 5_000 && outcome.faults >= 3, "{outcome:?}");
        Ok(outcome.acknowledged as u64)
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(1), run(1));
}
