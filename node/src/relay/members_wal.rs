//! The quorum's log as its members hold it: from whichever of them can give it.
//!
//! A member whose disk rots in an older place still votes, acknowledges and may have the most of all, but cannot read that
//! place. Then another one is asked: who failed at a position is not asked for that position again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use firn_core::marks;
use firn_core::types::{Lsn, NodeId, Term, TimelineKey};
use thiserror::Error;

use super::acceptor::{AcceptorError, AcceptorOptions};
use super::postgres::connection::ConnectionError;
use super::wal_stream::AcceptorWal;
use crate::runtime::Runtime;

/// A member that is known to have WAL and gives none for so long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A member that has some WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The member.
    pub node: NodeId,
    /// Its `host:port`.
    pub address: String,
    /// It has the quorum's log up to here.
    pub end: Lsn,
}

/// Nobody can give WAL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no member gives WAL at {at}: {}", tell(.reasons))]
pub struct MembersWalError {
    /// Where.
    pub at: Lsn,
    /// Who has it, and what went wrong there.
    pub reasons: BTreeMap<NodeId, String>,
}

fn tell(reasons: &BTreeMap<NodeId, String>) -> String {
    let told: Vec<String> =
        reasons.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
    if told.is_empty() { "none is known to have it".to_string() } else { told.join("; ") }
}

/// A stream of the quorum's log.
pub struct MembersWal {
    position: Lsn,
    /// As the proposer of this term all that is flushed is read, otherwise what is committed.
    term: Option<Term>,
    /// Good up to the end that the member was known to have when it was opened: what follows may have been sent before it
    /// was cut off.
    stream: Option<(Source, AcceptorWal)>,
    /// Who failed at `position`.
    failed: BTreeMap<NodeId, String>,
    /// What was logged of each member: the same is not logged again with every attempt.
    logged: BTreeMap<NodeId, String>,
}

/// How members are reached.
pub struct Reach<'a> {
    /// The runtime.
    pub runtime: &'a Runtime,
    /// How to talk to acceptors.
    pub options: &'a AcceptorOptions,
    /// The timeline.
    pub key: TimelineKey,
}

impl MembersWal {
    /// From `position` on; nobody is asked yet.
    pub fn new(position: Lsn, term: Option<Term>) -> MembersWal {
        MembersWal {
            position,
            term,
            stream: None,
            failed: BTreeMap::new(),
            logged: BTreeMap::new(),
        }
    }

    /// The next piece, from one of the members that `sources` gives for a position, best first; each has more than that.
    ///
    /// # Errors
    /// When none of them gives any. Asked again, it begins with the first again.
    pub async fn next(
        &mut self,
        reach: &Reach<'_>,
        sources: impl Fn(Lsn) -> Vec<Source>,
    ) -> Result<Bytes, MembersWalError> {
        loop {
            let open = self.stream.take().filter(|(source, _)| source.end > self.position);
            let (source, opened) = match open {
                Some((source, stream)) => (source, Ok(stream)),
                None => {
                    let untried = |source: &Source| !self.failed.contains_key(&source.node);
                    let Some(source) = sources(self.position).into_iter().find(untried) else {
                        let reasons = std::mem::take(&mut self.failed);
                        return Err(MembersWalError { at: self.position, reasons });
                    };
                    let opened = self.open(reach, &source).await;
                    (source, opened)
                }
            };
            let read = match opened {
                Ok(stream) => read(reach.runtime, stream).await,
                Err(error) => Err(error),
            };
            match read {
                Ok((wal, stream)) => {
                    let length_bytes = wal.len().min((source.end - self.position) as usize);
                    self.position = self.position + length_bytes as u64;
                    self.failed.clear();
                    self.stream = Some((source, stream));
                    return Ok(wal.slice(..length_bytes));
                }
                Err(error) => {
                    self.note_failure(source, error.to_string());
                }
            }
        }
    }

    fn note_failure(&mut self, source: Source, reason: String) {
        let Source { node, address, .. } = source;
        if self.logged.get(&node) != Some(&reason) {
            tracing::warn!(node = node.0, address, at = %self.position, "member gives no WAL, turning to another one: {reason}");
            self.logged.insert(node, reason.clone());
        }
        marks::hit("relay.turned_to_another_member");
        self.failed.insert(node, reason);
    }

    async fn open(&self, reach: &Reach<'_>, source: &Source) -> Result<AcceptorWal, AcceptorError> {
        let Reach { runtime, options, key } = reach;
        AcceptorWal::open(runtime, options, &source.address, *key, self.position, self.term).await
    }
}

async fn read(
    runtime: &Runtime,
    mut stream: AcceptorWal,
) -> Result<(Bytes, AcceptorWal), AcceptorError> {
    let read = runtime.within(SILENCE_MAX, stream.next()).await;
    let read = read.unwrap_or(Err(ConnectionError::Timeout(SILENCE_MAX).into()))?;
    Ok((read, stream))
}
