//! One round of load: threads, the moments that they agree on, and what they measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use firn_core::types::{Id, TenantId, TimelineId, TimelineKey};
use firn_node::runtime::{MonotonicTime, Runtime, RuntimeOptions, block_on, start_shards};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;

use super::options::Load;
use super::progress;
use super::proposer::{Acknowledge, Timeline};
use super::usage::{Probe, Usage, process_cpu_ns};

/// Longest latency that is told apart: a minute.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// How long appends that were outstanding at the end are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often threads look whether all are ready: connections take far longer.
const READY_INTERVAL: Duration = Duration::from_millis(1);
/// Between the last thread's being ready and the start.
const START_DELAY: Duration = Duration::from_millis(20);
/// Points of throughput over time per round.
const INTERVALS: u32 = 40;
/// How often the progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Connections that a thread makes at the same time: below any listener's backlog.
const CONNECTING_MAX: usize = 64;

/// Where the load goes and what makes it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Addresses of the acceptors.
    pub targets: Vec<String>,
    /// Token for them.
    pub auth_token: Option<String>,
    /// Threads.
    pub threads: usize,
    /// Cores to pin these to; empty: no pinning.
    pub cores: Vec<usize>,
    /// How long idle ones poll.
    pub spin: Duration,
    /// Where to see what the acceptors spend.
    pub probe: Probe,
}

/// What one round measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Latencies of acknowledged appends in nanoseconds.
    pub latencies_ns: Histogram<u64>,
    /// Time that was measured.
    pub duration: Duration,
    /// Acknowledgements in each part of that time.
    pub over_time: Vec<u64>,
    /// Length of a part.
    pub interval: Duration,
    /// What the acceptors spent in that time.
    pub usage: Usage,
    /// What this process spent in that time, less what embedded acceptors did.
    pub generator_cpu_ns: u64,
}

/// A histogram of latencies in nanoseconds, three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constants in order")
}

/// What the threads agree on.
struct Round {
    load: Load,
    place: Place,
    ready: AtomicUsize,
    failed: AtomicBool,
    start: OnceLock<MonotonicTime>,
}

struct Recorder {
    latencies_ns: Histogram<u64>,
    over_time: Vec<u64>,
}

impl Recorder {
    fn new() -> Recorder {
        Recorder { latencies_ns: new_histogram(), over_time: vec![0; INTERVALS as usize] }
    }
}

/// Runs one round.
pub fn run(load: &Load, place: &Place) -> anyhow::Result<Measured> {
    let round = Arc::new(Round {
        load: load.clone(),
        place: place.clone(),
        ready: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        start: OnceLock::new(),
    });
    let options = RuntimeOptions {
        shards: place.threads,
        cores: place.cores.clone(),
        spin: place.spin,
        ..RuntimeOptions::default()
    };
    let watched = round.clone();
    let running = start_shards(&options, move |runtime| thread(runtime, round.clone()))?;
    let usage = block_on(|runtime| async move { watched.watch(&runtime).await })?;
    let mut measured = Measured {
        latencies_ns: new_histogram(),
        duration: load.duration,
        over_time: vec![0; INTERVALS as usize],
        interval: load.duration / INTERVALS,
        usage: Usage::default(),
        generator_cpu_ns: 0,
    };
    for recorder in running.join()? {
        let recorder = recorder?;
        measured.latencies_ns.add(&recorder.latencies_ns)?;
        measured.over_time.iter_mut().zip(&recorder.over_time).for_each(|(sum, one)| *sum += one);
    }
    (measured.usage, measured.generator_cpu_ns) = usage?;
    Ok(measured)
}

impl Round {
    /// Shows progress, and takes what acceptors and this process spend between the measured time's begin and end.
    async fn watch(&self, runtime: &Runtime) -> anyhow::Result<(Usage, u64)> {
        let Some(start) = self.wait_for_start(runtime).await else {
            return Ok((Usage::default(), 0));
        };
        let (measure, until) = self.times(start);
        runtime.sleep_until(measure).await;
        let before = self.spent().await?;
        loop {
            let now = runtime.now();
            if now >= until || self.failed.load(Ordering::Relaxed) {
                break;
            }
            progress::draw("load", now - start, until - start);
            runtime.sleep_until(until.min(now + PROGRESS_INTERVAL)).await;
        }
        let after = self.spent().await?;
        progress::clear();
        let usage = after.0.since(&before.0);
        let embedded = match &self.place.probe {
            Probe::Shards(_) => usage.cpu_ns.unwrap_or_default(),
            Probe::Process(_) | Probe::Nothing => 0,
        };
        Ok((usage, (after.1 - before.1).saturating_sub(embedded)))
    }

    async fn spent(&self) -> anyhow::Result<(Usage, u64)> {
        let usage = self.place.probe.usage().await?;
        Ok((usage, process_cpu_ns(std::process::id())?))
    }

    /// The moment that all threads agreed on; `None` when one of them failed before.
    async fn wait_for_start(&self, runtime: &Runtime) -> Option<MonotonicTime> {
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return None;
            }
            if self.ready.load(Ordering::Acquire) == self.place.threads {
                return Some(*self.start.get_or_init(|| runtime.now() + START_DELAY));
            }
            runtime.sleep(READY_INTERVAL).await;
        }
    }

    /// When measuring begins, and when everything ends.
    fn times(&self, start: MonotonicTime) -> (MonotonicTime, MonotonicTime) {
        let measure = start + self.load.warm_up;
        (measure, measure + self.load.duration)
    }
}

async fn thread(runtime: Runtime, round: Arc<Round>) -> anyhow::Result<Recorder> {
    let result = run_thread(&runtime, &round).await;
    if result.is_err() {
        round.failed.store(true, Ordering::Relaxed);
    }
    result
}

async fn run_thread(runtime: &Runtime, round: &Arc<Round>) -> anyhow::Result<Recorder> {
    let recorder = Rc::new(RefCell::new(Recorder::new()));
    let acknowledge: Acknowledge = {
        let (round, recorder) = (round.clone(), recorder.clone());
        Rc::new(move |due, now| round.record(&mut recorder.borrow_mut(), due, now))
    };
    let Round { load, place, .. } = &**round;
    // Every thread has every so-manieth timeline, pushed ones first.
    let own: Vec<usize> = (runtime.shard_index()..load.timelines).step_by(place.threads).collect();
    let mut pushed = Vec::new();
    for some in own.chunks(CONNECTING_MAX) {
        let token = place.auth_token.as_deref();
        let electing = some.iter().map(|_| {
            let key = random_key(runtime);
            Timeline::elect(runtime, &place.targets, token, key, load, acknowledge.clone())
        });
        let elected = try_join_all(electing).await?;
        // An idle timeline exists; its connection ends here.
        let used = some.iter().zip(elected).filter(|(place, _)| **place < load.connections);
        pushed.extend(used.map(|(place, timeline)| (*place, timeline)));
    }
    let mut beside = None;
    if let (Some(load), 0) = (load.beside(), runtime.shard_index()) {
        let (token, key) = (place.auth_token.as_deref(), random_key(runtime));
        let unmeasured = Rc::new(|_, _| ());
        let electing = Timeline::elect(runtime, &place.targets, token, key, &load, unmeasured);
        beside = Some(electing.await?);
    }
    round.ready.fetch_add(1, Ordering::AcqRel);
    let Some(start) = round.wait_for_start(runtime).await else {
        anyhow::bail!("another thread of the load generator failed");
    };
    let (_, until) = round.times(start);
    let beside = beside.iter().map(|timeline| timeline.push((start, until), (0, 1), PATIENCE));
    let pushing = pushed.iter().map(|(place, timeline)| {
        timeline.push((start, until), (*place, load.connections), PATIENCE)
    });
    try_join_all(pushing.chain(beside)).await?;
    Ok(recorder.replace(Recorder::new()))
}

impl Round {
    fn record(&self, recorder: &mut Recorder, due: MonotonicTime, now: MonotonicTime) {
        let start = *self.start.get().expect("appends are sent after the start");
        let (measure, until) = self.times(start);
        if due >= measure {
            let nanoseconds = u64::try_from((now - due).as_nanos()).unwrap_or(u64::MAX);
            recorder.latencies_ns.saturating_record(nanoseconds.max(1));
        }
        if (measure..until).contains(&now) {
            let share = (now - measure).as_nanos() * u128::from(INTERVALS);
            recorder.over_time[(share / self.load.duration.as_nanos()) as usize] += 1;
        }
    }
}

fn random_key(runtime: &Runtime) -> TimelineKey {
    let id = || {
        let mut bytes = [0; 16];
        runtime.fill_random(&mut bytes);
        Id(bytes)
    };
    TimelineKey { tenant_id: TenantId(id()), timeline_id: TimelineId(id()) }
}
