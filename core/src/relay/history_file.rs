//! Postgres' timeline history files, and whether a primary's history continues what the quorum holds
//! (PostgreSQL src/backend/access/transam/timeline.c).

use thiserror::Error;

use crate::consensus::postgres_history::{PostgresHistory, PostgresSwitch};
use crate::types::{Lsn, PostgresTimeline};

/// Longest history file that is read: some 30,000 promotions.
pub const HISTORY_FILE_BYTES_MAX: usize = 1 << 20;

/// Text that is not a history file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryFileError {
    /// A line that is neither comment nor `timeline H/L reason`.
    #[error("timeline history line {line} is not understood: {text:?}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
    /// Timelines or positions that go back.
    #[error("timeline history line {line} goes back")]
    OutOfOrder {
        /// Its number, from 1.
        line: usize,
    },
    /// Longer than [`HISTORY_FILE_BYTES_MAX`].
    #[error("timeline history has {found} bytes, expected at most {HISTORY_FILE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        found: usize,
    },
}

/// The timelines that a primary's WAL went through: each with the position where it was left. The last one goes on.
///
/// Invariant: timelines increase strictly, positions never decrease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelinePath {
    ended: Vec<(PostgresTimeline, Lsn)>,
    current: PostgresTimeline,
}

/// What a primary's parting from the quorum's WAL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Not a switch of Postgres' timeline: a rolled-back disk, a sibling, another cluster.
    Different,
    /// A switch before what may be committed: following it would lose that.
    LeftBeforeCommit(LeftBeforeCommit),
    /// A switch past all that can be committed: the log goes on from there.
    Follow {
        /// Where the primary left the timeline that the quorum holds.
        at: Lsn,
    },
}

/// The primary left the WAL that the quorum may have committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this primary left Postgres timeline {left} for {entered} at {at}, and the quorum may have committed WAL of timeline {left} up to {committed}. Nothing was changed; rebuild the primary from the quorum (firn timeline rebuild)"
)]
pub struct LeftBeforeCommit {
    /// The timeline that the quorum holds there.
    pub left: u32,
    /// The timeline that the primary went to.
    pub entered: u32,
    /// Where.
    pub at: Lsn,
    /// The quorum's commit position.
    pub committed: Lsn,
}

impl TimelinePath {
    /// A primary on its first timeline.
    pub fn first(current: PostgresTimeline) -> TimelinePath {
        TimelinePath { ended: Vec::new(), current }
    }

    /// Parses the history file of timeline `current`.
    pub fn parse(current: PostgresTimeline, text: &str) -> Result<TimelinePath, HistoryFileError> {
        if text.len() > HISTORY_FILE_BYTES_MAX {
            return Err(HistoryFileError::TooLong { found: text.len() });
        }
        let mut path = TimelinePath::first(current);
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let mut fields = text.split_whitespace();
            let Some(first) = fields.next().filter(|first| !first.starts_with('#')) else {
                continue;
            };
            let entry = first
                .parse()
                .ok()
                .zip(fields.next().and_then(|lsn| lsn.parse::<Lsn>().ok()))
                .map(|(timeline, lsn)| (PostgresTimeline(timeline), lsn));
            let Some((timeline, lsn)) = entry else {
                return Err(HistoryFileError::Line { line, text: text.to_string() });
            };
            let before = path.ended.last().copied().unwrap_or((PostgresTimeline(0), Lsn(0)));
            if timeline.0 <= before.0.0 || lsn < before.1 || timeline.0 >= current.0 {
                return Err(HistoryFileError::OutOfOrder { line });
            }
            path.ended.push((timeline, lsn));
        }
        Ok(path)
    }

    /// The same as acceptors keep it.
    pub fn postgres_history(&self) -> PostgresHistory {
        let begins = std::iter::once(Lsn(0)).chain(self.ended.iter().map(|(_, end)| *end));
        let timelines = self.ended.iter().map(|(timeline, _)| *timeline).chain([self.current]);
        let switch = |(timeline, lsn)| PostgresSwitch { timeline, lsn };
        PostgresHistory(timelines.zip(begins).map(switch).collect())
    }

    /// The timeline that goes on.
    pub fn current(&self) -> PostgresTimeline {
        self.current
    }

    /// The timeline from which the byte at `lsn` is streamed.
    pub fn timeline_at(&self, lsn: Lsn) -> PostgresTimeline {
        let ended = self.ended.iter().find(|(_, end)| lsn < *end);
        ended.map_or(self.current, |(timeline, _)| *timeline)
    }

    /// Every timeline with the position where it begins; the first one begins at `origin`.
    pub fn starts(&self, origin: Lsn) -> Vec<(PostgresTimeline, Lsn)> {
        let begins = std::iter::once(origin).chain(self.ended.iter().map(|(_, end)| *end));
        let timelines = self.ended.iter().map(|(timeline, _)| *timeline).chain([self.current]);
        timelines.zip(begins).collect()
    }

    /// Judges a primary whose WAL parts from the quorum's at `parted_at`. Before `compared_from` the two are known to
    /// agree, up to `committed` the quorum may have committed its own.
    pub fn judge_parting(&self, compared_from: Lsn, parted_at: Lsn, committed: Lsn) -> Parting {
        let switches = self.starts(Lsn(0));
        let last = switches.windows(2).rev().find(|pair| pair[1].1 <= parted_at);
        match last {
            Some(&[(left, _), (entered, at)]) if at >= compared_from => {
                if at >= committed {
                    return Parting::Follow { at };
                }
                Parting::LeftBeforeCommit(LeftBeforeCommit {
                    left: left.0,
                    entered: entered.0,
                    at,
                    committed,
                })
            }
            _ => Parting::Different,
        }
    }
}

#[cfg(test)]
mod tests;
