//! Runs many seeds and reports: marks, failures, how to replay one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use firn_core::marks;

use super::checks::Violation;

/// Failing seeds after which a batch stops.
const FAILURES_MAX: usize = 5;

/// Which seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Runner {
    first: u64,
    count: u64,
    replay: bool,
}

impl Runner {
    /// `FIRN_SIMULATION_SEED` runs that seed alone; `FIRN_SIMULATION_SEEDS` says how many, otherwise `seeds`.
    pub fn from_environment(seeds: u64) -> Runner {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
        };
        match number("FIRN_SIMULATION_SEED") {
            Some(seed) => {
                // A replay tells what the nodes and relays logged, as RUST_LOG asks.
                let filter = tracing_subscriber::EnvFilter::from_default_env();
                let format = tracing_subscriber::fmt().without_time().with_env_filter(filter);
                // Another test of the process may have been first.
                let _ = format.try_init();
                Runner { first: seed, count: 1, replay: true }
            }
            None => {
                let count = number("FIRN_SIMULATION_SEEDS").unwrap_or(seeds);
                Runner { first: 1, count, replay: false }
            }
        }
    }

    /// Runs `one` for every seed, on all cores. Panics when a seed fails or when none of them hit one of the marks; a
    /// single replayed seed need not hit them.
    pub fn run(
        &self,
        expected_marks: &[&'static str],
        one: impl Fn(u64) -> Result<u64, Violation> + Sync,
    ) {
        let next = AtomicU64::new(self.first);
        let acknowledged = AtomicU64::new(0);
        let failures: Mutex<Vec<(u64, Violation)>> = Mutex::new(Vec::new());
        let hits: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
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
                            Err(violation) => failures
                                .lock()
                                .expect("no thread panics with it")
                                .push((seed, violation)),
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
        for (mark, count) in &hits {
            println!("{count:>12}  {mark}");
        }
        println!("{:>12}  records acknowledged, {} seeds", acknowledged.into_inner(), self.count);
        let failures = failures.into_inner().expect("no thread panics with it");
        for (seed, violation) in &failures {
            println!("seed {seed}: {violation}\nreplay: ./test simulation --seed {seed}");
        }
        assert!(failures.is_empty(), "{} seeds failed", failures.len());
        let missing: Vec<&&str> =
            expected_marks.iter().filter(|mark| !hits.contains_key(**mark)).collect();
        assert!(self.replay || missing.is_empty(), "no seed hit {missing:?}");
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
