//! Runs many seeds and reports: marks, failures, how to replay one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use firn_core::marks;

use super::checks::Violation;

/// Failing seeds after which a batch stops: a batch lists all that fail, but one in which everything fails ends.
const FAILURES_MAX: usize = 50;

/// Which seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Runner {
    first: u64,
    count: u64,
    replay: bool,
}

/// What a batch of seeds was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Every mark's hit count, the failing seeds, and how to replay each.
    pub text: String,
    /// Why the batch failed, in one line.
    pub problem: Option<String>,
}

impl Runner {
    /// `FIRN_SIMULATION_SEED` runs that seed alone; `FIRN_SIMULATION_SEEDS` says how many, otherwise `seeds`, and
    /// `FIRN_SIMULATION_FIRST` the first of them, otherwise 1.
    pub fn from_environment(seeds: u64) -> Runner {
        let runner = Runner::new(seeds, &|name| std::env::var(name).ok());
        if runner.replay {
            // A replay tells what the nodes and relays logged, as RUST_LOG asks.
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let format = tracing_subscriber::fmt().without_time().with_env_filter(filter);
            // Another test of the process may have been first.
            let _ = format.try_init();
        }
        runner
    }

    /// As [`Runner::from_environment`], from any environment.
    pub fn new(seeds: u64, variable: &dyn Fn(&str) -> Option<String>) -> Runner {
        let number = |name: &str| {
            let text = variable(name)?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
        };
        match number("FIRN_SIMULATION_SEED") {
            Some(seed) => Runner { first: seed, count: 1, replay: true },
            None => {
                let count = number("FIRN_SIMULATION_SEEDS").unwrap_or(seeds);
                let first = number("FIRN_SIMULATION_FIRST").unwrap_or(1);
                Runner { first, count, replay: false }
            }
        }
    }

    /// How many seeds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Runs `one` for every seed, on all cores, and prints the report. Panics when a seed fails or when none of them hit one
    /// of the marks; a single replayed seed need not hit them.
    pub fn run(
        &self,
        expected_marks: &[&'static str],
        one: impl Fn(u64) -> Result<u64, Violation> + Sync,
    ) {
        let Report { text, problem } = self.report(expected_marks, one);
        print!("{text}");
        assert!(problem.is_none(), "{}", problem.unwrap_or_default());
    }

    /// As [`Runner::run`], without printing or panicking.
    pub fn report(
        &self,
        expected_marks: &[&'static str],
        one: impl Fn(u64) -> Result<u64, Violation> + Sync,
    ) -> Report {
        let next = AtomicU64::new(self.first);
        let acknowledged = AtomicU64::new(0);
        let failures: Mutex<BTreeMap<u64, Violation>> = Mutex::new(BTreeMap::new());
        let none_hit = expected_marks.iter().map(|mark| (*mark, 0));
        let hits: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(none_hit.collect());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let failed = failures.lock().expect("no thread panics with it").len();
                        if seed >= self.first + self.count || failed >= FAILURES_MAX {
                            break;
                        }
                        match run_one(seed, &one) {
                            Ok(records) => drop(acknowledged.fetch_add(records, Ordering::Relaxed)),
                            Err(violation) => {
                                // At once: a batch of thousands runs for hours.
                                eprintln!("seed {seed}: {violation}");
                                let mut failures =
                                    failures.lock().expect("no thread panics with it");
                                failures.insert(seed, violation);
                            }
                        }
                    }
                    let mut hits = hits.lock().expect("no thread panics with it");
                    for (mark, count) in marks::all() {
                        *hits.entry(mark).or_default() += count;
                    }
                });
            }
        });
        let hits = hits.into_inner().expect("no thread panics with it");
        let failures = failures.into_inner().expect("no thread panics with it");
        let mut text = String::new();
        for (mark, count) in &hits {
            text += &format!("{count:>12}  {mark}\n");
        }
        let acknowledged = acknowledged.into_inner();
        text += &format!("{acknowledged:>12}  records acknowledged, {} seeds\n", self.count);
        for (seed, violation) in &failures {
            text += &format!("seed {seed}: {violation}\nreplay: ./test simulation --seed {seed}\n");
        }
        let missing: Vec<&&str> = expected_marks.iter().filter(|mark| hits[**mark] == 0).collect();
        let problem = match (failures.len(), missing.is_empty() || self.replay) {
            (0, true) => None,
            (0, false) => Some(format!("no seed hit {missing:?}")),
            (count, _) => Some(format!("{count} seeds failed")),
        };
        Report { text, problem }
    }
}

/// A broken assertion inside a run is a failure of its seed like any other.
pub fn run_one(seed: u64, one: impl Fn(u64) -> Result<u64, Violation>) -> Result<u64, Violation> {
    catch_unwind(AssertUnwindSafe(|| one(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
            .unwrap_or_else(|| "a panic without words".to_string()))
    })
}
