//! Whether a primary continues what the quorum holds: its WAL against an acceptor's, byte for byte.

use firn_core::relay::comparison::{Comparison, Difference, Side};
use firn_core::relay::history_file::TimelinePath;
use firn_core::types::{Lsn, Term, TimelineKey};
use thiserror::Error;

use super::acceptor::{AcceptorError, AcceptorOptions};
use super::primary::{PrimaryError, PrimaryOptions};
use super::wal_stream::{AcceptorWal, PrimaryWal, WalEvent};
use crate::runtime::Runtime;

/// Why a primary is not followed.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Its WAL is not the quorum's.
    #[error(
        "this primary is not the one whose WAL the quorum holds, or its disk was rolled back: {0}. Nothing was changed; rebuild the primary from the quorum (firn timeline rebuild)"
    )]
    Different(#[from] Difference),
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
    /// Reading the acceptor.
    #[error("acceptor {address}: {source}")]
    Acceptor {
        /// Where it is.
        address: String,
        /// What went wrong.
        source: AcceptorError,
    },
}

/// What to compare with what.
pub struct Check<'a> {
    /// The primary.
    pub primary: &'a PrimaryOptions,
    /// The timelines that its WAL went through.
    pub path: &'a TimelinePath,
    /// The acceptor that holds the quorum's WAL.
    pub address: &'a str,
    /// How to talk to it.
    pub acceptor: &'a AcceptorOptions,
    /// The timeline.
    pub key: TimelineKey,
    /// As the proposer of this term all that is flushed is compared, otherwise what is committed.
    pub term: Option<Term>,
}

impl Check<'_> {
    /// Compares `[start, end)`, given that the primary has WAL up to `primary_end`.
    pub async fn compare(
        &self,
        runtime: &Runtime,
        start: Lsn,
        end: Lsn,
        primary_end: Lsn,
    ) -> Result<(), CheckError> {
        if primary_end < end {
            return Err(CheckError::Behind { primary: primary_end, quorum: end });
        }
        let mut comparison = Comparison::new(start, end);
        if comparison.is_complete() {
            return Ok(());
        }
        let at_acceptor =
            |source| CheckError::Acceptor { address: self.address.to_string(), source };
        let mut primary = PrimaryWal::open(runtime, self.primary, self.path, None, start).await?;
        let mut acceptor =
            AcceptorWal::open(runtime, self.acceptor, self.address, self.key, start, self.term)
                .await
                .map_err(at_acceptor)?;
        while let Some(side) = comparison.behind() {
            match side {
                Side::Quorum => {
                    let wal = acceptor.next().await.map_err(at_acceptor)?;
                    comparison.push(Side::Quorum, &wal)?;
                }
                Side::Primary => match primary.next().await? {
                    WalEvent::Wal(wal) => comparison.push(Side::Primary, &wal)?,
                    WalEvent::Keepalive { .. } => {}
                },
            }
        }
        Ok(())
    }
}
