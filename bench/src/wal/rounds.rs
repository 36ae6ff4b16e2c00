//! The rounds of one run: each measures every baseline and then the load, on the same cores and devices, so that what
//! else the machine does falls on all alike.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use firn_node::runtime::baseline::{device, echo, files};
use firn_node::runtime::{
    Device, MonotonicTime, Runtime, RuntimeOptions, TaskClass, block_on, mailbox, oneshot,
    start_shards,
};
use hdrhistogram::Histogram;

use super::embedded::{self, EmbeddedOptions};
use super::generator::{self, Measured, Place, new_histogram};
use super::options::{Load, WalArguments};
use super::usage::{Probe, Usage};
use crate::machine::Machine;
use crate::report::{Report, Series, Setting};

/// A baseline runs no longer than this per round.
const BASELINE_MAX: Duration = Duration::from_secs(2);
/// Bytes of an AppendResponse in its CopyData, version 3: what an echo answers.
const ANSWER_BYTES: usize = 58;
/// Bytes of an AppendRequest around its WAL, version 3.
const REQUEST_HEAD_BYTES: usize = 50;
/// A file per timeline holds at least two of the longest appends; more files than this say nothing more.
const FILES_MAX: usize = 2_000;

/// What a baseline needs.
struct Baseline<'a> {
    load: &'a Load,
    directory: &'a Path,
    node: RuntimeOptions,
    generator: RuntimeOptions,
    duration: Duration,
}

/// Runs all rounds.
pub fn run(arguments: &WalArguments) -> anyhow::Result<Report> {
    let load = arguments.load()?;
    let temporary = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = temporary.context("cannot make a temporary directory")?;
    let cores = |list: &Option<firn_node::config::arguments::CoreList>| {
        list.as_ref().map(|list| list.0.clone()).unwrap_or_default()
    };
    let (node_cores, cores) = (cores(&arguments.node_cores), cores(&arguments.cores));
    let spin = Duration::from_micros(arguments.spin_us);
    let generator_spin = Duration::from_micros(arguments.generator_spin_us);
    let mut place = Place {
        targets: arguments.targets.clone(),
        auth_token: arguments.auth_token.clone(),
        threads: arguments.threads,
        cores: cores.clone(),
        spin: generator_spin,
        probe: arguments.target_pid.map_or(Probe::Nothing, Probe::Process),
    };
    if arguments.embedded {
        let options = EmbeddedOptions {
            nodes: arguments.nodes,
            shards: arguments.shards,
            cores: node_cores.clone(),
            spin,
            device: arguments.device,
        };
        let nodes = embedded::start(&options, directory.path())?;
        place.targets = nodes.iter().map(|node| node.listen.to_string()).collect();
        place.probe = Probe::Shards(nodes.into_iter().map(|node| node.node).collect());
    }
    let baseline = Baseline {
        load: &load,
        directory: directory.path(),
        node: RuntimeOptions {
            cores: node_cores,
            spin,
            device: arguments.device,
            ..RuntimeOptions::default()
        },
        generator: RuntimeOptions { cores, spin: generator_spin, ..RuntimeOptions::default() },
        duration: load.duration.min(BASELINE_MAX),
    };
    if arguments.baselines {
        anyhow::ensure!(load.size_bytes > 0, "--baselines: heartbeats have none");
        baseline.prepare()?;
    }
    let machine = Machine::now();
    let mut product = Series::new("appends");
    let mut baselines =
        ["device", "device, not flushed", "file per timeline", "socket echo"].map(Series::new);
    for _ in 0..arguments.rounds {
        if arguments.baselines {
            let rounds = [
                baseline.device(true)?,
                baseline.device(false)?,
                baseline.files()?,
                baseline.echo()?,
            ];
            for (series, round) in baselines.iter_mut().zip(rounds) {
                series.add(&round)?;
            }
        }
        product.add(&generator::run(&load, &place)?)?;
    }
    let mut series = vec![product];
    if arguments.baselines {
        series.extend(baselines);
    }
    Ok(Report {
        machine,
        load_after: Machine::now().load,
        setting: setting(arguments, &load, &place),
        series,
    })
}

fn setting(arguments: &WalArguments, load: &Load, place: &Place) -> Setting {
    let targets = place.targets.len();
    let list = |list: &Option<firn_node::config::arguments::CoreList>| match list {
        Some(list) => format!("pinned to {:?}", list.0),
        None => "not pinned".to_string(),
    };
    let acceptors = match arguments.embedded {
        true => format!(
            "{} embedded, {} shards each, {}, spin {} us",
            arguments.nodes,
            arguments.shards,
            list(&arguments.node_cores),
            arguments.spin_us
        ),
        false => place.targets.join(", "),
    };
    let device = match (arguments.embedded, arguments.device) {
        (false, _) => "the acceptors' own".to_string(),
        (true, Device::Real) => "real, direct I/O".to_string(),
        (true, Device::Modelled { write, read }) => {
            format!("modelled: durable write {write:?}, read {read:?}")
        }
        (true, Device::Volatile) => "volatile: unflushed bytes in memory".to_string(),
    };
    Setting {
        load: load.describe(),
        open_loop: load.rate_per_s.is_some(),
        size_bytes: load.size_bytes,
        connections: load.connections,
        outstanding: load.outstanding,
        durability: "acknowledged when flushed to the device by a majority".to_string(),
        quorum: format!("{} of {targets}", targets / 2 + 1),
        acceptors,
        generator: format!(
            "{} threads, {}, spin {} us",
            arguments.threads,
            list(&arguments.cores),
            arguments.generator_spin_us
        ),
        device,
        protocol: load.protocol.number(),
        rounds: arguments.rounds,
        seconds: load.duration.as_secs_f64() * arguments.rounds as f64,
        warm_up_s: load.warm_up.as_secs_f64(),
    }
}

type Samples = Rc<RefCell<Histogram<u64>>>;

impl Baseline<'_> {
    fn prepare(&self) -> anyhow::Result<()> {
        let directory = self.directory.to_path_buf();
        let files = self.files_count();
        block_on(|runtime| async move {
            device::prepare(&runtime, &directory.join("device")).await?;
            files::prepare(&runtime, &directory, files).await
        })??;
        Ok(())
    }

    fn files_count(&self) -> usize {
        self.load.connections.min(FILES_MAX)
    }

    fn device(&self, durable: bool) -> anyhow::Result<Measured> {
        let depth = self.load.connections * self.load.outstanding;
        let (size_bytes, path) = (self.load.size_bytes, self.directory.join("device"));
        on_a_shard(&self.node, self.duration, move |runtime, until, samples| async move {
            let heard = |_, took| note(&samples, took);
            let what = (size_bytes, depth, durable);
            Ok(device::run(&runtime, &path, what, until, &heard).await?)
        })
    }

    fn files(&self) -> anyhow::Result<Measured> {
        let (size_bytes, depth) = (self.load.size_bytes, self.load.outstanding);
        let (directory, count) = (self.directory.to_path_buf(), self.files_count());
        on_a_shard(&self.node, self.duration, move |runtime, until, samples| async move {
            let heard = |_, took| note(&samples, took);
            let what = (size_bytes, depth);
            Ok(files::run(&runtime, &directory, count, what, until, &heard).await?)
        })
    }

    fn echo(&self) -> anyhow::Result<Measured> {
        let request_bytes = self.load.size_bytes + REQUEST_HEAD_BYTES;
        let (told, address) = oneshot();
        let (stop, stopped) = mailbox::<()>(1);
        let once = std::sync::Mutex::new(Some((told, stopped)));
        let server = start_shards(&self.node, move |runtime| {
            let once = once.lock().ok().and_then(|mut ends| ends.take());
            async move {
                let (told, mut stopped) = once.context("one shard serves")?;
                let listener = runtime.listen("127.0.0.1:0").await?;
                let address = listener.local_addr().to_string();
                let serving = echo::serve(runtime.clone(), listener, request_bytes, ANSWER_BYTES);
                runtime.spawn(TaskClass::Latency, serving).detach();
                // Who asked may have failed meanwhile.
                let _ = told.send(address);
                stopped.recv().await;
                anyhow::Ok(())
            }
        })?;
        let address = block_on(|_| address)??;
        let what = (self.load.connections, self.load.outstanding);
        let measured =
            on_a_shard(&self.generator, self.duration, move |runtime, until, samples| async move {
                let heard = |_, took| note(&samples, took);
                let sizes = (request_bytes, ANSWER_BYTES);
                Ok(echo::ask(&runtime, &address, what, sizes, until, &heard).await?)
            });
        drop(stop);
        server.join()?.into_iter().collect::<anyhow::Result<()>>()?;
        measured
    }
}

fn note(samples: &Samples, took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    samples.borrow_mut().saturating_record(nanoseconds.max(1));
}

/// Runs a baseline on a thread of its own.
fn on_a_shard<F, W>(
    options: &RuntimeOptions,
    duration: Duration,
    work: W,
) -> anyhow::Result<Measured>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
    W: FnOnce(Runtime, MonotonicTime, Samples) -> F + Send + 'static,
{
    let work = std::sync::Mutex::new(Some(work));
    let options = RuntimeOptions { shards: 1, ..options.clone() };
    let shards = start_shards(&options, move |runtime| {
        let work = work.lock().ok().and_then(|mut work| work.take());
        async move {
            let work = work.context("one shard works")?;
            let samples: Samples = Rc::new(RefCell::new(new_histogram()));
            let (cpu, enters) = (runtime.cpu_time(), runtime.ring_enters());
            let started = runtime.now();
            work(runtime.clone(), started + duration, samples.clone()).await?;
            let took = runtime.now() - started;
            let latencies_ns = samples.borrow().clone();
            anyhow::Ok(Measured {
                over_time: vec![latencies_ns.len()],
                latencies_ns,
                duration: took,
                interval: took,
                usage: Usage {
                    cpu_ns: Some((runtime.cpu_time() - cpu).as_nanos() as u64),
                    ring_enters: Some(runtime.ring_enters() - enters),
                    frames: None,
                    append_requests: None,
                },
                generator_cpu_ns: 0,
            })
        }
    })?;
    shards.join()?.pop().context("one shard ran")?
}
