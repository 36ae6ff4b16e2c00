//! Pure acceptors and proposers under faults, seed by seed.

use firn_tests::simulation::consensus::world::run;
use firn_tests::simulation::runner::Runner;

/// What every batch of seeds must have met.
const MARKS: [&str; 37] = [
    "fault.connection_cut",
    "fault.disk_emptied",
    "fault.disk_full",
    "fault.node_crashed",
    "fault.one_way_partition",
    "fault.partition",
    "fault.primary_crashed",
    "fault.primary_promoted",
    "fault.primary_rebuilt",
    "fault.primary_rolled_back",
    "fault.proposer_died",
    "fault.proposers_compete",
    "fault.term_bumped",
    "fault.writes_forgotten",
    "members.added",
    "members.lost_disk_replaced",
    "members.removed",
    "members.replaced",
    "node.acceptor_restarted",
    "node.full_disk_refused_wal",
    "node.full_disk_took_vote",
    "node.log_cut",
    "node.lost_writes",
    "node.reseeded",
    "node.unanswered_writes_survive",
    "node.unknown_timeline_refused",
    "operator.goes_on",
    "operator.joint_taken",
    "operator.left",
    "primary.half_record",
    "primary.lost_tail",
    "primary.overwrote_half_record",
    "proposer.fenced",
    "proposer.gave_up",
    "proposer.refused_its_primary",
    "proposer.stopped",
    "reseed.gave_up",
];

#[test]
fn nothing_acknowledged_is_lost() {
    let runner = Runner::from_environment(200);
    runner.run(&MARKS, |seed| {
        let outcome = run(seed)?;
        assert!(outcome.messages >= 5_000 && outcome.faults >= 3, "{outcome:?}");
        Ok(outcome.acknowledged as u64)
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).map(|outcome| outcome.trace), run(2).map(|outcome| outcome.trace));
}
