//! `firn wal dump`: what WAL says, record by record, or counted. Options and output are pg_waldump's, without its
//! descriptions of record contents.

mod filter;
mod stats;

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use firn_core::postgres::wal::names::{record_kind, record_name, resource_manager_name};
use firn_core::postgres::wal::{Fork, Record};
use firn_core::types::{Lsn, TenantId, TimelineId, TimelineKey};

use crate::commands::nodes::NodesArguments;
use crate::wal_segments::WalSegments;
use filter::Filter;
pub use filter::{fork, relation};
use stats::{CountBy, Stats};

/// `firn wal dump`.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// Segment files, or a directory of them; their names say where they begin. Without any, nodes are read.
    paths: Vec<PathBuf>,
    /// HTTP addresses of nodes to read from when no files are named, separated by commas.
    #[arg(long, env = "FIRN_NODES", value_delimiter = ',', required_unless_present = "paths")]
    nodes: Vec<String>,
    /// Token for nodes that want authentication.
    #[arg(long, env = "FIRN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Tenant: 32 hex digits.
    #[arg(long, env = "FIRN_TENANT", required_unless_present = "paths")]
    tenant: Option<TenantId>,
    /// Timeline: 32 hex digits.
    #[arg(long, env = "FIRN_TIMELINE", required_unless_present = "paths")]
    timeline: Option<TimelineId>,
    /// Only records that begin here or later; reading begins with this position's segment.
    #[arg(long, short)]
    start: Option<Lsn>,
    /// Only records that end here or before.
    #[arg(long, short)]
    end: Option<Lsn>,
    /// Only so many records.
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    filter: Filter,
    /// Only counts and bytes, per resource manager or per record type.
    #[arg(long, short = 'z', value_name = "BY", num_args = 0..=1, require_equals = true, default_missing_value = "rmgr")]
    stats: Option<CountBy>,
}

impl DumpArguments {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        let mut output = BufWriter::new(io::stdout().lock());
        match self.dump(&self.wal()?, &mut output) {
            Err(error) if is_closed_pipe(&error) => Ok(()),
            result => result,
        }
    }

    fn wal(&self) -> Result<WalSegments> {
        if !self.paths.is_empty() {
            return WalSegments::from_paths(&self.paths, self.start);
        }
        let nodes = NodesArguments { nodes: self.nodes.clone(), token: self.token.clone() };
        let key = TimelineKey {
            tenant_id: self.tenant.context("say --tenant")?,
            timeline_id: self.timeline.context("say --timeline")?,
        };
        WalSegments::from_nodes(nodes, key, self.start, self.end)
    }

    fn dump(&self, wal: &WalSegments, output: &mut impl Write) -> Result<()> {
        let start = self.start.unwrap_or_default();
        let end = self.end.unwrap_or(Lsn(u64::MAX));
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut stats = self.stats.map(Stats::new);
        let mut line = String::new();
        let wal_end = wal.each(|record| {
            if record.end > end || left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            if record.start < start || !self.filter.matches(record) {
                return Ok(ControlFlow::Continue(()));
            }
            left -= 1;
            match &mut stats {
                Some(stats) => stats.add(record),
                None => {
                    line.clear();
                    describe(record, &mut line);
                    writeln!(output, "{line}")?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(stats) = stats {
            write!(output, "{stats}")?;
        }
        output.flush()?;
        if let Some(error) = wal_end.error {
            // Not a failure: the last segment of a server that runs ends like this.
            eprintln!("firn: the WAL ends at {}: {error}", wal_end.lsn);
        }
        Ok(())
    }
}

/// A resource manager's name, or its number.
fn manager(number: u8) -> String {
    resource_manager_name(number).map_or_else(|| format!("custom{number:03}"), str::to_string)
}

/// A record type's name, or its number.
fn kind(record: &Record<'_>) -> String {
    let number = record.resource_manager();
    match record_name(record.version, number, record.info()) {
        Some(name) => name.to_string(),
        None => format!("UNKNOWN ({:x})", record_kind(number, record.info())),
    }
}

/// One line for a record: pg_waldump's, without what comes after the record's name.
pub fn describe(record: &Record<'_>, line: &mut String) {
    let images = record.blocks().filter_map(|block| block.image());
    let image_bytes: usize = images.map(|image| image.len_bytes()).sum();
    let padded = |lsn: Lsn| format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 as u32);
    let written = write!(
        line,
        "rmgr: {:<11} len (rec/tot): {:>6}/{:>6}, tx: {:>10}, lsn: {}, prev {}, desc: {}",
        manager(record.resource_manager()),
        u64::from(record.total_len()) - image_bytes as u64,
        record.total_len(),
        record.xid(),
        padded(record.start),
        padded(record.previous()),
        kind(record),
    );
    written.expect("a string takes all text");
    for block in record.blocks() {
        let tag = block.tag();
        let fork = match tag.fork {
            Fork::Main => String::new(),
            fork => format!(" fork {}", fork.name()),
        };
        let image = match block.image() {
            None => "",
            Some(image) if image.applies() => " FPW",
            Some(_) => " FPW for WAL verification",
        };
        let written = write!(
            line,
            ", blkref #{}: rel {}{fork} blk {}{image}",
            block.id(),
            tag.relation,
            tag.block
        );
        written.expect("a string takes all text");
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
