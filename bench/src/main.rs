//! `firn-bench`: measures what Firn is built on.
//!
//! Read first: `measure.rs` (what a row is), then the bench of a part, as `runtime.rs`.

mod measure;
mod runtime;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Load generator and latency reports of Firn.
#[derive(Debug, Parser)]
#[command(name = "firn-bench", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the runtime alone: durable writes, reads, TCP, wakes between threads
    Runtime {
        /// Directory on the device to measure; a file of 64 MiB is made in it and removed
        #[arg(long)]
        directory: PathBuf,
        /// Operations per row
        #[arg(long, default_value_t = 5_000)]
        operations: u64,
        /// What stands between files and the ring: real, volatile or modelled:WRITE_US:READ_US
        #[arg(long, default_value = "real")]
        device: firn_node::runtime::Device,
    },
}

fn main() -> anyhow::Result<()> {
    match CommandLine::parse().command {
        Command::Runtime { directory, operations, device } => {
            runtime::run(&directory, operations.max(1), device)
        }
    }
}
