//! What must hold of a whole cluster after every step, whoever acts in it.
//!
//! - *Commit is durable*: whenever a client is told that a record is safe, and whenever a node knows a position as committed,
//!   a majority has it durably, in logs of one history. A damaged disk of a minority counts with what it had: its node may
//!   have said so, and the flush that makes the majority may come after the damage.
//! - *A restart forgets nothing*: a node whose disk was not damaged comes back with the timeline, and with at least the
//!   term, the commit position and, until the next election, the log that it was seen to have durably; and it does not
//!   say that its disk was damaged.
//! - *Histories agree*: a term starts at one position, whoever tells it.
//! - *Bytes agree*: what nodes have as committed is one sequence of bytes. Each node's committed log is read through the
//!   node's own code as its commit position moves, and again after restarts.
//! - *The ledger holds*: every acknowledged record is in that sequence with its CRC.

use std::collections::BTreeMap;

use firn_core::consensus::membership::Membership;
use firn_core::consensus::state::TimelineState;
use firn_core::consensus::term_history::TermHistory;
use firn_core::types::{Generation, Lsn, NodeId, Term};

use super::nodes::NodeMachine;
use crate::simulation::checks::{Log, Violation};
use crate::simulation::ledger::Ledger;

/// The invariants' own memory.
#[derive(Debug)]
pub struct Audit {
    /// The highest position that anybody called committed.
    committed_lsn: Lsn,
    /// The committed bytes, as far as any node has given them out.
    committed: Log,
    term_starts: BTreeMap<Term, Lsn>,
    ledger_checked: usize,
    /// Memberships that nodes were told of and that may still elect somebody.
    memberships: Vec<Membership>,
}

impl Audit {
    /// The timeline begins at `start`, which needs no commit, with these members.
    pub fn new(start: Lsn, membership: Membership) -> Audit {
        Audit {
            committed_lsn: start,
            committed: Log { start, bytes: Vec::new() },
            term_starts: BTreeMap::new(),
            ledger_checked: 0,
            memberships: vec![membership],
        }
    }

    /// The committed bytes so far.
    pub fn committed(&self) -> &Log {
        &self.committed
    }

    /// Memberships that may be in use.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// A membership is about to be told to nodes. One without old members beside the new stands for itself: a quorum of it
    /// has all that is committed.
    pub fn issue(
        &mut self,
        membership: &Membership,
        nodes: &[NodeMachine],
    ) -> Result<(), Violation> {
        if self.memberships.contains(membership) {
            return Ok(());
        }
        self.memberships.push(membership.clone());
        if membership.new_members.is_none() {
            let one = std::slice::from_ref(membership);
            return is_durable(self.committed_lsn, one, &has(nodes).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// A majority took the membership: those before it elect nobody any more.
    pub fn complete(&mut self, generation: Generation) {
        self.memberships.retain(|membership| membership.generation >= generation);
    }

    /// A node's durable state, seen now: again, or for the first time after a restart.
    pub fn node(&mut self, node: &mut NodeMachine, now: &TimelineState) -> Result<(), Violation> {
        let id = node.id;
        // What rot took without a trace is one of the minority that may be lost.
        if let Some(before) = node.last_seen.as_ref().filter(|_| !node.damaged) {
            // Only a newly elected proposer cuts the log, and brings another history.
            let same_history = now.term_history == before.term_history;
            let log_shrank = same_history && now.record_end_lsn < before.record_end_lsn;
            let membership_shrank = now.membership.generation < before.membership.generation;
            if now.term < before.term
                || now.commit_lsn < before.commit_lsn
                || log_shrank
                || membership_shrank
            {
                return Err(format!(
                    "node {id} forgot: it had generation {} term {} commit {} record end {}, now generation {} term {} commit {} record end {}",
                    before.membership.generation,
                    before.term,
                    before.commit_lsn,
                    before.record_end_lsn,
                    now.membership.generation,
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
    pub fn commits(&mut self, lsn: Lsn, nodes: &[NodeMachine]) -> Result<(), Violation> {
        if lsn > self.committed_lsn {
            is_durable(lsn, &self.memberships, &had(nodes))?;
            self.committed_lsn = lsn;
        }
        Ok(())
    }

    /// A node gave out bytes of its committed log.
    pub fn bytes(&mut self, node: &NodeMachine, from: Lsn, bytes: &[u8]) -> Result<(), Violation> {
        let id = node.id;
        let end = from + bytes.len() as u64;
        if end > self.committed_lsn {
            let committed = self.committed_lsn;
            return Err(format!(
                "node {id} gives out {end} as committed, committed is {committed}"
            ));
        }
        let known_end = self.committed.end().min(end).max(from);
        let (known, new) = bytes.split_at((known_end - from) as usize);
        if self.committed.read(from, known_end) != Some(known) {
            return Err(format!(
                "node {id} has other committed bytes than others in {from}..{end}"
            ));
        }
        self.committed.bytes.extend_from_slice(new);
        Ok(())
    }

    /// Every acknowledged record is among the committed bytes, as far as these are known.
    pub fn ledger(&mut self, ledger: &Ledger) -> Result<(), Violation> {
        for entry in &ledger.entries()[self.ledger_checked..] {
            let range = entry.range;
            if range.end > self.committed.end() {
                break;
            }
            let bytes = self.committed.read(range.start, range.end);
            if bytes.is_none_or(|bytes| crc32c::crc32c(bytes) != entry.crc) {
                return Err(format!(
                    "the committed log has other bytes than the acknowledged record {}..{}",
                    range.start, range.end
                ));
            }
            self.ledger_checked += 1;
        }
        Ok(())
    }

    /// Acknowledged records that no node has given out yet.
    pub fn unchecked(&self, ledger: &Ledger) -> usize {
        ledger.entries().len() - self.ledger_checked
    }
}

/// What nodes have durably.
fn has(nodes: &[NodeMachine]) -> impl Iterator<Item = (NodeId, &TimelineState)> {
    nodes.iter().filter_map(|node| Some((node.id, node.last_seen.as_ref()?)))
}

/// What nodes have durably, or had before their disks were damaged.
fn had(nodes: &[NodeMachine]) -> Vec<(NodeId, &TimelineState)> {
    let before = nodes.iter().filter_map(|node| Some((node.id, node.before_damage.as_ref()?)));
    has(nodes).chain(before).collect()
}

/// A quorum of `states` has `lsn` in logs of one history: the same terms wrote the same parts.
fn is_durable(
    lsn: Lsn,
    memberships: &[Membership],
    states: &[(NodeId, &TimelineState)],
) -> Result<(), Violation> {
    let holders: Vec<_> = states.iter().filter(|(_, state)| state.record_end_lsn >= lsn).collect();
    let history = |state: &TimelineState| -> TermHistory {
        let starts = state.term_history.0.iter();
        TermHistory(starts.take_while(|start| start.lsn < lsn).copied().collect())
    };
    let mut histories: Vec<TermHistory> = Vec::new();
    for (_, state) in &holders {
        let history = history(state);
        if !histories.contains(&history) {
            histories.push(history);
        }
    }
    for one in &histories {
        let holds = |id| holders.iter().any(|(own, state)| *own == id && history(state) == *one);
        if memberships.iter().any(|membership| membership.is_quorum(holds)) {
            return Ok(());
        }
    }
    let found = states.iter().map(|(id, state)| format!("node {id} {}", state.record_end_lsn));
    let found = found.collect::<Vec<_>>().join(", ");
    Err(format!("{lsn} is called committed, but a majority does not have it: {found}"))
}
