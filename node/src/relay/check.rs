//! Whether a primary continues what the quorum holds: its WAL against the members', byte for byte.

use firn_core::relay::comparison::{Comparison, Difference, Side};
use firn_core::relay::history_file::{LeftBeforeCommit, TimelinePath};
use firn_core::types::{Lsn, Term};
use thiserror::Error;

use super::members_wal::{MembersWal, MembersWalError, Reach, Source};
use super::primary::{PrimaryError, PrimaryOptions};
use super::wal_stream::{PrimaryWal, WalEvent};

/// Why a primary is not followed.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Its WAL is not the quorum's.
    #[error(
        "this primary is not the one whose WAL the quorum holds, or its disk was rolled back: {0}. Nothing was changed; rebuild the primary from the quorum (firn timeline rebuild)"
    )]
    Different(Difference),
    /// It left the quorum's timeline too early.
    #[error(transparent)]
    LeftBeforeCommit(LeftBeforeCommit),
    /// Its WAL ends before the quorum's.
    #[error(
        "this primary is behind: its WAL ends at {primary}, the quorum holds WAL up to {quorum}. Its disk was rolled back or it lost WAL. Nothing was changed; rebuild the primary from the quorum (firn timeline rebuild)"
    )]
    Behind {
        /// End of the primary's WAL.
        primary: Lsn,
        /// End of the quorum's.
        quorum: Lsn,
    },
    /// Reading the primary.
    #[error(transparent)]
    Primary(#[from] PrimaryError),
    /// Reading the quorum's.
    #[error(transparent)]
    Members(#[from] MembersWalError),
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No difference.
    Same,
    /// The first difference.
    Differs(Difference),
    /// No difference up to the primary's end, which is too early.
    Behind {
        /// End of the primary's WAL.
        primary: Lsn,
    },
}

/// What to compare with what.
pub struct Check<'a> {
    /// The primary.
    pub primary: &'a PrimaryOptions,
    /// The timelines that its WAL went through.
    pub path: &'a TimelinePath,
    /// How the members that hold the quorum's WAL are reached.
    pub reach: Reach<'a>,
    /// Which of them hold it at a position.
    pub sources: &'a dyn Fn(Lsn) -> Vec<Source>,
    /// As the proposer of this term all that is flushed is compared, otherwise what is committed.
    pub term: Option<Term>,
}

impl Check<'_> {
    /// Compares `[start, end)`, given that the primary has WAL up to `primary_end`.
    pub async fn compare(
        &self,
        start: Lsn,
        end: Lsn,
        primary_end: Lsn,
    ) -> Result<Found, CheckError> {
        let mut comparison = Comparison::new(start, end.min(primary_end));
        if !comparison.is_complete() {
            let (runtime, path) = (self.reach.runtime, self.path);
            let primary = PrimaryWal::open(runtime, self.primary, path, None, start).await?;
            let members = MembersWal::new(start, self.term);
            if let Err(difference) = self.run(primary, members, &mut comparison).await? {
                return Ok(Found::Differs(difference));
            }
        }
        if primary_end < end {
            return Ok(Found::Behind { primary: primary_end });
        }
        Ok(Found::Same)
    }

    async fn run(
        &self,
        mut primary: PrimaryWal,
        mut members: MembersWal,
        comparison: &mut Comparison,
    ) -> Result<Result<(), Difference>, CheckError> {
        while let Some(side) = comparison.behind() {
            let wal = match side {
                Side::Quorum => members.next(&self.reach, self.sources).await?,
                Side::Primary => match primary.next().await? {
                    WalEvent::Wal(wal) => wal,
                    WalEvent::Keepalive { .. } => continue,
                },
            };
            if let Err(difference) = comparison.push(side, &wal) {
                return Ok(Err(difference));
            }
        }
        Ok(Ok(()))
    }
}
