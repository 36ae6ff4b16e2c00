//! Crashes at any moment, from seeds: a process of one to three shards lives and dies on a disk in any weather.
//! `FIRN_SEED=N` replays one, `FIRN_SEEDS=N` runs so many.
//!
//! Every mark of the design's last list is required of a run, but for rot: which bits rot and what is then to be found
//! is in the tests of `faults.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_core::marks;

use super::crash::{Ledger, start_shards};
use crate::runtime::sim::{DiskFaults, MachineId, Simulation};

/// Seeds that a run takes without being told, half a minute of one core; with so many every mark below is required.
const SEEDS: u64 = 200;
const LIVES: u64 = 10;
const TIMELINES: u8 = 5;
const SHARDS_MAX: u64 = 3;

/// Branches at which processes die on purpose, a moment later.
const DEATHS_AT: [&str; 9] = [
    "journal.began_segment",
    "journal.recovering",
    "journal.snapshot_being_written",
    "journal.moving",
    "journal.moved_to_file",
    "journal.recycled_segment",
    "journal.layout_about_to_switch",
    "journal.layout_switched",
    "journal.completed_out_of_order",
];

/// Branches that a run must have passed.
const REQUIRED: [&str; 17] = [
    "journal.completed_out_of_order",
    "journal.forwarded_tail",
    "journal.hole_in_flight",
    "journal.layout_switch_repeated",
    "journal.moved_after_truncate",
    "journal.moved_to_file",
    "journal.poisoned",
    "journal.read_failed",
    "journal.reader_on_segment_to_recycle",
    "journal.rechecked_piece",
    "journal.recycled_segment",
    "journal.stale_use",
    "journal.stuck",
    "journal.torn_snapshot",
    "journal.valid_frame_behind_cut",
    "journal.void_life",
    "journal.waits_for_snapshot",
];

/// What the disk does in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Calm,
    SlowReads,
    FailingReads,
    FailingWrites,
    FullDisk,
}

/// What seeds have seen.
#[derive(Debug, Default)]
struct Seen {
    steps: u64,
    /// Deaths at each branch.
    deaths: BTreeMap<&'static str, u64>,
    /// Lives in which a shard did not open, by weather.
    refused: BTreeMap<Weather, u64>,
    poisoned: u64,
    read_errors: u64,
    votes_on_full_disk: u64,
}

struct Run {
    simulation: Simulation,
    machine: MachineId,
    ledger: Ledger,
}

impl Run {
    fn new(seed: u64) -> Run {
        let simulation = Simulation::new(seed);
        let machine = simulation.add_machine("node");
        Run { simulation, machine, ledger: Ledger::new(TIMELINES) }
    }

    fn one_in(&self, chance: u64) -> bool {
        self.simulation.random_below(chance) == 0
    }

    /// Some time below a bound.
    fn pass(&self, below_us: u64) {
        self.simulation.run_for(Duration::from_micros(self.simulation.random_below(below_us)));
    }

    fn life(&self, seen: &mut Seen) {
        let weather = match self.simulation.random_below(8) {
            0 => Weather::SlowReads,
            1 => Weather::FailingReads,
            2 => Weather::FailingWrites,
            3 => Weather::FullDisk,
            _ => Weather::Calm,
        };
        self.ledger.set_reads_may_fail(weather == Weather::FailingReads);
        self.simulation.set_disk(self.machine, faults(weather));
        let shards = 1 + self.simulation.random_below(SHARDS_MAX);
        start_shards(&self.simulation, self.machine, &self.ledger, shards as usize);
        if weather == Weather::FullDisk {
            self.pass(5_000);
            let capacity_bytes = self.simulation.disk_used_bytes(self.machine)
                + self.simulation.random_below(300_000);
            let faults = DiskFaults { capacity_bytes, ..DiskFaults::default() };
            self.simulation.set_disk(self.machine, faults);
        }
        self.die(seen);
        let refused = self.ledger.refused();
        assert!(weather != Weather::Calm || refused.is_empty(), "{refused:?}");
        if !refused.is_empty() {
            *seen.refused.entry(weather).or_default() += 1;
        }
        self.simulation.set_disk(self.machine, DiskFaults::default());
    }

    /// From a death in the middle of opening to several turns of the ring.
    fn die(&self, seen: &mut Seen) {
        match self.simulation.random_below(4) {
            0 => self.pass(3_000),
            1 => self.pass(40_000),
            _ => {
                let drawn = self.simulation.random_below(DEATHS_AT.len() as u64);
                let mark = DEATHS_AT[drawn as usize];
                let wanted = marks::count(mark) + 1 + self.simulation.random_below(3);
                let at_most = Duration::from_millis(30);
                if self.simulation.run_until(at_most, || marks::count(mark) >= wanted) {
                    *seen.deaths.entry(mark).or_default() += 1;
                    if !self.one_in(4) {
                        self.pass(300);
                    }
                }
            }
        }
        self.simulation.kill(self.machine);
    }
}

fn faults(weather: Weather) -> DiskFaults {
    let calm = DiskFaults::default();
    match weather {
        Weather::Calm | Weather::FullDisk => calm,
        Weather::SlowReads => DiskFaults { read_us: (1_000, 20_000), ..calm },
        Weather::FailingReads => DiskFaults { read_error: 50_000, ..calm },
        Weather::FailingWrites => DiskFaults { flush_error: 2_000, write_error: 1_000, ..calm },
    }
}

fn run_seed(seed: u64, seen: &mut Seen) {
    println!(
        "seed {seed}; replay: FIRN_SEED={seed} cargo nextest run -p firn-node acknowledged_is_never_lost"
    );
    let run = Run::new(seed);
    for _ in 0..LIVES {
        run.life(seen);
    }
    // In the end all that was acknowledged is there, and the journals go on.
    run.ledger.set_reads_may_fail(false);
    let shards = 1 + run.simulation.random_below(SHARDS_MAX);
    let poisoned = run.ledger.poisoned();
    start_shards(&run.simulation, run.machine, &run.ledger, shards as usize);
    assert!(run.simulation.run_until(Duration::from_secs(60), || run.ledger.is_open()));
    let steps = run.ledger.steps();
    let goes_on = || run.ledger.steps() > steps + 20;
    assert!(run.simulation.run_until(Duration::from_secs(60), goes_on));
    assert_eq!(run.ledger.poisoned(), poisoned);
    seen.steps += run.ledger.steps();
    seen.poisoned += poisoned;
    seen.read_errors += run.ledger.read_errors();
    seen.votes_on_full_disk += run.ledger.votes();
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("FIRN_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FIRN_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn acknowledged_is_never_lost() {
    marks::reset();
    let seeds = seeds();
    let mut seen = Seen::default();
    for seed in &seeds {
        run_seed(*seed, &mut seen);
    }
    let marks = marks::all();
    println!("{} seeds, {seen:?}, marks {marks:?}", seeds.len());
    if seeds.len() as u64 >= SEEDS {
        for mark in REQUIRED {
            assert!(marks.contains_key(mark), "{mark} was not hit");
        }
        for mark in DEATHS_AT {
            assert!(seen.deaths.contains_key(mark), "no death at {mark}");
        }
        for weather in [Weather::FailingReads, Weather::FailingWrites] {
            assert!(seen.refused.contains_key(&weather), "every start went well in {weather:?}");
        }
        assert!(seen.poisoned > 0 && seen.read_errors > 0 && seen.votes_on_full_disk > 0);
    }
}

#[test]
fn a_seed_gives_the_same_events_again() {
    let trace = |seed| {
        marks::reset();
        let run = Run::new(seed);
        for _ in 0..2 {
            run.life(&mut Seen::default());
        }
        run.simulation.trace()
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// Deliberate bugs exist only in builds with debug assertions.
#[cfg(debug_assertions)]
#[test]
fn acknowledging_out_of_order_is_caught() {
    use firn_core::mutant::{Mutant, switch};
    switch(Some(Mutant::AcknowledgeOutOfOrder));
    let caught = (0..20)
        .any(|seed| std::panic::catch_unwind(|| run_seed(seed, &mut Seen::default())).is_err());
    switch(None);
    assert!(caught);
}
