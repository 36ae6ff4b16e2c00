//! The simulation notices bugs: each deliberate one is caught within a few seeds.
//!
//! Bugs exist only in builds with debug assertions. `Mutant::DropFrameIds` has its test with the recovery that it breaks:
//! it takes a tenant who writes frames into WAL to show (docs/records/016-what-a-life-id-is-for.md).
#![cfg(debug_assertions)]

use firn_core::mutant::{self, Mutant};
use firn_tests::simulation::runner::run_one;
use firn_tests::simulation::{cluster, consensus};

/// Seeds in which a mutant has to show; most do in the first.
const SEEDS_MAX: u64 = 30;

/// Says what a seed found, if anything.
type Simulation = fn(u64) -> Option<String>;

fn caught_by(mutant: Mutant, simulation: Simulation) {
    mutant::switch(Some(mutant));
    let found = (1..=SEEDS_MAX).find_map(|seed| Some((seed, simulation(seed)?)));
    mutant::switch(None);
    match found {
        Some((seed, violation)) => {
            println!("{mutant:?}: caught by seed {seed}: {violation}");
            assert_eq!(simulation(seed), None, "seed {seed} fails without a bug on purpose");
        }
        None => panic!("{mutant:?} lives: {SEEDS_MAX} seeds did not notice it"),
    }
}

fn in_consensus(seed: u64) -> Option<String> {
    run_one(seed, |seed| consensus::world::run(seed).map(|_| 0)).err()
}

fn in_cluster(seed: u64) -> Option<String> {
    run_one(seed, |seed| cluster::world::run(seed).map(|_| 0)).err()
}

#[test]
fn an_acceptor_that_skips_a_flush_is_caught() {
    caught_by(Mutant::SkipFlush, in_consensus);
}

#[test]
fn an_acceptor_that_ignores_a_term_is_caught() {
    caught_by(Mutant::IgnoreTerm, in_consensus);
}

#[test]
fn a_node_that_answers_for_an_unknown_timeline_is_caught() {
    caught_by(Mutant::AnswerUnknownTimeline, in_consensus);
}

#[test]
fn a_journal_that_acknowledges_out_of_order_is_caught() {
    caught_by(Mutant::AcknowledgeOutOfOrder, in_cluster);
}

#[test]
fn a_recovery_that_forgets_a_vote_is_caught() {
    caught_by(Mutant::ForgetVote, in_cluster);
}

#[test]
fn a_journal_that_writes_behind_a_cut_is_caught() {
    caught_by(Mutant::WriteBehindCut, in_cluster);
}

#[test]
fn a_journal_whose_lives_have_no_ids_is_caught() {
    caught_by(Mutant::DropLifeId, in_cluster);
}
