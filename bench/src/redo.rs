//! `firn-bench redo`: a whole WAL stream and single pages replayed on one core, beside stock Postgres' startup process.
//!
//! A real server under pgbench writes the WAL ([`recording`]); nothing of it was written back to the pages of the base, so
//! that a replay has all the work to do. [`stream`] replays it over [`pages`], [`chains`] has single pages with their own
//! records, [`costs`] tells record types apart, [`stock`] runs the baselines. All times are CPU seconds.

pub mod chains;
pub mod costs;
mod page_memory;
pub mod pages;
pub mod recording;
pub mod stock;
pub mod stream;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use firn_core::postgres::redo::Redo;
use firn_core::postgres::wal::Layout;
use firn_tools::local::postgres_install::PostgresInstall;

use crate::allocations::allocated_bytes;
use crate::cpu_time::thread_cpu_seconds;
use crate::decode;
use crate::figures::figure::{Figure, Goal};
use crate::figures::{median, print_json, print_table};
use chains::{CHAIN_RECORDS, Chain, Kind};
use pages::Pages;
use recording::{Recording, Workload};
use stream::{Replayed, Replayer, prepare};

/// Times the records per second of stock Postgres' startup process, full_page_writes off.
const GOAL_STREAM_RATIO: f64 = 3.0;
/// One page from its own [`CHAIN_RECORDS`] records.
const GOAL_CHAIN_US: f64 = 10.0;
const ROUNDS: usize = 5;
const TRANSACTIONS: u64 = 400_000;
const QUICK_TRANSACTIONS: u64 = 20_000;

/// What to record and how often to measure.
#[derive(Debug, Args)]
pub struct RedoArguments {
    /// Where recordings are made, and found again by the next run; a temporary directory without it
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Major version of Postgres
    #[arg(long)]
    postgres: Option<u32>,
    /// pgbench transactions to record
    #[arg(long, default_value_t = TRANSACTIONS)]
    transactions: u64,
    /// A short recording, one round: shows that all of it works
    #[arg(long)]
    quick: bool,
    /// A list of objects instead of a table
    #[arg(long)]
    json: bool,
}

/// Which of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Decode,
    Redo,
}

impl RedoArguments {
    /// `firn-bench decode`.
    pub fn run_decode(&self) -> Result<()> {
        self.print(&[Part::Decode])
    }

    /// `firn-bench redo`.
    pub fn run_redo(&self) -> Result<()> {
        self.print(&[Part::Redo])
    }

    fn print(&self, parts: &[Part]) -> Result<()> {
        let (figures, tables) = self.measure(parts)?;
        if self.json {
            return print_json(&figures);
        }
        print_table(&figures);
        for table in tables {
            println!("\n{table}");
        }
        Ok(())
    }

    fn measure(&self, parts: &[Part]) -> Result<(Vec<Figure>, Vec<String>)> {
        let temporary;
        let directory: &Path = match &self.directory {
            Some(directory) => directory,
            None => {
                temporary = tempfile::tempdir()?;
                // The server runs as another user when we are root.
                fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755))?;
                temporary.path()
            }
        };
        let install = PostgresInstall::find(self.postgres)?;
        let (transactions, rounds) =
            if self.quick { (QUICK_TRANSACTIONS, 1) } else { (self.transactions, ROUNDS) };
        let mut figures = Vec::new();
        let mut tables = Vec::new();
        for full_page_writes in [false, true] {
            let workload = Workload::Pgbench { transactions };
            let recording =
                Recording::open_or_make(&install, directory, workload, full_page_writes)
                    .context("recording")?;
            if parts.contains(&Part::Decode) {
                figures.extend(decode::figures(&recording, rounds)?);
            }
            if parts.contains(&Part::Redo) {
                let (more, table) = redo_figures(&recording, rounds)?;
                figures.extend(more);
                tables.push(table);
                if !full_page_writes {
                    figures.push(chain_figure(&recording, Kind::Heap, rounds)?);
                }
            }
        }
        if parts.contains(&Part::Redo) {
            let workload = Workload::IndexInserts;
            let recording = Recording::open_or_make(&install, directory, workload, false)?;
            figures.push(chain_figure(&recording, Kind::Btree, rounds)?);
        }
        Ok((figures, tables))
    }
}

/// The figures of decoding and redo.
pub fn figures(quick: bool) -> Result<Vec<Figure>> {
    let arguments = RedoArguments {
        directory: None,
        postgres: None,
        transactions: TRANSACTIONS,
        quick,
        json: false,
    };
    Ok(arguments.measure(&[Part::Decode, Part::Redo])?.0)
}

/// Seconds of several rounds of one thing.
#[derive(Debug, Default)]
pub struct Rounds(Vec<f64>);

impl Rounds {
    /// Adds a round.
    pub fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// The middle one; not a number without rounds.
    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }
}

/// A rate.
pub fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// What `part` allocated in `rounds` rounds over the recording.
pub fn allocated_per_record(
    part: &str,
    recording: &Recording,
    bytes: u64,
    rounds: usize,
) -> Figure {
    Figure {
        name: format!("bytes allocated per record by {part}, {}", recording.name()),
        unit: "bytes",
        measured: bytes as f64 / (recording.records * rounds as u64) as f64,
        baseline: None,
        goal: Goal::AtMost(0.0),
    }
}

/// What `part` allocated in all in the round before those that count, in which its buffers grew.
pub fn allocated_once(part: &str, recording: &Recording, bytes: u64) -> Figure {
    Figure {
        name: format!(
            "bytes allocated in all by {part} while its buffers grow, {}",
            recording.name()
        ),
        unit: "bytes",
        measured: bytes as f64,
        baseline: None,
        goal: Goal::None,
    }
}

fn redo_figures(recording: &Recording, rounds: usize) -> Result<(Vec<Figure>, String)> {
    let mut pages = Pages::read(&recording.base())?;
    prepare(recording, &mut pages)?;
    let base = pages.all().to_vec();
    let mut ours = Rounds::default();
    let mut theirs = Rounds::default();
    let mut done = Replayed::default();
    let before = allocated_bytes();
    let mut replayer = Replayer::new(recording);
    replayer.replay(&mut pages)?;
    let warm_up = allocated_bytes() - before;
    let mut allocated = 0;
    for _ in 0..rounds {
        pages.copy_from(&base);
        let before = allocated_bytes();
        let begun = thread_cpu_seconds();
        done = replayer.replay(&mut pages)?;
        let seconds = thread_cpu_seconds() - begun;
        allocated += allocated_bytes() - before;
        ours.add(seconds);
        theirs.add(stock::recovery_cpu_seconds(recording)?);
    }
    let name = recording.name();
    let baseline = |value| Some(("startup process".to_string(), value));
    let megabytes = recording.wal.len() as f64 / 1e6;
    let off = !recording.full_page_writes;
    let figures = vec![
        Figure {
            name: format!("redo of a WAL stream over pages in memory, one core, {name}"),
            unit: "records/s",
            measured: per_second(done.records, ours.median()),
            baseline: baseline(per_second(done.records, theirs.median())),
            goal: if off { Goal::RatioAtLeast(GOAL_STREAM_RATIO) } else { Goal::None },
        },
        Figure {
            name: format!("redo of a WAL stream over pages in memory, one core, {name}"),
            unit: "MB/s",
            measured: megabytes / ours.median(),
            baseline: baseline(megabytes / theirs.median()),
            goal: Goal::None,
        },
        allocated_per_record("redo", recording, allocated, rounds),
        allocated_once("redo", recording, warm_up),
    ];
    pages.copy_from(&base);
    let table = costs::table(recording, &mut pages, &mut Redo::default())?;
    Ok((figures, table))
}

/// One page from its own records.
fn chain_figure(recording: &Recording, kind: Kind, rounds: usize) -> Result<Figure> {
    let mut pages = Pages::read(&recording.base())?;
    prepare(recording, &mut pages)?;
    let chains = chains::chains(recording, &mut pages, kind)?;
    Ok(Figure {
        name: format!(
            "one page rebuilt from its own {CHAIN_RECORDS} {} records, median of {} pages, {}",
            kind.name(),
            chains.len(),
            recording.name()
        ),
        unit: "us",
        measured: chain_us(&chains, rounds, &mut Redo::default())?,
        baseline: None,
        goal: Goal::AtMost(GOAL_CHAIN_US),
    })
}

/// Median microseconds over all chains and rounds.
fn chain_us(chains: &[Chain], rounds: usize, redo: &mut Redo) -> Result<f64> {
    let mut layout = Layout::new();
    let mut page = [0; 8192];
    let mut times = Rounds::default();
    for _ in 0..=rounds {
        for chain in chains {
            let begun = thread_cpu_seconds();
            chain.rebuild(redo, &mut layout, &mut page)?;
            times.add(thread_cpu_seconds() - begun);
        }
    }
    Ok(times.median() * 1e6)
}
