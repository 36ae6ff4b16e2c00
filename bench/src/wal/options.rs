//! The command line of `firn-bench wal`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use firn_core::wire::walproposer::{APPEND_BYTES_MAX, ProtocolVersion};
use firn_node::config::arguments::CoreList;
use firn_node::runtime::Device;

use super::source::PIECE_BYTES_MIN;

/// What to push, where to, and for how long.
#[derive(Debug, Clone, Args)]
pub struct WalArguments {
    /// Acceptors of every timeline; an append is acknowledged when a majority has it
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        required_unless_present = "embedded"
    )]
    pub targets: Vec<String>,
    /// Run the nodes in this process, with real sockets, journals and files
    #[arg(long, conflicts_with = "targets")]
    pub embedded: bool,
    /// Embedded nodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: usize,
    /// Shards of each embedded node
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: usize,
    /// What stands under embedded nodes and baselines: real, volatile or modelled[:20us[:80us]] (write, read)
    #[arg(long, default_value = "real")]
    pub device: Device,
    /// Directory for embedded nodes and baselines; what is made in it is removed [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// How long an idle shard of an embedded node polls before it sleeps
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub spin_us: u64,
    /// How long an idle thread of the load generator polls before it sleeps
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub generator_spin_us: u64,
    /// Cores for the embedded nodes' shards, as 0,2-5 [default: not pinned]
    #[arg(long, value_name = "LIST")]
    pub node_cores: Option<CoreList>,
    /// Cores for the load generator's threads, as 0,2-5 [default: not pinned]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<CoreList>,
    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Process whose CPU time is reported as the node's, when it is not embedded
    #[arg(long, value_name = "PID")]
    pub target_pid: Option<u32>,
    /// Timelines that there are, each of a tenant of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub timelines: usize,
    /// Timelines that are pushed to at the same time, one connection to each target; the others lie idle [default: all]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Appends of a timeline that wait for their acknowledgement at most
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub outstanding: usize,
    /// Bytes of WAL in an append: a multiple of 8; 0 sends heartbeats
    #[arg(long, value_name = "BYTES", default_value_t = 8192)]
    pub size: usize,
    /// Bytes of an append of one more timeline, which another tenant saturates unmeasured, 8 outstanding [default: none]
    #[arg(long, value_name = "BYTES")]
    pub beside: Option<usize>,
    /// Open loop: appends per second over all timelines, evenly spaced [default: closed loop]
    #[arg(long, value_name = "PER_S")]
    pub rate: Option<f64>,
    /// Seconds that are measured
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before that which are not
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub warm_up: f64,
    /// Splits the measured time; with baselines, each round runs every baseline and the load in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: usize,
    /// Measure the device, a file per timeline and a bare socket echo in the same rounds
    #[arg(long)]
    pub baselines: bool,
    /// Version of the walproposer protocol: 2 or 3
    #[arg(long, value_name = "VERSION", default_value_t = 3)]
    pub protocol: u32,
    /// Token that the acceptors ask for
    #[arg(long, value_name = "JWT", env = "FIRN_AUTH_TOKEN", hide_env_values = true)]
    pub auth_token: Option<String>,
    /// Where the report goes: PREFIX.hgrm, PREFIX.json, PREFIX.html
    #[arg(long, value_name = "PREFIX", default_value = "firn-bench-wal")]
    pub output: PathBuf,
}

/// What every timeline of one round is put under.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Timelines that are made.
    pub timelines: usize,
    /// Timelines that are pushed to.
    pub connections: usize,
    /// Unacknowledged appends of a timeline at most.
    pub outstanding: usize,
    /// Bytes of WAL in an append.
    pub size_bytes: usize,
    /// Appends per second over all timelines; `None`: closed loop.
    pub rate_per_s: Option<f64>,
    /// Time that is measured.
    pub duration: Duration,
    /// Time before that.
    pub warm_up: Duration,
    /// Bytes of an append of the timeline that is saturated beside these.
    pub beside_bytes: Option<usize>,
    /// Version of the protocol.
    pub protocol: ProtocolVersion,
}

impl WalArguments {
    /// The load of one round.
    ///
    /// # Errors
    /// Options that mean nothing or do not go together.
    pub fn load(&self) -> anyhow::Result<Load> {
        let connections = self.connections.unwrap_or(self.timelines);
        for (option, value) in [
            ("--timelines", self.timelines),
            ("--connections", connections),
            ("--outstanding", self.outstanding),
            ("--threads", self.threads),
            ("--rounds", self.rounds),
            ("--nodes", self.nodes),
            ("--shards", self.shards),
        ] {
            anyhow::ensure!(value > 0, "{option} 0: expected at least 1");
        }
        anyhow::ensure!(
            connections <= self.timelines,
            "--connections {connections}: a connection serves one timeline, and there are {}",
            self.timelines
        );
        let sizes = PIECE_BYTES_MIN..=APPEND_BYTES_MAX;
        let wal = Some(self.size).filter(|size| *size > 0);
        for (option, size) in [("--size", wal), ("--beside", self.beside)] {
            let size = size.unwrap_or(PIECE_BYTES_MIN);
            anyhow::ensure!(
                sizes.contains(&size) && size.is_multiple_of(8),
                "{option} {size}: expected a multiple of 8 from {PIECE_BYTES_MIN} to {APPEND_BYTES_MAX}"
            );
        }
        if let Some(rate) = self.rate {
            anyhow::ensure!(rate.is_finite() && rate > 0.0, "--rate {rate}: expected more than 0");
        }
        let seconds = |option: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|error| anyhow::anyhow!("{option} {value}: {error}"))
        };
        let duration = seconds("--duration", self.duration / self.rounds as f64)?;
        anyhow::ensure!(!duration.is_zero(), "--duration 0: expected more");
        Ok(Load {
            timelines: self.timelines,
            connections,
            outstanding: self.outstanding,
            size_bytes: self.size,
            rate_per_s: self.rate,
            beside_bytes: self.beside,
            duration,
            warm_up: seconds("--warm-up", self.warm_up)?,
            protocol: ProtocolVersion::from_number(self.protocol)
                .ok_or_else(|| anyhow::anyhow!("--protocol {}: expected 2 or 3", self.protocol))?,
        })
    }
}

/// Outstanding appends of the timeline that is saturated beside the measured ones.
const BESIDE_OUTSTANDING: usize = 8;

impl Load {
    /// The load of the timeline that is saturated beside these.
    pub fn beside(&self) -> Option<Load> {
        let size_bytes = self.beside_bytes?;
        let outstanding = BESIDE_OUTSTANDING;
        Some(Load { size_bytes, outstanding, rate_per_s: None, ..self.clone() })
    }

    /// The load in one line.
    pub fn describe(&self) -> String {
        let Load { timelines, connections, outstanding, size_bytes, .. } = self;
        let shape = match self.rate_per_s {
            Some(rate) => {
                format!("open loop, {rate} appends/s, latencies from the intended send time")
            }
            None => "closed loop: stalls hide the appends that they hold up".to_string(),
        };
        let idle = timelines - connections;
        let idle = if idle > 0 { format!(" and {idle} idle ones") } else { String::new() };
        let beside = match self.beside_bytes {
            Some(bytes) => format!("; beside a saturating stream of {bytes}-byte appends"),
            None => String::new(),
        };
        format!(
            "{connections} timelines{idle}, {outstanding} outstanding appends of {size_bytes} bytes each{beside}; {shape}"
        )
    }
}
