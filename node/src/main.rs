//! `firn-node`: the storage node and the relay.

use clap::{Parser, Subcommand};
use firn_node::relay::options::RelayArguments;

/// Firn's storage node for Postgres, and the relay that proposes a stock Postgres' WAL to nodes
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow a stock Postgres by physical replication and propose its WAL to acceptors
    Relay(RelayArguments),
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Arguments::parse().command {
        Command::Relay(arguments) => firn_node::relay::run(arguments),
    }
}
