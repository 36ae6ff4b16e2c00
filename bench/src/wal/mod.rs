//! `firn-bench wal`: pushes WAL to acceptors as a walproposer does, over real sockets, and times every acknowledgement.
//!
//! An append is acknowledged when a majority of the targets say that they have flushed its last record. With `--rate`
//! the load is open: an append's latency counts from when it was meant to be sent, so a stall shows in all appends that
//! it held up (no coordinated omission). Without it the load is a closed loop, and reports say so.
//!
//! Read first: [`options`], then `generator.rs` (threads and time), `proposer.rs` (one timeline), `source.rs` (its WAL),
//! `embedded.rs` (nodes in this process), `rounds.rs` (baselines between rounds of load).

pub mod embedded;
pub mod generator;
pub mod options;
mod progress;
mod proposer;
pub mod rounds;
pub mod source;
pub mod usage;

use anyhow::Context;

use crate::report;
use options::WalArguments;

/// Runs what the command line asks for, prints it and writes the report's files.
pub fn run(arguments: &WalArguments) -> anyhow::Result<()> {
    let report = rounds::run(arguments)?;
    print!("{}", report::text::page(&report));
    let prefix = &arguments.output;
    report::write(&report, prefix).with_context(|| format!("--output {}", prefix.display()))?;
    println!("written: {0}.hgrm {0}.json {0}.html", prefix.display());
    Ok(())
}
