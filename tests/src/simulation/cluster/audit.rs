//! What must hold of a whole cluster, whoever acts in it.
//!
//! - *Commit is durable*: whenever a client is told that a record is safe, and whenever a node calls a position committed,
//!   a majority has it durably in its log.
//! - *A restart forgets nothing*: a node comes back with at least the term, the commit position and, until the next
//!   election, the log
//!   that it was seen to have durably.
//! - *Histories agree*: a term starts at one position, whoever tells it.
//! - *The ledger holds*: at the end, every acknowledged record is in the log of every node that has committed it.

use std::collections::BTreeMap;

use firn_core::consensus::membership::Membership;
use firn_core::consensus::state::TimelineState;
use firn_core::types::{Lsn, Term};

use super::nodes::NodeMachine;
use crate::simulation::checks::{Log, Violation};
use crate::simulation::ledger::Ledger;

/// The invariants' own memory.
#[derive(Debug)]
pub struct Audit {
    committed: Lsn,
    term_starts: BTreeMap<Term, Lsn>,
}

impl Audit {
    /// The timeline begins at `start`, which needs no commit.
    pub fn new(start: Lsn) -> Audit {
        Audit { committed: start, term_starts: BTreeMap::new() }
    }

    /// What was called committed so far.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// A node's durable state, seen now: again, or for the first time after a restart.
    pub fn node(&mut self, node: &mut NodeMachine, now: &TimelineState) -> Result<(), Violation> {
        let id = node.id;
        // What rot took without a trace is one of the minority that may be lost.
        if let Some(before) = node.last_seen.as_ref().filter(|_| !node.damaged) {
            // Only a newly elected proposer cuts the log, and brings another history.
            let same_history = now.term_history == before.term_history;
            let log_shrank = same_history && now.record_end_lsn < before.record_end_lsn;
            if now.term < before.term || now.commit_lsn < before.commit_lsn || log_shrank {
                return Err(format!(
                    "node {id} forgot: it had term {} commit {} record end {}, now term {} commit {} record end {}",
                    before.term,
                    before.commit_lsn,
                    before.record_end_lsn,
                    now.term,
                    now.commit_lsn,
                    now.record_end_lsn
                ));
            }
        }
        for start in &now.term_history.0 {
            let known = *self.term_starts.entry(start.term).or_insert(start.lsn);
            if known != start.lsn {
                return Err(format!(
                    "term {} begins at {known} and, says node {id}, at {}",
                    start.term, start.lsn
                ));
            }
        }
        node.last_seen = Some(now.clone());
        Ok(())
    }

    /// Somebody calls `lsn` committed.
    pub fn commits(
        &mut self,
        lsn: Lsn,
        membership: &Membership,
        nodes: &[NodeMachine],
    ) -> Result<(), Violation> {
        if lsn <= self.committed {
            return Ok(());
        }
        let reached = |id| {
            let node = nodes.iter().find(|node| node.id == id);
            node.and_then(|node| node.last_seen.as_ref())
                .map_or(Lsn::INVALID, |state| state.record_end_lsn)
        };
        let durable = membership.quorum_lsn(reached);
        if durable < lsn {
            return Err(format!(
                "{lsn} is called committed, but a majority has only {durable} durably"
            ));
        }
        self.committed = lsn;
        Ok(())
    }

    /// A node's committed log has every acknowledged record below its end.
    pub fn log(&self, node: &NodeMachine, log: &Log, ledger: &Ledger) -> Result<(), Violation> {
        for entry in ledger.entries() {
            let range = entry.range;
            if range.end > log.end() || range.start < log.start {
                continue;
            }
            let bytes = log.read(range.start, range.end);
            if bytes.is_none_or(|bytes| crc32c::crc32c(bytes) != entry.crc) {
                return Err(format!(
                    "node {} has other bytes than the acknowledged record {}..{}",
                    node.id, range.start, range.end
                ));
            }
        }
        Ok(())
    }
}
