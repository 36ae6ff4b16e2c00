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
use std::fmt::Write as _;

use firn_core::consensus::membership::{Member, Membership};
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
#[derive(Debug, Clone)]
pub struct Checks {
    winners: BTreeMap<Term, u64>,
    committed: Log,
    /// Up to where each node's log is known to be the committed bytes.
    agreed: BTreeMap<NodeId, Lsn>,
    ledger_checked: usize,
}

/// A broken invariant, in words for the one who replays the seed.
pub type Violation = String;

impl Checks {
    /// Nothing is committed yet; the timeline begins at `start`.
    pub fn new(start: Lsn) -> Checks {
        Checks {
            winners: BTreeMap::new(),
            committed: Log { start, bytes: Vec::new() },
            agreed: BTreeMap::new(),
            ledger_checked: 0,
        }
    }

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

    /// A proposer calls everything below `lsn` committed; `claimed` are the bytes that it thinks these are, from what was
    /// committed before on.
    pub fn commits(
        &mut self,
        lsn: Lsn,
        claimed: &[u8],
        membership: &Membership,
        nodes: &[NodeView<'_>],
    ) -> Result<(), Violation> {
        let from = self.committed.end();
        assert_eq!(lsn - from, claimed.len() as u64, "the claim is exactly what is new");
        let holds = |id: NodeId| {
            nodes.iter().any(|node| {
                node.id == id
                    && node.state.record_end_lsn >= lsn
                    && node.log.read(from, lsn).is_some_and(|own| own == claimed)
            })
        };
        if !membership.is_quorum(holds) {
            return Err(format!(
                "{lsn} is called committed but a quorum does not have it: {}",
                describe(nodes)
            ));
        }
        self.committed.bytes.extend_from_slice(claimed);
        Ok(())
    }

    /// The node's durable log was cut at `to`; an empty or another disk is cut at 0.
    pub fn log_cut(&mut self, node: NodeId, to: Lsn) {
        let agreed = self.agreed.entry(node).or_default();
        *agreed = (*agreed).min(to);
    }

    /// What a node calls committed is committed, and its bytes are the committed ones.
    pub fn node_agrees(&mut self, node: NodeView<'_>) -> Result<(), Violation> {
        let commit = node.state.commit_lsn;
        if commit > self.committed.end() {
            return Err(format!(
                "node {} calls {commit} committed, committed is {}",
                node.id,
                self.committed.end()
            ));
        }
        let agreed = self.agreement(node);
        if agreed < commit {
            return Err(format!(
                "node {} calls {commit} committed but has the committed bytes up to {agreed} only",
                node.id
            ));
        }
        Ok(())
    }

    /// What a running node calls committed, durable there or not, is committed.
    pub fn known_commit(&self, node: NodeId, lsn: Lsn) -> Result<(), Violation> {
        match lsn <= self.committed.end() {
            true => Ok(()),
            false => Err(format!(
                "node {node} knows {lsn} as committed, committed is {}",
                self.committed.end()
            )),
        }
    }

    /// The most advanced log of any quorum of `nodes` (those that have their disks), in any of the memberships that they
    /// could be asked to vote in, holds every committed byte.
    pub fn nothing_is_forgotten(
        &mut self,
        memberships: &[Membership],
        nodes: &[NodeView<'_>],
    ) -> Result<(), Violation> {
        let committed = self.committed.end();
        let mut holds = Vec::new();
        for node in nodes {
            holds.push(self.agreement(*node).min(node.state.record_end_lsn) >= committed);
        }
        if holds.iter().all(|holds| *holds) {
            return Ok(());
        }
        let rank = |node: &NodeView<'_>| {
            let end = node.state.record_end_lsn;
            (node.state.term_history.cut_at(end).last_term(), end)
        };
        for membership in memberships {
            // Who is in a newer generation, or in this one with others, does not vote.
            let votes = |node: &NodeView<'_>| {
                let own = &node.state.membership;
                membership.contains(node.id)
                    && (own.generation < membership.generation
                        || own.has_members_of(membership)
                            && own.generation == membership.generation)
            };
            let voters: Vec<usize> =
                (0..nodes.len()).filter(|index| votes(&nodes[*index])).collect();
            for chosen in 1u32..1 << voters.len() {
                let is_in = |place: usize| chosen & (1 << place) != 0;
                let chosen =
                    || (0..voters.len()).filter(|place| is_in(*place)).map(|place| voters[place]);
                if !membership.is_quorum(|id| chosen().any(|index| nodes[index].id == id)) {
                    continue;
                }
                let best = chosen().map(|index| rank(&nodes[index])).max();
                let lossy =
                    chosen().find(|index| Some(rank(&nodes[*index])) == best && !holds[*index]);
                if let Some(index) = lossy {
                    return Err(format!(
                        "node {} would be the donor of a quorum of generation {} but lacks committed bytes up to {committed}: {}",
                        nodes[index].id,
                        membership.generation,
                        describe(nodes)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Up to where the node's log is the committed bytes.
    fn agreement(&mut self, node: NodeView<'_>) -> Lsn {
        let agreed = self.agreed.entry(node.id).or_default();
        let from = (*agreed).max(node.log.start).max(self.committed.start);
        let to = node.log.end().min(self.committed.end());
        if to > from {
            let own = node.log.read(from, to).unwrap_or_default();
            let theirs = self.committed.read(from, to).unwrap_or_default();
            let same = match own == theirs {
                true => own.len(),
                false => own.iter().zip(theirs).take_while(|(own, theirs)| own == theirs).count(),
            };
            *agreed = from + same as u64;
        } else {
            *agreed = (*agreed).max(to);
        }
        *agreed
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

fn members(membership: &Membership) -> String {
    let ids = |list: &[Member]| -> Vec<u64> { list.iter().map(|member| member.id.0).collect() };
    match &membership.new_members {
        None => format!("{:?}", ids(&membership.members)),
        Some(new) => format!("{:?} to {:?}", ids(&membership.members), ids(new)),
    }
}

/// What the nodes have, for a violation's words.
pub fn describe(nodes: &[NodeView<'_>]) -> String {
    let mut text = String::new();
    for node in nodes {
        let state = node.state;
        write!(
            text,
            "[node {} generation {} of {} term {} last log term {} log {}..{} record end {} commit {}]",
            node.id,
            state.membership.generation,
            members(&state.membership),
            state.term,
            state.term_history.cut_at(state.record_end_lsn).last_term(),
            node.log.start,
            node.log.end(),
            state.record_end_lsn,
            state.commit_lsn,
        )
        .expect("a string takes every text");
    }
    text
}
