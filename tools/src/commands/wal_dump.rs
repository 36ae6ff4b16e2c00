//! `firn wal dump`: what a timeline's WAL says, record by record.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use firn_core::postgres::wal::names::{record_name, resource_manager_name};
use firn_core::postgres::wal::{Decoder, Record, WalVersion};
use firn_core::types::{Lsn, TenantId, TimelineId, TimelineKey};

use crate::commands::nodes::NodesArguments;
use crate::commands::wal::{fetch, segment_start};

/// `firn wal dump`.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// Segment files, in order; the first one's name says where it begins.
    #[arg(required_unless_present = "nodes", conflicts_with = "nodes")]
    files: Vec<PathBuf>,
    /// HTTP addresses of nodes to read from instead, separated by commas.
    #[arg(long, value_delimiter = ',', requires_all = ["tenant", "timeline"])]
    nodes: Vec<String>,
    /// Token for nodes that want authentication.
    #[arg(long, env = "FIRN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Tenant: 32 hex digits.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Timeline: 32 hex digits.
    #[arg(long)]
    timeline: Option<TimelineId>,
    /// Show records that begin here or later; reading begins with this position's segment.
    #[arg(long)]
    from: Option<Lsn>,
    /// Show records that end here or before.
    #[arg(long)]
    until: Option<Lsn>,
    /// Only counts and bytes per kind of record.
    #[arg(long)]
    stats: bool,
}

/// Contiguous WAL.
struct Wal {
    begin: Lsn,
    segment_size_bytes: u32,
    version: Option<WalVersion>,
    segments: Vec<Vec<u8>>,
    /// Bytes past it are no WAL.
    end: Lsn,
}

impl DumpArguments {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        let wal = if self.nodes.is_empty() { self.read_files()? } else { self.read_nodes()? };
        let mut output = BufWriter::new(io::stdout().lock());
        match self.dump(&wal, &mut output).and_then(|()| Ok(output.flush()?)) {
            Err(error) if is_closed_pipe(&error) => Ok(()),
            result => result,
        }
    }

    fn read_files(&self) -> Result<Wal> {
        let mut segments = Vec::new();
        for file in &self.files {
            let bytes =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            segments.push(bytes);
        }
        let size_bytes = segments.first().map_or(0, Vec::len);
        ensure!(
            segments.iter().all(|segment| segment.len() == size_bytes),
            "the files differ in size: they are not segments of one cluster"
        );
        let segment_size_bytes = u32::try_from(size_bytes).context("too large for a segment")?;
        ensure!(
            segment_size_bytes.is_power_of_two() && segment_size_bytes >= 1 << 20,
            "{size_bytes} bytes are no WAL segment: expected a power of two from 1 MiB to 1 GiB"
        );
        let name = self.files[0].file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let begin = segment_start(name, segment_size_bytes.into())
            .with_context(|| format!("{name} is no segment's name"))?;
        let end = begin + u64::from(segment_size_bytes) * segments.len() as u64;
        Ok(Wal { begin, segment_size_bytes, version: None, segments, end })
    }

    fn read_nodes(&self) -> Result<Wal> {
        let nodes = NodesArguments { nodes: self.nodes.clone(), token: self.token.clone() };
        let key = TimelineKey {
            tenant_id: self.tenant.context("say --tenant")?,
            timeline_id: self.timeline.context("say --timeline")?,
        };
        let statuses = nodes.statuses(key)?;
        let (_, newest) = statuses
            .iter()
            .max_by_key(|(_, status)| status.commit_lsn)
            .context("no node told about the timeline")?;
        let segment_size_bytes = newest.pg_info.wal_seg_size;
        let size = u64::from(segment_size_bytes);
        let end = self.until.unwrap_or(newest.commit_lsn).min(newest.commit_lsn);
        let from = self.from.unwrap_or(newest.local_start_lsn).max(newest.local_start_lsn);
        // Before the first byte that the nodes have there is only a made-up page header.
        let begin = from.segment_start(size).max(newest.local_start_lsn);
        let mut newest_timeline = 1;
        while fetch(&nodes, key, None, &format!("{:08X}.history", newest_timeline + 1))?.is_some() {
            newest_timeline += 1;
        }
        let mut segments = Vec::new();
        let mut position = begin;
        while position < end {
            let start = position.segment_start(size);
            // The newest Postgres timeline that has the segment has all of its bytes.
            let mut found = None;
            for timeline in (1..=newest_timeline).rev() {
                found = fetch(&nodes, key, Some(end), &segment_name(timeline, start, size))?;
                if found.is_some() {
                    break;
                }
            }
            let mut bytes =
                found.with_context(|| format!("no node has the segment that begins at {start}"))?;
            bytes.drain(..usize::try_from(position - start)?);
            segments.push(bytes);
            position = start + size;
        }
        let version = WalVersion::from_major(newest.pg_info.pg_version.major());
        Ok(Wal { begin, segment_size_bytes, version, segments, end })
    }

    fn dump(&self, wal: &Wal, output: &mut impl Write) -> Result<()> {
        let from = self.from.unwrap_or_default();
        let until = self.until.unwrap_or(Lsn(u64::MAX));
        let mut decoder = Decoder::new(wal.begin, wal.segment_size_bytes, wal.version);
        let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut position = wal.begin;
        let mut stopped = None;
        'segments: for segment in &wal.segments {
            let length = usize::try_from(wal.end - position)?.min(segment.len());
            position = position + segment.len() as u64;
            let mut input = &segment[..length];
            loop {
                let record = match decoder.next(&mut input) {
                    Ok(Some(record)) => record,
                    Ok(None) => break,
                    Err(error) => {
                        stopped = Some(error);
                        break 'segments;
                    }
                };
                if record.end > until {
                    break 'segments;
                }
                if record.start < from {
                    continue;
                }
                if self.stats {
                    let total = totals.entry(kind(&record)).or_default();
                    *total = (total.0 + 1, total.1 + u64::from(record.total_len()));
                } else {
                    writeln!(output, "{}", line(&record))?;
                }
            }
        }
        for (kind, (count, bytes)) in totals {
            writeln!(output, "{count:>12} {bytes:>14} {kind}")?;
        }
        if let Some(error) = stopped {
            // Not a failure: the last segment of a server that runs ends like this.
            writeln!(output, "ends: {error}")?;
        }
        Ok(())
    }
}

/// `Heap INSERT`; numbers where there is no name.
fn kind(record: &Record<'_>) -> String {
    let number = record.resource_manager();
    let manager =
        resource_manager_name(number).map_or_else(|| format!("custom{number:03}"), str::to_string);
    match record_name(record.version, number, record.info()) {
        Some(name) => format!("{manager} {name}"),
        None => format!("{manager} {:#04x}", record.info()),
    }
}

fn line(record: &Record<'_>) -> String {
    let mut text = format!(
        "{} {} {:<32} {:>6} bytes xid {:<8} prev {}",
        record.start,
        record.end,
        kind(record),
        record.total_len(),
        record.xid(),
        record.previous()
    );
    for block in record.blocks() {
        let image = if block.image().is_some() { " with image" } else { "" };
        let _ = write!(text, ", {}{image}", block.tag());
    }
    text
}

/// The name of the segment that begins at `start`.
fn segment_name(timeline: u32, start: Lsn, segment_size_bytes: u64) -> String {
    let segments_per_high = (1_u64 << 32) / segment_size_bytes;
    let number = start.0 / segment_size_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / segments_per_high, number % segments_per_high)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
