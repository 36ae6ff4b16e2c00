//! The load: clients that commit one small transaction after another, and enter each acknowledged one into the ledger.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use postgres::{Client, Config, NoTls};

use crate::clock::{now, sleep, spawn};
use crate::demo::ledger::{Ledger, TransactionId};

/// Pause before a client connects again to a server that is down.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Longest latency that the histograms tell apart, in microseconds: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Digits that the histograms keep.
const LATENCY_DIGITS: u8 = 3;

/// Counts that others may look at while the clients run.
#[derive(Debug, Default)]
pub struct Counters {
    committed: AtomicU64,
    warned: AtomicU64,
    broken: AtomicU64,
    stopped: AtomicBool,
}

impl Counters {
    /// Transactions acknowledged so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }
}

/// What all clients share.
struct Shared {
    counters: Arc<Counters>,
    ledger: Mutex<Ledger>,
    latencies_us: Mutex<Histogram<u64>>,
    failure: Mutex<Option<anyhow::Error>>,
}

/// Running clients.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the clients did.
pub struct Load {
    /// The ledger.
    pub ledger: Ledger,
    /// Transactions acknowledged without warning.
    pub committed: u64,
    /// Transactions whose COMMIT came back with a warning: in doubt, not in the ledger.
    pub warned: u64,
    /// Sessions that broke off.
    pub broken: u64,
    /// From sending a transaction to its acknowledgement.
    pub latencies_us: Histogram<u64>,
}

impl Clients {
    /// Starts `count` clients.
    pub fn start(count: u32, conninfo: String, ledger: Ledger) -> Clients {
        let shared = Arc::new(Shared {
            counters: Arc::default(),
            ledger: Mutex::new(ledger),
            latencies_us: Mutex::new(empty_histogram()),
            failure: Mutex::new(None),
        });
        let threads = (0..count).map(|client| {
            let (shared, conninfo) = (shared.clone(), conninfo.clone());
            spawn(move || {
                if let Err(error) = shared.work(client, &conninfo) {
                    *lock(&shared.failure) = Some(error);
                }
            })
        });
        Clients { threads: threads.collect(), shared }
    }

    /// Their counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// The latencies so far.
    pub fn undisturbed(&self) -> Histogram<u64> {
        lock(&self.shared.latencies_us).clone()
    }

    /// An error when one of them failed for another reason than a broken session.
    pub fn check(&self) -> Result<()> {
        lock(&self.shared.failure).take().map_or(Ok(()), Err)
    }

    /// Stops them. The server must be gone already, or a client may wait for its commit for ever.
    pub fn stop(self) -> Result<Load> {
        self.shared.counters.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        let shared = Arc::into_inner(self.shared).context("a client still runs")?;
        if let Some(error) = into_inner(shared.failure) {
            return Err(error);
        }
        Ok(Load {
            ledger: into_inner(shared.ledger),
            committed: shared.counters.committed(),
            warned: shared.counters.warned.load(Ordering::Relaxed),
            broken: shared.counters.broken.load(Ordering::Relaxed),
            latencies_us: into_inner(shared.latencies_us),
        })
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.counters.stopped.load(Ordering::Relaxed)
    }

    /// One client's life: sessions until it is stopped.
    fn work(&self, client: u32, conninfo: &str) -> Result<()> {
        let mut sequence = 0;
        let warned = Arc::new(AtomicBool::new(false));
        let mut config: Config = conninfo.parse().context("cannot use the connection string")?;
        config.connect_timeout(Duration::from_secs(5));
        let seen = warned.clone();
        config.notice_callback(move |_| seen.store(true, Ordering::Relaxed));
        while !self.is_stopped() {
            match config.connect(NoTls) {
                Ok(mut session) => self.session(&mut session, client, &mut sequence, &warned)?,
                Err(_) => sleep(RECONNECT_PAUSE),
            }
        }
        Ok(())
    }

    /// One session: transactions until it breaks off.
    fn session(
        &self,
        session: &mut Client,
        client: u32,
        sequence: &mut u64,
        warned: &AtomicBool,
    ) -> Result<()> {
        while !self.is_stopped() {
            let id = TransactionId { client, sequence: *sequence };
            *sequence += 1;
            warned.store(false, Ordering::Relaxed);
            let start = now();
            let sql = format!(
                "BEGIN; INSERT INTO acknowledged VALUES ({}, {}); COMMIT",
                id.client, id.sequence
            );
            if let Err(error) = session.batch_execute(&sql) {
                // An error that the server reports while it lives on is a mistake of ours; all else is a broken session.
                let is_mistake = error.code().is_some_and(|code| code.code().starts_with("42"));
                if is_mistake {
                    return Err(error).context("a client's transaction failed");
                }
                self.counters.broken.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
            // Any notice counts as a warning: an acknowledged COMMIT comes without one.
            if warned.load(Ordering::Relaxed) {
                self.counters.warned.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            lock(&self.ledger).enter(id)?;
            lock(&self.latencies_us).saturating_record(latency_us.max(1));
            self.counters.committed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, LATENCY_DIGITS).expect("the bounds are valid")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A client that panicked is reported where its thread is joined.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}
