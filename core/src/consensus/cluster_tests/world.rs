//! The cluster.
//!
//! Checked after every step:
//! - no two proposers win one term;
//! - what is called committed is on the disks of a majority, and all that was ever called committed is one log;
//! - whoever wins a term above that of the last commit has all committed bytes;
//! - no acceptor's commit LSN passes what was committed, and its log agrees with it up to there;
//! - below a fence's term nothing is committed past the fence;
//! - no acceptor ever has to refuse a cut below its commit LSN;
//! - all of this also when a minority of the disks forgets what it acknowledged, and is re-seeded;
//! - and when nodes catch up with each other.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use crate::consensus::acceptor::{
    Acceptor, AcceptorError, CatchUp, CommittedLog, Mark, Reply, Standing, When,
};
use crate::consensus::change::{Change, Create};
use crate::consensus::membership::{Member, Membership, majority_of};
use crate::consensus::proposer::{Action, Next, Proposer, ProposerConfig, Role, StopReason};
use crate::consensus::state::TimelineState;
use crate::types::*;
use crate::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};

/// Where the log begins: inside a page, so that short logs need no page header.
pub const START: Lsn = Lsn(0x30_0100);
/// Every record has this length.
pub const RECORD_BYTES: usize = 32;
const VERSION: ProtocolVersion = ProtocolVersion::V3;
const SEGMENT_BYTES: u32 = 1 << 20;
/// Writes that rot can take back.
const PAST_WRITES_MAX: usize = 40;

/// What is on a disk, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Disk {
    state: TimelineState,
    /// The bytes from `START` on.
    log: Vec<u8>,
}

/// One step on its way to the disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pending {
    after: Disk,
    mark: Option<Mark>,
    reply: Option<(usize, Answer)>,
}

/// An answer that waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Answer {
    Bytes(Vec<u8>),
    /// Whatever is to be said when it is sent.
    Append,
}

/// One acceptor's node.
#[derive(Debug, Clone)]
struct Node {
    acceptor: Acceptor,
    disk: Disk,
    pending: VecDeque<Pending>,
    /// What the disk held before, newest last: rot goes back to one of these.
    past: VecDeque<Disk>,
    /// What rot took since the acceptor was last whole; not empty: it is not whole.
    forgotten: Vec<Disk>,
}

/// The two directions of a connection, each in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Connection {
    open: bool,
    to_acceptor: VecDeque<Vec<u8>>,
    to_proposer: VecDeque<Vec<u8>>,
}

/// One proposer and its primary's WAL from `START` on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot {
    proposer: Proposer,
    held: bool,
    /// The node that it re-seeds.
    reseeds: Option<usize>,
    wal: Vec<u8>,
    connections: Vec<Connection>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A proposer starts in this slot, instead of the one before, and connects to everyone. A held one tells no one that it
    /// won before it is released.
    Start { slot: usize, role: Role, held: bool },
    /// A held proposer that won cuts off what nobody can have committed, and goes on.
    Release { slot: usize },
    /// A connection is made.
    Connect { slot: usize, node: usize },
    /// A connection breaks; what is on the way is lost.
    Cut { slot: usize, node: usize },
    /// The acceptor handles the next message.
    Receive { slot: usize, node: usize },
    /// The proposer handles the next message.
    Answer { slot: usize, node: usize },
    /// The oldest step of a node reaches its disk.
    Flush { node: usize },
    /// A node stops and starts: what was not flushed is lost.
    Crash { node: usize },
    /// A node stops, and starts with its disk as it was some writes before, knowing that it forgot.
    Rot { node: usize, writes: usize },
    /// A node that forgot asks the others, by a proposer in this slot.
    Reseed { slot: usize, node: usize },
    /// A node catches up with what another one has committed, up to so many bytes of it at once.
    CatchUp { node: usize, from: usize, bytes: usize },
    /// The primary of an elected proposer writes a record.
    Write { slot: usize },
    /// Time passes.
    Tick { slot: usize },
}

/// The whole cluster, and what was promised in it so far.
#[derive(Debug, Clone)]
pub struct World {
    nodes: Vec<Node>,
    slots: Vec<Option<Slot>>,
    /// Which nodes a slot's proposer can reach.
    reach: Vec<Vec<usize>>,
    /// Flush at once instead of by events.
    flush_at_once: bool,
    /// Bytes of WAL in one append; a record may be cut.
    chunk_bytes: usize,
    committed: Vec<u8>,
    commit_term: Term,
    winners: BTreeMap<Term, usize>,
    fences: Vec<(Term, Lsn)>,
    /// Counts writes, so that no two records are equal.
    writes: u64,
    reseeds: usize,
    catch_ups: usize,
    /// What does not hold, once something does not.
    pub violation: Option<String>,
}

impl Eq for World {}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        self.nodes.len() == other.nodes.len()
            && self.nodes.iter().zip(&other.nodes).all(|(a, b)| {
                a.acceptor.essence() == b.acceptor.essence()
                    && a.disk == b.disk
                    && a.pending == b.pending
                    && a.forgotten == b.forgotten
            })
            && self.slots == other.slots
            && self.committed == other.committed
            && self.winners == other.winners
            && self.fences == other.fences
            && self.violation == other.violation
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for node in &self.nodes {
            node.acceptor.essence().hash(hasher);
            node.disk.hash(hasher);
            node.pending.hash(hasher);
            node.forgotten.hash(hasher);
        }
        self.slots.hash(hasher);
        self.committed.hash(hasher);
        self.winners.hash(hasher);
        self.fences.hash(hasher);
        self.violation.hash(hasher);
    }
}

fn membership(nodes: usize) -> Membership {
    let member = |id| Member { id: NodeId(id as u64 + 1), host: "h".to_string(), pg_port: 1 };
    Membership {
        generation: Generation(1),
        members: (0..nodes).map(member).collect(),
        new_members: None,
    }
}

fn length(end: Lsn) -> usize {
    (end - START) as usize
}

impl World {
    /// Acceptors of a timeline that was created and never written, and room for a proposer per entry of `reach`, which
    /// lists the nodes that this one can talk to.
    pub fn new(
        nodes: usize,
        reach: &[Vec<usize>],
        flush_at_once: bool,
        chunk_bytes: usize,
    ) -> World {
        let create = Create {
            membership: membership(nodes),
            postgres_version: PostgresVersion(170008),
            system_id: SystemId(7),
            segment_size_bytes: SEGMENT_BYTES,
            start_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
        };
        let state = TimelineState::create(&create);
        let node = |index: usize| Node {
            acceptor: Acceptor::new(
                TimelineKey::default(),
                NodeId(index as u64 + 1),
                state.clone(),
            ),
            disk: Disk { state: state.clone(), log: Vec::new() },
            pending: VecDeque::new(),
            past: VecDeque::new(),
            forgotten: Vec::new(),
        };
        World {
            nodes: (0..nodes).map(node).collect(),
            slots: vec![None; reach.len()],
            reach: reach.to_vec(),
            flush_at_once,
            chunk_bytes,
            committed: Vec::new(),
            commit_term: Term(0),
            winners: BTreeMap::new(),
            fences: Vec::new(),
            writes: 0,
            reseeds: 0,
            catch_ups: 0,
            violation: None,
        }
    }

    /// How many bytes were ever committed.
    pub fn committed_bytes(&self) -> usize {
        self.committed.len()
    }

    /// How many terms were won.
    pub fn elections(&self) -> usize {
        self.winners.len()
    }

    /// How many fences were completed.
    pub fn fences(&self) -> usize {
        self.fences.len()
    }

    /// How many acceptors became whole again.
    pub fn reseeds(&self) -> usize {
        self.reseeds
    }

    /// How often a node took WAL from another one.
    pub fn catch_ups(&self) -> usize {
        self.catch_ups
    }

    /// Whether a minority will have forgotten something if this node does too.
    pub fn may_rot(&self, node: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let broken = others.filter(|(_, other)| !other.forgotten.is_empty()).count();
        broken + majority_of(self.nodes.len()) < self.nodes.len()
    }

    /// A node that is not whole.
    pub fn broken(&self) -> Option<usize> {
        self.nodes.iter().position(|node| !node.forgotten.is_empty())
    }

    /// Chooses how many bytes of WAL the next appends carry.
    pub fn set_chunk_bytes(&mut self, chunk_bytes: usize) {
        self.chunk_bytes = chunk_bytes;
    }

    /// Everything that can happen now, but for what the caller bounds: starts, cuts, crashes, writes, ticks.
    pub fn progress(&self, events: &mut Vec<Event>) {
        for (slot, state) in self.slots.iter().enumerate() {
            let Some(state) = state else { continue };
            for (node, connection) in state.connections.iter().enumerate() {
                let early = state.reseeds == Some(node) && state.proposer.donor().is_none();
                let reached = self.reach[slot].contains(&node) && !early;
                if reached && !connection.open && !state.proposer.is_stopped() {
                    events.push(Event::Connect { slot, node });
                }
                if !connection.to_acceptor.is_empty() {
                    events.push(Event::Receive { slot, node });
                }
                if !connection.to_proposer.is_empty() {
                    events.push(Event::Answer { slot, node });
                }
            }
        }
        let held = |state: &Slot| state.held && state.proposer.term_start_lsn().is_some();
        for (slot, state) in self.slots.iter().enumerate() {
            if state.as_ref().is_some_and(held) {
                events.push(Event::Release { slot });
            }
        }
        let busy = |(_, node): &(usize, &Node)| !node.pending.is_empty();
        let flush = |(node, _)| Event::Flush { node };
        events.extend(self.nodes.iter().enumerate().filter(busy).map(flush));
    }

    /// Slots whose proposer is elected and streams its primary.
    pub fn writers(&self) -> impl Iterator<Item = usize> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, state)| state.as_ref()?.proposer.term_start_lsn().map(|_| slot))
    }

    /// Whether this slot has a proposer that goes on.
    pub fn has_proposer(&self, slot: usize) -> bool {
        self.slots[slot].as_ref().is_some_and(|state| !state.proposer.is_stopped())
    }

    /// Whether there is a connection to cut.
    pub fn is_connected(&self, slot: usize, node: usize) -> bool {
        self.slots[slot].as_ref().is_some_and(|state| state.connections[node].open)
    }

    /// A proposer never reaches a node again.
    pub fn part(&mut self, slot: usize, node: usize) {
        self.cut(slot, node);
        self.reach[slot].retain(|reached| *reached != node);
    }

    /// Lets something happen.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Start { slot, role, held } => self.start(slot, role, held),
            Event::Release { slot } => self.release(slot),
            Event::Connect { slot, node } => self.connect(slot, node),
            Event::Cut { slot, node } => self.cut(slot, node),
            Event::Receive { slot, node } => self.receive(slot, node),
            Event::Answer { slot, node } => self.answer(slot, node),
            Event::Flush { node } => self.flush(node),
            Event::Crash { node } => self.crash(node),
            Event::Rot { node, writes } => self.rot(node, writes),
            Event::Reseed { slot, node } => self.reseed(slot, node),
            Event::CatchUp { node, from, bytes } => self.catch_up(node, from, bytes),
            Event::Write { slot } => self.write(slot),
            Event::Tick { slot } => self.tick(slot),
        }
        self.check_acceptors();
    }

    fn start(&mut self, slot: usize, role: Role, held: bool) {
        let mut proposer = Proposer::new(ProposerConfig {
            key: TimelineKey::default(),
            membership: membership(self.nodes.len()),
            postgres_version: PostgresVersion(170008),
            system_id: SystemId(7),
            segment_size_bytes: SEGMENT_BYTES,
            role,
        });
        if held {
            proposer.hold();
        }
        let connections = vec![Connection::default(); self.nodes.len()];
        (0..self.nodes.len()).for_each(|node| self.forget_answers(slot, node));
        let reseeds = match role {
            Role::Reseed { node, .. } => Some(node.0 as usize - 1),
            Role::Stream { .. } | Role::Fence => None,
        };
        self.slots[slot] = Some(Slot { proposer, held, reseeds, wal: Vec::new(), connections });
        let reached = self.reach[slot].clone().into_iter();
        reached.filter(|node| reseeds != Some(*node)).for_each(|node| self.connect(slot, node));
    }

    fn slot(&mut self, slot: usize) -> &mut Slot {
        self.slots[slot].as_mut().expect("events are of slots with a proposer")
    }

    fn connect(&mut self, slot: usize, node: usize) {
        let state = self.slot(slot);
        state.connections[node] = Connection { open: true, ..Connection::default() };
        state.proposer.connected(NodeId(node as u64 + 1));
        self.pump(slot);
    }

    fn cut(&mut self, slot: usize, node: usize) {
        let state = self.slot(slot);
        state.connections[node] = Connection::default();
        state.proposer.disconnected(NodeId(node as u64 + 1));
        self.forget_answers(slot, node);
    }

    /// Answers that wait for the disk go nowhere once their connection is gone.
    fn forget_answers(&mut self, slot: usize, node: usize) {
        for pending in &mut self.nodes[node].pending {
            if pending.reply.as_ref().is_some_and(|(to, _)| *to == slot) {
                pending.reply = None;
            }
        }
    }

    /// Hands everything that the proposer wants to send to the network.
    fn pump(&mut self, slot: usize) {
        let chunk_bytes = self.chunk_bytes;
        for node in 0..self.nodes.len() {
            let Some(state) = self.slots[slot].as_mut() else { return };
            let id = NodeId(node as u64 + 1);
            if !state.connections[node].open {
                continue;
            }
            loop {
                let mut bytes = Vec::new();
                match state.proposer.next(id) {
                    Ok(Some(Next::Message(message))) => message.encode(VERSION, &mut bytes),
                    Ok(Some(Next::Wal { begin, end })) => {
                        let end = end.min(begin + chunk_bytes as u64);
                        let wal = &state.wal[length(begin)..length(end)];
                        let request = state.proposer.append(id, begin, wal);
                        let request = request.expect("what was asked for just now is taken");
                        ProposerMessage::Append(request).encode(VERSION, &mut bytes);
                    }
                    Ok(None) => break,
                    Err(action) => {
                        self.violation = Some(format!("an honest acceptor is refused: {action:?}"));
                        break;
                    }
                }
                state.connections[node].to_acceptor.push_back(bytes);
            }
        }
    }

    fn receive(&mut self, slot: usize, node: usize) {
        let bytes = self.slot(slot).connections[node].to_acceptor.pop_front();
        let bytes = bytes.expect("only connections with messages receive");
        let message = ProposerMessage::decode(VERSION, &bytes).expect("proposers write messages");
        let target = &mut self.nodes[node];
        let step = match target.acceptor.handle(&message) {
            Ok(step) => step,
            Err(error) => {
                if matches!(error, AcceptorError::CutsCommitted { .. } | AcceptorError::History(_))
                {
                    self.violation = Some(format!("node {node}: {error}"));
                }
                return self.cut(slot, node);
            }
        };
        let mut log =
            target.pending.back().map_or(&target.disk, |pending| &pending.after).log.clone();
        for change in step.changes.iter() {
            match change {
                Change::Append { begin, wal, .. } => {
                    assert_eq!(length(*begin), log.len(), "appends go behind the log");
                    log.extend_from_slice(wal);
                }
                Change::Elected { truncate_to, .. } => log.truncate(length(*truncate_to)),
                _ => {}
            }
        }
        let after = Disk { state: target.acceptor.state().clone(), log };
        let (reply, when) = match step.reply {
            Reply::None => (None, When::Durable),
            Reply::AppendResponse { when } => (Some(Answer::Append), when),
            Reply::Message { message, when } => {
                let mut bytes = Vec::new();
                message.encode(VERSION, &mut bytes);
                (Some(Answer::Bytes(bytes)), when)
            }
        };
        if when == When::Now {
            reply.into_iter().for_each(|reply| self.send_answer(node, slot, reply));
        } else {
            let reply = reply.map(|reply| (slot, reply));
            target.pending.push_back(Pending { after, mark: step.mark, reply });
        }
        while self.flush_at_once && !self.nodes[node].pending.is_empty() {
            self.flush(node);
        }
    }

    fn send_answer(&mut self, node: usize, slot: usize, answer: Answer) {
        let bytes = match answer {
            Answer::Bytes(bytes) => bytes,
            Answer::Append => {
                let Some(response) = self.nodes[node].acceptor.append_response() else { return };
                let mut bytes = Vec::new();
                AcceptorMessage::AppendResponse(response).encode(VERSION, &mut bytes);
                bytes
            }
        };
        self.slot(slot).connections[node].to_proposer.push_back(bytes);
    }

    fn flush(&mut self, node: usize) {
        let target = &mut self.nodes[node];
        let pending = target.pending.pop_front().expect("only busy nodes flush");
        let before = std::mem::replace(&mut target.disk, pending.after);
        target.past.push_back(before);
        if target.past.len() > PAST_WRITES_MAX {
            target.past.pop_front();
        }
        if let Some(mark) = pending.mark {
            target.acceptor.durable(mark);
        }
        if target.acceptor.is_seeded() {
            self.trust(node);
        }
        if let Some((slot, answer)) = pending.reply {
            self.send_answer(node, slot, answer);
        }
    }

    fn trust(&mut self, node: usize) {
        self.nodes[node].acceptor.trust();
        self.nodes[node].forgotten.clear();
        self.nodes[node].past.clear();
        self.reseeds += 1;
    }

    fn rot(&mut self, node: usize, writes: usize) {
        let target = &mut self.nodes[node];
        let kept = target.past.len().saturating_sub(writes);
        if let Some(past) = target.past.drain(kept..).next() {
            let lost = std::mem::replace(&mut target.disk, past);
            target.forgotten.push(lost);
        } else {
            target.forgotten.push(target.disk.clone());
        }
        self.crash(node);
    }

    fn reseed(&mut self, slot: usize, node: usize) {
        let known_term = self.nodes[node].acceptor.term();
        self.start(slot, Role::Reseed { node: NodeId(node as u64 + 1), known_term }, false);
    }

    /// A majority of the others promised `term`: the node takes part from there on.
    fn begin_seeding(&mut self, node: usize, term: Term) -> bool {
        let target = &mut self.nodes[node];
        if target.acceptor.standing() == Standing::Whole {
            return false;
        }
        let Ok(step) = target.acceptor.begin_seeding(term) else { return false };
        let log = target.pending.back().map_or(&target.disk, |pending| &pending.after).log.clone();
        let after = Disk { state: target.acceptor.state().clone(), log };
        target.pending.push_back(Pending { after, mark: step.mark, reply: None });
        true
    }

    fn crash(&mut self, node: usize) {
        let target = &mut self.nodes[node];
        target.pending.clear();
        let (key, id) = (target.acceptor.key(), NodeId(node as u64 + 1));
        target.acceptor = Acceptor::new(key, id, target.disk.state.clone());
        if !target.forgotten.is_empty() {
            target.acceptor.distrust();
        }
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|state| state.connections[node].open) {
                self.cut(slot, node);
            }
        }
    }

    fn catch_up(&mut self, node: usize, from: usize, bytes: usize) {
        let donor = &self.nodes[from];
        let commit_lsn = donor.acceptor.commit_lsn();
        if donor.acceptor.standing() == Standing::Suspect || !commit_lsn.is_valid() {
            return;
        }
        let committed = CommittedLog {
            generation: Generation(1),
            history: donor.acceptor.state().term_history.clone(),
            commit_lsn,
        };
        let wal = donor.disk.log[..length(commit_lsn)].to_vec();
        let target = &mut self.nodes[node];
        let mut log =
            target.pending.back().map_or(&target.disk, |pending| &pending.after).log.clone();
        match target.acceptor.catch_up(&committed) {
            Ok(CatchUp::Nothing) | Err(AcceptorError::Suspect { .. }) => {}
            Ok(CatchUp::Known(step)) => {
                let after = Disk { state: target.acceptor.state().clone(), log };
                target.pending.push_back(Pending { after, mark: step.mark, reply: None });
            }
            Ok(CatchUp::Append { step, begin }) => {
                self.catch_ups += 1;
                log.truncate(length(begin));
                let after = Disk { state: target.acceptor.state().clone(), log: log.clone() };
                target.pending.push_back(Pending { after, mark: step.mark, reply: None });
                let part = &wal[length(begin)..wal.len().min(length(begin) + bytes)];
                for piece in part.chunks(self.chunk_bytes) {
                    let step = target.acceptor.append_committed(piece).expect("it was announced");
                    log.extend_from_slice(piece);
                    let after = Disk { state: target.acceptor.state().clone(), log: log.clone() };
                    target.pending.push_back(Pending { after, mark: step.mark, reply: None });
                }
            }
            Err(error) => self.violation = Some(format!("node {node} from {from}: {error}")),
        }
        while self.flush_at_once && !self.nodes[node].pending.is_empty() {
            self.flush(node);
        }
    }

    fn write(&mut self, slot: usize) {
        self.writes += 1;
        let writes = self.writes;
        let state = self.slot(slot);
        let at = START + state.wal.len() as u64;
        state.wal.extend_from_slice(&record(at, state.proposer.term(), writes));
        let end = START + state.wal.len() as u64;
        state.proposer.wal_available(end);
        self.pump(slot);
    }

    fn tick(&mut self, slot: usize) {
        self.slot(slot).proposer.tick();
        self.pump(slot);
    }

    fn answer(&mut self, slot: usize, node: usize) {
        let state = self.slot(slot);
        let bytes = state.connections[node].to_proposer.pop_front();
        let bytes = bytes.expect("only connections with messages answer");
        let message = AcceptorMessage::decode(VERSION, &bytes).expect("acceptors write messages");
        for action in state.proposer.message(NodeId(node as u64 + 1), &message) {
            match action {
                Action::Elected { term, term_start_lsn, donor } => {
                    self.elected(slot, term, term_start_lsn, donor)
                }
                Action::Committed { lsn } => self.committed(slot, lsn),
                Action::Disconnect { node, reason } => {
                    self.violation = Some(format!("node {node} is disconnected: {reason}"));
                }
                Action::Stop(reason) => self.stopped(slot, reason),
            }
        }
        self.pump(slot);
    }

    fn elected(&mut self, slot: usize, term: Term, term_start: Lsn, donor: NodeId) {
        if self.winners.insert(term, slot).is_some() {
            self.violation = Some(format!("term {term} is won twice"));
        }
        let donor = &self.nodes[donor.0 as usize - 1];
        if donor.acceptor.term() != term {
            // The donor went on to a newer term meanwhile: its WAL can't be had, and this proposer gets nowhere.
            return self.forget(slot);
        }
        let wal = donor.disk.log[..length(term_start)].to_vec();
        self.slot(slot).wal = wal;
        self.check_winner(slot);
        if let Some(node) = self.slot(slot).reseeds {
            match self.begin_seeding(node, term) {
                true => self.connect(slot, node),
                false => self.forget(slot),
            }
        }
    }

    fn check_winner(&mut self, slot: usize) {
        let state = self.slots[slot].as_ref().expect("a winner is there");
        let term = state.proposer.term();
        if term > self.commit_term && !state.wal.starts_with(&self.committed) {
            self.violation = Some(format!("the winner of term {term} lacks committed WAL"));
        }
    }

    fn release(&mut self, slot: usize) {
        let state = self.slot(slot);
        let floor = state.proposer.maybe_committed_lsn().expect("only winners are released");
        let lsn = floor.max(START);
        state.proposer.shorten(lsn);
        state.wal.truncate(length(lsn));
        state.held = false;
        state.proposer.release();
        self.check_winner(slot);
        self.pump(slot);
    }

    /// A proposer is gone.
    pub fn forget(&mut self, slot: usize) {
        (0..self.nodes.len()).for_each(|node| self.cut(slot, node));
        self.slots[slot] = None;
    }

    fn committed(&mut self, slot: usize, lsn: Lsn) {
        let state = self.slots[slot].as_ref().expect("a committing proposer is there");
        let term = state.proposer.term();
        let bytes = state.wal[..length(lsn)].to_vec();
        if !bytes.starts_with(&self.committed) && !self.committed.starts_with(&bytes) {
            self.violation = Some(format!("term {term} commits other bytes up to {lsn}"));
        }
        // What rot took from a node before it is whole again may still be counted on.
        let holds = |disk: &Disk| disk.log.starts_with(&bytes);
        let holders = self.nodes.iter().filter(|n| holds(&n.disk) || n.forgotten.iter().any(holds));
        let holders = holders.count();
        if holders < majority_of(self.nodes.len()) {
            self.violation = Some(format!("{lsn} is committed, but {holders} disks have it"));
        }
        if self.fences.iter().any(|(fence, end)| term < *fence && lsn > *end) {
            self.violation = Some(format!("term {term} commits {lsn} past a fence"));
        }
        if bytes.len() > self.committed.len() {
            self.committed = bytes;
        }
        self.commit_term = self.commit_term.max(term);
    }

    fn stopped(&mut self, slot: usize, reason: StopReason) {
        match reason {
            StopReason::Fenced { lsn, term } => {
                let lsn = if lsn.is_valid() { lsn } else { START };
                if length(lsn) < self.committed.len() && term > self.commit_term {
                    self.violation = Some(format!("fenced at {lsn}, below what is committed"));
                }
                self.fences.push((term, lsn));
            }
            StopReason::Reseeded { lsn, term } => {
                let node = self.slot(slot).reseeds.expect("only re-seeds end so");
                if !lsn.is_valid() && self.begin_seeding(node, term) {
                    while !self.nodes[node].pending.is_empty() {
                        self.flush(node);
                    }
                    self.trust(node);
                }
            }
            StopReason::HigherTerm { .. } => {}
            StopReason::Membership { .. } => {
                self.violation = Some("the membership never changes here".to_string());
            }
        }
        (0..self.nodes.len()).for_each(|node| self.cut(slot, node));
    }

    fn check_acceptors(&mut self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let commit_lsn = node.acceptor.commit_lsn();
            if !commit_lsn.is_valid() {
                continue;
            }
            let bytes = length(commit_lsn);
            let log = &node.pending.back().map_or(&node.disk, |pending| &pending.after).log;
            if bytes > self.committed.len() || log[..bytes] != self.committed[..bytes] {
                self.violation = Some(format!("node {index} has other bytes below {commit_lsn}"));
            }
        }
    }
}

/// A record that no other is like.
fn record(at: Lsn, term: Term, number: u64) -> Vec<u8> {
    const NO_OPERATION: u8 = 0x20;
    const RESOURCE_MANAGER_XLOG: u8 = 0;
    let body = (term.0 << 32 | number).to_le_bytes();
    let mut record = (RECORD_BYTES as u32).to_le_bytes().to_vec();
    record.extend(0u32.to_le_bytes());
    record.extend((at.0 - RECORD_BYTES as u64).to_le_bytes());
    record.extend([NO_OPERATION, RESOURCE_MANAGER_XLOG, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
    record.extend(crc.to_le_bytes());
    record.extend(body);
    assert_eq!(record.len(), RECORD_BYTES);
    record
}
