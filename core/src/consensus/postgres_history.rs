//! Which of Postgres' own timelines (TLI) wrote which part of a log.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Lsn, PostgresTimeline};

/// Most switches that a history may hold: each is a promotion or a point-in-time recovery, and a `.history` file of
/// that many lines is still under 64 KiB.
pub const SWITCHES_MAX: usize = 1024;

/// The Postgres timeline `timeline` begins at `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PostgresSwitch {
    /// The timeline that begins.
    pub timeline: PostgresTimeline,
    /// Where it leaves its parent; for the first entry where the log begins, or 0.
    pub lsn: Lsn,
}

/// A history that no cluster can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PostgresHistoryError {
    /// Too many entries.
    #[error("postgres timeline history has {found} entries, expected at most {SWITCHES_MAX}")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Timelines or positions go back.
    #[error("postgres timeline history is out of order at entry {entry}")]
    OutOfOrder {
        /// Index of the first wrong entry.
        entry: usize,
    },
}

/// The starts of all Postgres timelines of a log, oldest first: timelines increase strictly, positions never decrease.
/// Empty = everything belongs to timeline 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PostgresHistory(pub Vec<PostgresSwitch>);

impl PostgresHistory {
    /// The timeline that wrote the byte at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> PostgresTimeline {
        let begun = self.0.iter().take_while(|switch| switch.lsn <= lsn).last();
        begun.or(self.0.first()).map_or(PostgresTimeline(1), |switch| switch.timeline)
    }

    /// Whether it has this timeline.
    pub fn contains(&self, timeline: PostgresTimeline) -> bool {
        match self.0.is_empty() {
            true => timeline == PostgresTimeline(1),
            false => self.0.iter().any(|switch| switch.timeline == timeline),
        }
    }

    /// What of it can never change: switches behind which WAL is committed. The first timeline needs none.
    pub fn settled(&self, commit_lsn: Lsn) -> PostgresHistory {
        let first = self.0.iter().take(1);
        let later = self.0.iter().skip(1).take_while(|switch| switch.lsn < commit_lsn);
        PostgresHistory(first.chain(later).copied().collect())
    }

    /// The last timeline.
    pub fn last(&self) -> PostgresTimeline {
        self.0.last().map_or(PostgresTimeline(1), |switch| switch.timeline)
    }

    /// The timeline that follows a timeline, and where.
    pub fn after(&self, timeline: PostgresTimeline) -> Option<PostgresSwitch> {
        self.0.iter().find(|switch| switch.timeline > timeline).copied()
    }

    /// Where a timeline of the history begins; the first one at 0.
    pub fn begin_of(&self, timeline: PostgresTimeline) -> Lsn {
        let later = self.0.iter().skip(1).find(|switch| switch.timeline == timeline);
        later.map_or(Lsn(0), |switch| switch.lsn)
    }

    /// Checks the order and the bound.
    pub fn validate(&self) -> Result<(), PostgresHistoryError> {
        if self.0.len() > SWITCHES_MAX {
            return Err(PostgresHistoryError::TooLong { found: self.0.len() });
        }
        let ordered = |pair: &[PostgresSwitch]| {
            pair[0].timeline < pair[1].timeline && pair[0].lsn <= pair[1].lsn
        };
        match self.0.windows(2).position(|pair| !ordered(pair)) {
            Some(index) => Err(PostgresHistoryError::OutOfOrder { entry: index + 1 }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
