//! The simulation notices bugs: each deliberate one is caught within a few seeds.
//!
//! Bugs exist only in builds with debug assertions. `Mutant::DropLifeId` has no test here: sequence numbers that never
//! repeat and the chain of CRCs stand behind the life id, and no seed was found that tells the difference.
#![cfg(debug_assertions)]

use std::panic::catch_unwind;

use firn_core::mutant::{self, Mutant};
use firn_tests::simulation::{cluster, consensus};

/// Seeds in which a mutant has to show; most do in the first.
const SEEDS_MAX: u64 = 30;

fn caught_by(mutant: Mutant, simulation: fn(u64) -> bool) {
    mutant::switch(Some(mutant));
    let seed = (1..=SEEDS_MAX).find(|seed| !simulation(*seed));
    mutant::switch(None);
    match seed {
        Some(seed) => {
            assert!(simulation(seed), "seed {seed} fails without a bug on purpose");
            println!("{mutant:?}: caught by seed {seed}");
        }
        None => panic!("{mutant:?} lives: {SEEDS_MAX} seeds did not notice it"),
    }
}

fn consensus_holds(seed: u64) -> bool {
    catch_unwind(|| consensus::world::run(seed)).is_ok_and(|outcome| outcome.is_ok())
}

#[test]
fn an_acceptor_that_skips_a_flush_is_caught() {
    caught_by(Mutant::SkipFlush, consensus_holds);
}

#[test]
fn an_acceptor_that_ignores_a_term_is_caught() {
    caught_by(Mutant::IgnoreTerm, consensus_holds);
}

#[test]
fn a_node_that_answers_for_an_unknown_timeline_is_caught() {
    caught_by(Mutant::AnswerUnknownTimeline, consensus_holds);
}

fn cluster_holds(seed: u64) -> bool {
    catch_unwind(|| cluster::world::run(seed)).is_ok_and(|outcome| outcome.is_ok())
}

#[test]
fn a_journal_that_acknowledges_out_of_order_is_caught() {
    caught_by(Mutant::AcknowledgeOutOfOrder, cluster_holds);
}

#[test]
fn a_recovery_that_forgets_a_vote_is_caught() {
    caught_by(Mutant::ForgetVote, cluster_holds);
}

#[test]
fn a_journal_that_writes_behind_a_cut_is_caught() {
    caught_by(Mutant::WriteBehindCut, cluster_holds);
}
