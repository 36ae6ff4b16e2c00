//! The command line of `firn-bench`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use firn_bench::redo::RedoArguments;
use firn_bench::wal::options::WalArguments;
use firn_bench::{figures, report, runtime, runtimes, wal};

/// Load generator and latency reports of Firn.
#[derive(Debug, Parser)]
#[command(name = "firn-bench", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the runtime alone, and beside glommio and tokio: durable writes, reads, TCP, wakes between threads
    Runtime {
        /// Directory on the device to measure; a file of 64 MiB is made in it and removed
        #[arg(long)]
        directory: PathBuf,
        /// Operations per row
        #[arg(long, default_value_t = 5_000)]
        operations: u64,
        /// What stands between files and the ring: real, volatile or modelled[:20us[:80us]] (write, read)
        #[arg(long, default_value = "real")]
        device: firn_node::runtime::Device,
        /// Rounds in which the three runtimes take turns; their figures are medians. 0 leaves the comparison out
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Does one kind of work on one runtime, for the process that compares
        #[arg(long, value_name = "RUNTIME:WORK", hide = true)]
        one: Option<String>,
    },
    /// Pushes WAL to acceptors over real sockets and times every acknowledgement
    Wal(Box<WalArguments>),
    /// Puts two runs of `wal` side by side
    Compare {
        /// JSON of the first run
        first: PathBuf,
        /// JSON of the second
        second: PathBuf,
        /// The page with both
        #[arg(long, value_name = "FILE", default_value = "firn-bench-compare.html")]
        output: PathBuf,
    },
    /// Measures decoding of a real server's WAL beside pg_waldump
    Decode(RedoArguments),
    /// Measures redo of a real server's WAL beside Postgres' startup process
    Redo(RedoArguments),
    /// Measures every published figure beside its baseline and its goal
    Figures {
        /// One short run of each instead of five: shows that all of it works
        #[arg(long)]
        quick: bool,
        /// A list of objects instead of a table
        #[arg(long)]
        json: bool,
        /// One part's figures only
        #[arg(long, value_name = "PART")]
        only: Option<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match CommandLine::parse().command {
        Command::Runtime { directory, operations, one: Some(one), .. } => {
            runtimes::run_one(&one, &directory, operations.max(1))
        }
        Command::Runtime { directory, operations, device, rounds, one: None } => {
            runtime::run(&directory, operations.max(1), device)?;
            if rounds > 0 {
                runtimes::compare(&directory, operations.max(1), rounds)?;
            }
            Ok(())
        }
        Command::Wal(arguments) => wal::run(&arguments),
        Command::Compare { first, second, output } => {
            report::compare::run(&first, &second, &output)
        }
        Command::Decode(arguments) => arguments.run_decode(),
        Command::Redo(arguments) => arguments.run_redo(),
        Command::Figures { quick, json, only } => figures::run(quick, json, only.as_deref()),
    }
}
