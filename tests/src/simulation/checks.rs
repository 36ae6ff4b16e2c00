//! What must hold after every step of a run, whoever acts in it.
//!
//! - *One winner per term*: no two proposers are elected in the same term.
//! - *Commit is durable*: what a proposer calls committed is durable, byte for byte, on a quorum at that moment.
//! - *One history*: the committed bytes of the whole run are one sequence; what was committed once is never other bytes.
//! - *Nodes agree*: what a node calls committed is in that sequence, and its bytes are the sequence's.
//! - *Nothing is forgotten*: from any quorum of nodes that still have their disks, the most advanced log holds every
//!   committed byte; so the next proposer continues from all of it.
//! - *The ledger holds*: every acknowledged record is in the sequence with its CRC.

use std::collections::BTreeMap;

use firn_core::consensus::membership::Membership;
use firn_core::consensus::state::TimelineState;
use firn_core::types::{Lsn, NodeId, Term};

use super::ledger::Ledger;

/// A contiguous part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Position of the first byte.
    pub start: Lsn,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Log {
    /// Position after the last byte.
    pub fn end(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    /// The bytes `[from, to)`, when all of them are there.
    pub fn read(&self, from: Lsn, to: Lsn) -> Option<&[u8]> {
        (from >= self.start && to <= self.end() && from <= to)
            .then(|| &self.bytes[(from - self.start) as usize..(to - self.start) as usize])
    }

    /// Forgets everything from `end` on; behind an XLOG_SWITCH `end` may lie past the last byte, then zeros follow.
    pub fn set_end(&mut self, end: Lsn) {
        if self.bytes.is_empty() {
            self.start = end;
        }
        self.bytes.resize((end - self.start) as usize, 0);
    }
}

/// What a node has on its disk: what it would come back with after a crash now.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    /// Which node.
    pub id: NodeId,
    /// The acceptor's durable state.
    pub state: &'a TimelineState,
    /// The durable log, from where the node has had one.
    pub log: &'a Log,
}

/// The invariants' own memory.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    winners: BTreeMap<Term, u64>,
    committed: Log,
    /// Up to where each node's log was compared with the committed bytes.
    compared: BTreeMap<NodeId, Lsn>,
    ledger_checked: usize,
}

/// A broken invariant, in words for the one who replays the seed.
pub type Violation = String;

impl Checks {
    /// The committed bytes of the run so far.
    pub fn committed(&self) -> &Log {
        &self.committed
    }

    /// The proposer was elected.
    pub fn elected(&mut self, term: Term, proposer: u64) -> Result<(), Violation> {
        let winner = *self.winners.entry(term).or_insert(proposer);
        if winner != proposer {
            return Err(format!("term {term} was won by proposers {winner} and {proposer}"));
        }
        Ok(())
    }

    /// A proposer calls everything below `lsn` committed; `claimed` is what it thinks the new bytes are.
    pub fn commits(
        &mut self,
        lsn: Lsn,
        claimed: &Log,
        membership: &Membership,
        nodes: &[NodeView<'_>],
    ) -> Result<(), Violation> {
        if self.committed.bytes.is_empty() {
            self.committed.start = claimed.start;
        }
        let from = self.committed.end();
        if lsn <= from {
            return Ok(());
        }
        let Some(bytes) = claimed.read(from, lsn) else {
            return Err(format!(
                "the proposer calls {lsn} committed but has {}..{}, committed was {from}",
                claimed.start,
                claimed.end()
            ));
        };
        let holds = |id: NodeId| {
            nodes.iter().any(|node| {
                node.id == id
                    && node.state.record_end_lsn >= lsn
                    && node.log.read(from, lsn).is_some_and(|own| own == bytes)
            })
        };
        if !membership.is_quorum(holds) {
            let durable: Vec<String> = nodes
                .iter()
                .map(|node| {
                    format!(
                        "{} record end {} log end {}",
                        node.id,
                        node.state.record_end_lsn,
                        node.log.end()
                    )
                })
                .collect();
            return Err(format!(
                "{lsn} is called committed but a quorum does not have it: {durable:?}"
            ));
        }
        self.committed.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The node's durable log was cut at `to`, or is another one.
    pub fn log_cut(&mut self, node: NodeId, to: Lsn) {
        let compared = self.compared.entry(node).or_default();
        *compared = (*compared).min(to);
    }

    /// What one node calls committed is committed, and its bytes are the committed ones.
    pub fn node_agrees(&mut self, node: NodeView<'_>) -> Result<(), Violation> {
        let commit = node.state.commit_lsn;
        if !self.committed.bytes.is_empty() && commit > self.committed.end() {
            return Err(format!(
                "node {} calls {commit} committed, committed is {}",
                node.id,
                self.committed.end()
            ));
        }
        let compared = self.compared.entry(node.id).or_default();
        let from = (*compared).max(node.log.start).max(self.committed.start);
        if commit <= from {
            return Ok(());
        }
        let own = node.log.read(from, commit);
        if own.is_none() || own != self.committed.read(from, commit) {
            return Err(format!(
                "node {} has other bytes than the committed ones in {from}..{commit}",
                node.id
            ));
        }
        *compared = commit;
        Ok(())
    }

    /// The most advanced log of any quorum of `nodes` (those that have their disks) holds every committed byte.
    pub fn nothing_is_forgotten(
        &self,
        membership: &Membership,
        nodes: &[NodeView<'_>],
    ) -> Result<(), Violation> {
        let committed = self.committed.end();
        let holds: Vec<bool> = nodes
            .iter()
            .map(|node| {
                let from = node.log.start.max(self.committed.start);
                node.state.record_end_lsn >= committed
                    && node.log.read(from, committed) == self.committed.read(from, committed)
            })
            .collect();
        for chosen in 0u32..1 << nodes.len() {
            let is_in = |index: usize| chosen & (1 << index) != 0;
            let quorum = membership.is_quorum(|id| {
                nodes.iter().enumerate().any(|(index, node)| is_in(index) && node.id == id)
            });
            if !quorum {
                continue;
            }
            let rank = |index: &usize| {
                let state = nodes[*index].state;
                (state.term_history.cut_at(state.record_end_lsn).last_term(), state.record_end_lsn)
            };
            let best = (0..nodes.len()).filter(|index| is_in(*index)).map(|i| rank(&i)).max();
            let donors = (0..nodes.len()).filter(|i| is_in(*i) && Some(rank(i)) == best);
            if let Some(lossy) = donors.into_iter().find(|index| !holds[*index]) {
                return Err(format!(
                    "node {} would be the donor of a quorum but lacks committed bytes: it has {} of {committed}",
                    nodes[lossy].id, nodes[lossy].state.record_end_lsn
                ));
            }
        }
        Ok(())
    }

    /// Every acknowledged record is committed, with its CRC.
    pub fn ledger_holds(&mut self, ledger: &Ledger) -> Result<(), Violation> {
        for entry in &ledger.entries()[self.ledger_checked..] {
            let range = entry.range;
            let bytes = self.committed.read(range.start, range.end);
            if bytes.is_none_or(|bytes| crc32c::crc32c(bytes) != entry.crc) {
                return Err(format!(
                    "the acknowledged record {}..{} is not in the committed log up to {}",
                    range.start,
                    range.end,
                    self.committed.end()
                ));
            }
        }
        self.ledger_checked = ledger.entries().len();
        Ok(())
    }
}
