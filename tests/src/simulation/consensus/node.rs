//! A node reduced to one timeline's acceptor, a disk that keeps order but not what was not flushed, and its sessions.

use std::collections::{BTreeMap, VecDeque};

use firn_core::consensus::acceptor::{Acceptor, Mark, Reply, Step, When, create_on_push};
use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::state::TimelineState;
use firn_core::marks;
use firn_core::types::{Lsn, NodeId, Term, TimelineKey};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};

use super::network::ConnectionName;
use crate::simulation::checks::{Log, NodeView};
use crate::simulation::random::Random;

/// One change as the disk has it: its WAL is its own.
#[derive(Debug, Clone)]
struct Write {
    change: Change<'static>,
    wal: Vec<u8>,
}

impl Write {
    fn new(change: &Change<'_>) -> Write {
        let (change, wal) = match change {
            Change::Append { term, begin, end, commit_lsn, record_end, wal } => {
                let change = Change::Append {
                    term: *term,
                    begin: *begin,
                    end: *end,
                    commit_lsn: *commit_lsn,
                    record_end: *record_end,
                    wal: &[],
                };
                (change, wal.to_vec())
            }
            Change::Create(create) => (Change::Create(create.clone()), Vec::new()),
            Change::Delete => (Change::Delete, Vec::new()),
            Change::Vote { term } => (Change::Vote { term: *term }, Vec::new()),
            Change::Term { term } => (Change::Term { term: *term }, Vec::new()),
            Change::Elected { term, history, truncate_to } => {
                let (history, truncate_to) = (history.clone(), *truncate_to);
                (Change::Elected { term: *term, history, truncate_to }, Vec::new())
            }
            Change::Position { commit_lsn, peer_horizon_lsn } => {
                let (commit_lsn, peer_horizon_lsn) = (*commit_lsn, *peer_horizon_lsn);
                (Change::Position { commit_lsn, peer_horizon_lsn }, Vec::new())
            }
            Change::Membership(membership) => (Change::Membership(membership.clone()), Vec::new()),
            Change::Cluster { postgres_version, system_id } => {
                let (postgres_version, system_id) = (*postgres_version, *system_id);
                (Change::Cluster { postgres_version, system_id }, Vec::new())
            }
            Change::PostgresHistory(history) => {
                (Change::PostgresHistory(history.clone()), Vec::new())
            }
        };
        Write { change, wal }
    }

    fn change(&self) -> Change<'_> {
        match &self.change {
            Change::Append { term, begin, end, commit_lsn, record_end, .. } => Change::Append {
                term: *term,
                begin: *begin,
                end: *end,
                commit_lsn: *commit_lsn,
                record_end: *record_end,
                wal: &self.wal,
            },
            other => other.clone(),
        }
    }
}

/// What survives the process: the effect of all durable writes.
#[derive(Debug, Clone)]
struct Disk {
    state: TimelineState,
    log: Log,
}

/// A write that became durable cut the log: the checks start over from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut(pub Lsn);

impl Disk {
    fn view(&self, id: NodeId) -> NodeView<'_> {
        NodeView { id, state: &self.state, log: &self.log }
    }

    fn apply(&mut self, write: &Write) -> Option<Cut> {
        self.state.apply(&write.change());
        match &write.change {
            Change::Append { begin, .. } => {
                if self.log.bytes.is_empty() {
                    self.log.start = *begin;
                }
                self.log.bytes.extend_from_slice(&write.wal);
                None
            }
            Change::Elected { truncate_to, .. } => {
                self.log.set_end(*truncate_to);
                Some(Cut(*truncate_to))
            }
            _ => None,
        }
    }
}

/// An answer that waits for the disk.
#[derive(Debug)]
struct Waiting {
    session: SessionName,
    /// After how many writes of this life.
    after: u64,
    when: When,
    reply: Reply,
}

/// A connection and its number: answers to an earlier connection of the same name go nowhere.
type SessionName = (ConnectionName, u64);

/// The running process: everything here is gone when it dies.
#[derive(Debug)]
struct Process {
    acceptor: Acceptor,
    /// Accepted by the disk, durable in this order. The last change of a step carries its mark.
    in_flight: VecDeque<(Write, Option<Mark>)>,
    written: u64,
    durable: u64,
    witnessed: u64,
    waiting: VecDeque<Waiting>,
    greeted: BTreeMap<ConnectionName, u64>,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Whose log is whose.
    pub id: NodeId,
    key: TimelineKey,
    disk: Option<Disk>,
    /// What was on the disk that was lost.
    lost_disk: Option<Disk>,
    process: Option<Process>,
}

/// An answer on its way out.
pub struct Outgoing {
    /// Where to; dropped when the connection has another number by now.
    pub session: SessionName,
    /// The encoded message.
    pub message: Vec<u8>,
}

impl Node {
    /// A node that runs and knows nothing.
    pub fn new(id: NodeId, key: TimelineKey) -> Node {
        Node { id, key, disk: None, lost_disk: None, process: None }
    }

    /// The timeline is made here, durably.
    pub fn create(&mut self, create: &Create) {
        let state = TimelineState::create(create);
        self.disk = Some(Disk { state, log: Log { start: create.start_lsn, bytes: Vec::new() } });
        self.start();
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has the timeline.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// The durable state and log.
    pub fn view(&self) -> Option<NodeView<'_>> {
        self.disk.as_ref().map(|disk| disk.view(self.id))
    }

    /// What is durable here, or was when the disk was lost.
    pub fn last_view(&self) -> Option<NodeView<'_>> {
        self.disk.as_ref().or(self.lost_disk.as_ref()).map(|disk| disk.view(self.id))
    }

    /// Starts the process from what is durable.
    pub fn start(&mut self) {
        let Some(disk) = &self.disk else { return };
        self.process = Some(Process {
            acceptor: Acceptor::new(self.key, self.id, disk.state.clone()),
            in_flight: VecDeque::new(),
            written: 0,
            durable: 0,
            witnessed: 0,
            waiting: VecDeque::new(),
            greeted: BTreeMap::new(),
        });
    }

    /// Kills the process. Of the writes in flight any number, in order, may have reached the disk.
    pub fn crash(&mut self, random: &mut Random) -> Vec<Cut> {
        let (Some(process), Some(disk)) = (self.process.take(), self.disk.as_mut()) else {
            return Vec::new();
        };
        let in_flight = process.in_flight.len();
        let survive = random.index(in_flight + 1);
        if survive < in_flight {
            marks::hit("node.lost_writes");
        }
        if survive > 0 {
            marks::hit("node.unanswered_writes_survive");
        }
        process.in_flight.iter().take(survive).filter_map(|(write, _)| disk.apply(write)).collect()
    }

    /// The disk is replaced by an empty one.
    pub fn lose_disk(&mut self) {
        self.process = None;
        self.lost_disk = self.disk.take();
    }

    /// A message arrives. `Err`: the node refuses it and closes the connection.
    pub fn receive(
        &mut self,
        session: SessionName,
        bytes: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Result<(), String> {
        let message =
            ProposerMessage::decode(ProtocolVersion::V3, bytes).map_err(|e| e.to_string())?;
        if self.process.is_none() {
            self.greet_unknown(&message)?;
        }
        let process = self.process.as_mut().expect("the timeline was there or was made");
        let is_greeting = matches!(message, ProposerMessage::Greeting(_));
        if is_greeting {
            process.greeted.insert(session.0, session.1);
        } else if process.greeted.get(&session.0) != Some(&session.1) {
            return Err("the first message is no greeting".to_string());
        }
        let step = process.acceptor.handle(&message).map_err(|error| error.to_string())?;
        process.take(step, session);
        process.answer(out);
        Ok(())
    }

    /// The first message about a timeline that is not here: a relay's, which never allows that one is made.
    fn greet_unknown(&mut self, message: &ProposerMessage<'_>) -> Result<(), String> {
        let ProposerMessage::Greeting(greeting) = message else {
            return Err("the first message is no greeting".to_string());
        };
        let create = create_on_push(self.key, greeting, false).map_err(|error| {
            marks::hit("node.unknown_timeline_refused");
            error.to_string()
        })?;
        self.create(&create);
        Ok(())
    }

    /// A membership change by an operator, durable when it returns.
    pub fn switch_membership(&mut self, membership: &Membership) -> Result<Vec<Cut>, String> {
        let Some(process) = self.process.as_mut() else { return Err("not running".to_string()) };
        let step = process.acceptor.switch_membership(membership).map_err(|e| e.to_string())?;
        process.queue(&step);
        Ok(self.flush_all())
    }

    /// A term bump by an operator, durable when it returns.
    pub fn bump_term(&mut self) -> Vec<Cut> {
        let Some(process) = self.process.as_mut() else { return Vec::new() };
        let step = process.acceptor.bump_term(None);
        process.queue(&step);
        self.flush_all()
    }

    /// The disk completes some of the writes in flight.
    pub fn flush(&mut self, random: &mut Random, out: &mut Vec<Outgoing>) -> Vec<Cut> {
        let (Some(process), Some(disk)) = (self.process.as_mut(), self.disk.as_mut()) else {
            return Vec::new();
        };
        let mut cuts = Vec::new();
        if process.in_flight.is_empty() {
            process.witnessed = process.durable;
        } else {
            process.witnessed =
                if random.percent(50) { process.durable } else { process.witnessed };
            for _ in 0..=random.index(process.in_flight.len()) {
                cuts.extend(process.complete_one(disk));
            }
        }
        process.answer(out);
        cuts
    }

    /// Whether a flush would change anything.
    pub fn has_work(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            !process.in_flight.is_empty() || process.witnessed < process.durable
        })
    }

    /// The running acceptor's term; 0 when it does not run.
    pub fn term(&self) -> Term {
        self.process.as_ref().map_or(Term(0), |process| process.acceptor.term())
    }

    fn flush_all(&mut self) -> Vec<Cut> {
        let (Some(process), Some(disk)) = (self.process.as_mut(), self.disk.as_mut()) else {
            return Vec::new();
        };
        let mut cuts = Vec::new();
        while !process.in_flight.is_empty() {
            cuts.extend(process.complete_one(disk));
        }
        process.witnessed = process.durable;
        cuts
    }
}

impl Process {
    fn queue(&mut self, step: &Step<'_>) {
        for change in step.changes.iter() {
            self.in_flight.push_back((Write::new(change), None));
            self.written += 1;
        }
        if let Some((_, mark)) = self.in_flight.back_mut().filter(|_| !step.changes.is_empty()) {
            *mark = step.mark;
        }
    }

    fn take(&mut self, step: Step<'_>, session: SessionName) {
        self.queue(&step);
        let when = match &step.reply {
            Reply::None => return,
            Reply::Message { when, .. } | Reply::AppendResponse { when } => *when,
        };
        self.waiting.push_back(Waiting { session, after: self.written, when, reply: step.reply });
    }

    fn complete_one(&mut self, disk: &mut Disk) -> Option<Cut> {
        let (write, mark) = self.in_flight.pop_front()?;
        let cut = disk.apply(&write);
        self.durable += 1;
        if let Some(mark) = mark {
            self.acceptor.durable(mark);
        }
        cut
    }

    /// Sends what need not wait any longer. A connection's answers stay in order.
    fn answer(&mut self, out: &mut Vec<Outgoing>) {
        let mut held = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let ready = match waiting.when {
                When::Now => true,
                When::Durable => self.durable >= waiting.after,
                When::Witnessed => self.witnessed >= waiting.after,
            };
            let earlier_waits = held.iter().any(|other: &Waiting| other.session == waiting.session);
            if !ready || earlier_waits {
                held.push(waiting);
                continue;
            }
            let message = match waiting.reply {
                Reply::None => continue,
                Reply::Message { message, .. } => message,
                Reply::AppendResponse { .. } => match self.acceptor.append_response() {
                    Some(response) => AcceptorMessage::AppendResponse(response),
                    None => continue,
                },
            };
            let mut bytes = Vec::new();
            message.encode(ProtocolVersion::V3, &mut bytes);
            out.push(Outgoing { session: waiting.session, message: bytes });
        }
        self.waiting = held.into();
    }
}
