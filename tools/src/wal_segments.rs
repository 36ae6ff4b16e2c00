//! Contiguous WAL out of segment files, a directory of them, or nodes, one segment in memory at a time.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use firn_core::journal::wal_file::wal_file_name;
use firn_core::postgres::wal::{Decoder, Record, WalError, WalVersion};
use firn_core::types::{Lsn, PostgresTimeline, TimelineKey};

use crate::commands::nodes::NodesArguments;
use crate::commands::wal::{fetch, segment_start};

/// WAL from a position on.
pub struct WalSegments {
    /// Where it begins: a segment's start, or the first byte that nodes have.
    begin: Lsn,
    /// Where it ends at most: bytes past it are no WAL.
    end: Lsn,
    segment_size_bytes: u32,
    version: Option<WalVersion>,
    source: Source,
}

enum Source {
    /// By the position of their first bytes.
    Files(BTreeMap<Lsn, PathBuf>),
    Nodes {
        nodes: NodesArguments,
        key: TimelineKey,
        newest_timeline: u32,
    },
}

/// Why there are no more records.
#[derive(Debug)]
pub struct WalEnd {
    /// End of the last record.
    pub lsn: Lsn,
    /// What stands where the next one should begin; none when all bytes are used up.
    pub error: Option<WalError>,
}

impl WalSegments {
    /// Segment files, in any order, and directories of them. Where several Postgres timelines have a segment, the
    /// newest's is taken. Reading begins with the segment that holds `start`, or the first.
    pub fn from_paths(paths: &[PathBuf], start: Option<Lsn>) -> Result<WalSegments> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                let list = fs::read_dir(path)
                    .with_context(|| format!("cannot list {}", path.display()))?;
                files.extend(
                    list.flatten().map(|entry| entry.path()).filter(|file| is_segment(file)),
                );
            } else {
                ensure!(is_segment(path), "{} is no segment's name", path.display());
                files.push(path.clone());
            }
        }
        files.sort_by_key(|file| file.file_name().map(ToOwned::to_owned));
        let first = files.first().context("no WAL segments there")?;
        let bytes =
            fs::metadata(first).with_context(|| format!("cannot read {}", first.display()))?.len();
        ensure!(
            bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes),
            "{}: {bytes} bytes are no WAL segment: expected a power of two from 1 MiB to 1 GiB",
            first.display()
        );
        let mut by_start = BTreeMap::new();
        for file in files {
            let begin = segment_start(name(&file), bytes)
                .with_context(|| format!("{} is no segment's name", file.display()))?;
            by_start.insert(begin, file);
        }
        let begin = match start {
            Some(start) => start.segment_start(bytes),
            None => *by_start.first_key_value().context("no WAL segments there")?.0,
        };
        Ok(WalSegments {
            begin,
            end: Lsn(u64::MAX),
            segment_size_bytes: u32::try_from(bytes).context("too large for a segment")?,
            version: None,
            source: Source::Files(by_start),
        })
    }

    /// A timeline's committed WAL.
    pub fn from_nodes(
        nodes: NodesArguments,
        key: TimelineKey,
        start: Option<Lsn>,
        end: Option<Lsn>,
    ) -> Result<WalSegments> {
        let statuses = nodes.statuses(key)?;
        let (_, newest) = statuses
            .iter()
            .max_by_key(|(_, status)| status.commit_lsn)
            .context("no node told about the timeline")?;
        let segment_size_bytes = newest.pg_info.wal_seg_size;
        let first = newest.local_start_lsn;
        let start = start.unwrap_or(first).max(first);
        let mut newest_timeline = 1;
        while fetch(&nodes, key, None, &format!("{:08X}.history", newest_timeline + 1))?.is_some() {
            newest_timeline += 1;
        }
        Ok(WalSegments {
            // Before the first byte that the nodes have there is only a made-up page header.
            begin: start.segment_start(segment_size_bytes.into()).max(first),
            end: end.unwrap_or(newest.commit_lsn).min(newest.commit_lsn),
            segment_size_bytes,
            version: WalVersion::from_major(newest.pg_info.pg_version.major()),
            source: Source::Nodes { nodes, key, newest_timeline },
        })
    }

    /// Gives every record to `work` until it breaks, or there are no more.
    pub fn each(
        &self,
        mut work: impl FnMut(&Record<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<WalEnd> {
        let size = u64::from(self.segment_size_bytes);
        let mut decoder = Decoder::new(self.begin, self.segment_size_bytes, self.version);
        let mut position = self.begin;
        while position < self.end {
            let start = position.segment_start(size);
            let Some(bytes) = self.segment(start)? else { break };
            ensure!(bytes.len() as u64 == size, "the segment at {start} has {} bytes", bytes.len());
            let until = usize::try_from(size.min(self.end - start))?;
            let mut input = &bytes[usize::try_from(position - start)?..until];
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(record)) => {
                        if work(&record)?.is_break() {
                            return Ok(WalEnd { lsn: record.end, error: None });
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        return Ok(WalEnd { lsn: decoder.record_end(), error: Some(error) });
                    }
                }
            }
            position = start + size;
        }
        Ok(WalEnd { lsn: decoder.record_end(), error: None })
    }

    /// The segment that begins at `start`. None when there is none; a node that should have it must.
    fn segment(&self, start: Lsn) -> Result<Option<Vec<u8>>> {
        match &self.source {
            Source::Files(files) => {
                let Some(file) = files.get(&start) else {
                    ensure!(
                        start != self.begin.segment_start(self.segment_size_bytes.into()),
                        "no segment with {start}"
                    );
                    return Ok(None);
                };
                fs::read(file).map(Some).with_context(|| format!("cannot read {}", file.display()))
            }
            Source::Nodes { nodes, key, newest_timeline } => {
                // The newest Postgres timeline that has the segment has all of its bytes.
                for timeline in (1..=*newest_timeline).rev() {
                    let timeline = PostgresTimeline(timeline);
                    let name = wal_file_name(timeline, start, self.segment_size_bytes);
                    if let Some(bytes) = fetch(nodes, *key, Some(self.end), &name)? {
                        return Ok(Some(bytes));
                    }
                }
                anyhow::bail!("no node has the segment that begins at {start}")
            }
        }
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_segment(path: &Path) -> bool {
    // Any size will do to tell a segment's name.
    segment_start(name(path), 1 << 30).is_some()
}
