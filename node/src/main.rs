//! `firn-node`: the storage node and the relay.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use firn_core::api::PortsFile;
use firn_node::config::arguments::RunArguments;
use firn_node::config::check;
use firn_node::control::routes::router;
use firn_node::control::server::{self, Control, ControlState};
use firn_node::credentials::Credentials;
use firn_node::journal::JournalOptions;
use firn_node::relay::options::RelayArguments;
use firn_node::runtime::{Checked, block_on, check_start, start_shards};
use firn_node::service_manager;
use firn_node::shard::node::{NodeOptions, ShardStarts, prepare, run_shard};
use tracing_subscriber::EnvFilter;

/// The storage node and the relay of Firn.
#[derive(Debug, Parser)]
#[command(name = "firn-node", version)]
struct CommandLine {
    /// What to log: error, warn, info, debug, or tracing's filter syntax
    #[arg(long, env = "FIRN_LOG", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a storage node
    Run(RunArguments),
    /// Follows a stock Postgres by physical replication and proposes its WAL to acceptors
    Relay(RelayArguments),
}

fn main() -> ExitCode {
    let CommandLine { log, command } = CommandLine::parse();
    let filter = EnvFilter::try_new(&log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    match command {
        Command::Run(arguments) if arguments.check_config => check_config(&arguments),
        Command::Run(arguments) => end(&run(arguments).err(), ExitCode::FAILURE),
        Command::Relay(arguments) => {
            let options = match arguments.check(&|name| std::env::var(name).ok()) {
                Ok(options) => options,
                Err(error) => return end(&Some(error.into()), ExitCode::from(USAGE)),
            };
            match firn_node::relay::run(options) {
                Ok(stop) => {
                    let status = ExitCode::from(stop.exit_status());
                    end(&Some(stop.into()), status)
                }
                Err(error) => end(&Some(error), ExitCode::FAILURE),
            }
        }
    }
}

/// Exit status of a command line that means nothing, as clap's.
const USAGE: u8 = 2;

/// Says why the process ends.
fn end(error: &Option<anyhow::Error>, status: ExitCode) -> ExitCode {
    match error {
        None => ExitCode::SUCCESS,
        Some(error) => {
            eprintln!("firn-node: {}", one_line(error));
            status
        }
    }
}

/// An error with its causes in one line; a cause that the text before it tells already is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            let separator = if line.is_empty() { "" } else { ": " };
            line += &format!("{separator}{cause}");
        }
    }
    line.replace('\n', " ")
}

/// One line for each problem, on standard error as a refused start; one line on standard output when there is none.
fn check_config(arguments: &RunArguments) -> ExitCode {
    let report = check::check(arguments);
    for note in &report.notes {
        eprintln!("firn-node: note: {note}");
    }
    for problem in &report.problems {
        eprintln!("firn-node: {}", one_line(problem));
    }
    if !report.problems.is_empty() {
        return ExitCode::FAILURE;
    }
    let whose = match report.node_id {
        Some(node_id) => format!("node {node_id}"),
        None => "a new node".to_string(),
    };
    println!("{whose} can start: {} shards on {}", report.shards, arguments.data.display());
    ExitCode::SUCCESS
}

fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let (listen, http) = (arguments.listen_address()?, arguments.http_address()?);
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = arguments.shard_count(available)?;
    let advertised = arguments.advertised()?;
    let credentials = Arc::new(Credentials::load(arguments.credential_files())?);
    let mut control = Control::bind(http).context("--http")?;
    control.take_hangups()?;
    let http = control.local_addr()?;

    let options = NodeOptions {
        data: arguments.data.clone(),
        listen: listen.to_string(),
        node_id: arguments.node_id,
        credentials: credentials.clone(),
        tls_required: arguments.tls_required,
        auth_token: arguments.auth_token.clone(),
        journal: JournalOptions::default(),
    };
    let runtime = arguments.runtime_options(shards);
    std::fs::create_dir_all(&arguments.data).with_context(|| {
        format!("data directory {} cannot be written", arguments.data.display())
    })?;
    // The claims are this process's until it ends.
    let Checked { options: runtime, degraded, claims: _claims } =
        check_start(&runtime, &arguments.data)?;
    for line in degraded {
        tracing::warn!("{line}");
    }
    let (starts, starting) = prepare(options, shards);
    let starts = ShardStarts::new(starts);
    let running = start_shards(&runtime, move |runtime| {
        let start = starts.take(runtime.shard_index());
        run_shard(runtime, start)
    })?;
    let node = block_on(|_| starting.wait())??;

    let (pg_host, pg_port) = match advertised {
        Some((host, port)) => (Some(host), port),
        None => {
            let ip = node.listen.ip();
            ((!ip.is_unspecified()).then(|| ip.to_string()), node.listen.port())
        }
    };
    let state = ControlState {
        node: node.node.clone(),
        credentials: credentials.clone(),
        pg_host: pg_host.clone(),
        pg_port,
        unix_time_us: server::unix_time_us,
    };
    let node_id = node.node.node_id();
    control.start(router(state), move || reload(&credentials))?;
    if let Some(path) = &arguments.ports_file {
        let ports = PortsFile { node_id, pg: node.listen.to_string(), http: http.to_string() };
        write_ports(path, &ports)?;
    }
    tracing::info!(%node_id, pg = %node.listen, pg_host, pg_port, %http, shards, "node serves");
    service_manager::ready();
    running.join()?;
    anyhow::bail!("all shards have stopped")
}

/// What SIGHUP does.
fn reload(credentials: &Credentials) {
    match credentials.reload() {
        Ok(()) => tracing::info!("keys and certificates were read again"),
        Err(error) => {
            tracing::error!(%error, "keys and certificates were not replaced: those in use stay");
        }
    }
}

/// Replaced in one step, so that whoever waits for the file reads a whole one.
fn write_ports(path: &Path, ports: &PortsFile) -> anyhow::Result<()> {
    let unfinished = path.with_extension("new");
    let written = std::fs::write(&unfinished, serde_json::to_string(ports)?);
    written
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("--ports-file {}", path.display()))
}
