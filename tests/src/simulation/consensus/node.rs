//! A node reduced to one timeline's acceptor, a disk that keeps order but not what was not flushed, and its sessions.

use std::collections::{BTreeMap, VecDeque};

use firn_core::consensus::acceptor::{
    Acceptor, Mark, Reply, Standing as Trust, Step, When, create_on_push,
};
use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::membership_change::{LogEnd, Standing};
use firn_core::consensus::state::TimelineState;
use firn_core::marks;
use firn_core::types::{Lsn, NodeId, Term, TimelineKey};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};

use super::network::ConnectionName;
use crate::simulation::checks::{Log, NodeView};
use crate::simulation::random::Random;

/// Once in so many flushes the disk's state is kept, to go back to it.
const FLUSHES_PER_LOOK: u64 = 40;

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
    /// The disk refused a change that the acceptor had made: it knows what the disk will never have.
    failed: bool,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Whose log is whose.
    pub id: NodeId,
    key: TimelineKey,
    disk: Option<Disk>,
    /// The disk as it was some writes ago.
    earlier: Option<Disk>,
    /// The disk went back to an earlier state, and its recovery noticed: what it forgot was acknowledged.
    forgot: bool,
    /// What was on disks that were lost or forgot, and of the timeline when it was deleted: an answer about it may be under
    /// way.
    lost_disks: Vec<Disk>,
    process: Option<Process>,
    /// There is no room for WAL; votes, terms and the like have their reserve.
    full: bool,
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
        Node {
            id,
            key,
            disk: None,
            earlier: None,
            forgot: false,
            lost_disks: Vec::new(),
            process: None,
            full: false,
        }
    }

    /// The timeline is made here, durably.
    pub fn create(&mut self, create: &Create) {
        let state = TimelineState::create(create);
        self.disk = Some(Disk { state, log: Log { start: create.start_lsn, bytes: Vec::new() } });
        (self.earlier, self.forgot) = (None, false);
        self.start();
    }

    /// The timeline is deleted here, durably, because a newer membership does without this node.
    pub fn exclude(&mut self, membership: &Membership) {
        let own = self.membership().map(|own| own.generation);
        if !membership.contains(self.id) && own.is_some_and(|own| own < membership.generation) {
            self.lose_disk();
        }
    }

    /// The disk has no room for WAL any more, or has again.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// The membership that the running process knows.
    pub fn membership(&self) -> Option<&Membership> {
        self.process.as_ref().map(|process| &process.acceptor.state().membership)
    }

    /// The commit LSN that the running process knows, durable or not.
    pub fn known_commit_lsn(&self) -> Lsn {
        self.process.as_ref().map_or(Lsn::INVALID, |process| process.acceptor.commit_lsn())
    }

    /// How far the running acceptor is, once all that it was told is durable. Of one that may have forgotten something it
    /// says nothing.
    pub fn standing(&self) -> Option<Standing> {
        let acceptor = &self.process.as_ref()?.acceptor;
        if acceptor.standing() != Trust::Whole {
            return None;
        }
        let log_end = LogEnd { last_log_term: acceptor.last_log_term(), lsn: acceptor.flush_lsn() };
        Some(Standing { term: acceptor.term(), log_end })
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has the timeline.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Whether it has the timeline, and knows all that it promised.
    pub fn is_whole(&self) -> bool {
        self.disk.is_some() && !self.forgot
    }

    /// Whether it runs, and waits to be re-seeded.
    pub fn is_suspect(&self) -> bool {
        self.forgot && self.process.is_some()
    }

    /// The term that the running acceptor knows.
    pub fn term(&self) -> Option<Term> {
        self.process.as_ref().map(|process| process.acceptor.term())
    }

    /// The durable state and log.
    pub fn view(&self) -> Option<NodeView<'_>> {
        self.disk.as_ref().map(|disk| disk.view(self.id))
    }

    /// What is durable here, and what was when disks were lost.
    pub fn views_ever(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.disk.iter().chain(&self.lost_disks).map(|disk| disk.view(self.id))
    }

    /// Starts the process from what is durable.
    pub fn start(&mut self) {
        let Some(disk) = &self.disk else { return };
        let mut acceptor = Acceptor::new(self.key, self.id, disk.state.clone());
        if self.forgot {
            acceptor.distrust();
        }
        self.process = Some(Process {
            acceptor,
            in_flight: VecDeque::new(),
            written: 0,
            durable: 0,
            witnessed: 0,
            waiting: VecDeque::new(),
            greeted: BTreeMap::new(),
            failed: false,
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
        self.lost_disks.extend(self.disk.take());
        (self.earlier, self.forgot) = (None, false);
    }

    /// The process dies and the disk goes back to how it was some writes ago; false when nobody looked at it then.
    pub fn forget_writes(&mut self) -> bool {
        let Some(earlier) = self.earlier.take() else { return false };
        self.process = None;
        self.lost_disks.extend(self.disk.replace(earlier));
        self.forgot = true;
        true
    }

    /// A majority of the others promised `floor`: the acceptor takes part from there on. `None` when it cannot.
    pub fn begin_seeding(&mut self, floor: Term) -> Option<Vec<Cut>> {
        let process = self.process.as_mut().filter(|_| self.forgot)?;
        let step = process.acceptor.begin_seeding(floor).ok()?;
        process.queue(&step);
        Some(self.flush_all())
    }

    /// The acceptor has all that can have been committed, and its disk says so from now on.
    pub fn become_whole(&mut self) {
        if let Some(process) = self.process.as_mut().filter(|_| self.forgot) {
            marks::hit("node.reseeded");
            process.acceptor.trust();
            (self.earlier, self.forgot) = (None, false);
        }
    }

    /// Whether it has just come to have all that can have been committed.
    pub fn is_seeded(&self) -> bool {
        self.forgot && self.process.as_ref().is_some_and(|process| process.acceptor.is_seeded())
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
        if process.failed {
            let disk = self.disk.as_ref().expect("a process has a disk");
            process.restart(disk, is_greeting)?;
        }
        if is_greeting {
            process.greeted.insert(session.0, session.1);
        } else if process.greeted.get(&session.0) != Some(&session.1) {
            return Err("the first message is no greeting".to_string());
        }
        let step = process.acceptor.handle(&message).map_err(|error| error.to_string())?;
        if self.full && step.changes.iter().any(|change| matches!(change, Change::Append { .. })) {
            marks::hit("node.full_disk_refused_wal");
            process.failed = true;
            return Err("the disk is full".to_string());
        }
        if self.full && step.changes.iter().any(|change| matches!(change, Change::Vote { .. })) {
            marks::hit("node.full_disk_took_vote");
        }
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
        let Some(process) = self.process.as_mut().filter(|process| !process.failed) else {
            return Err("not running".to_string());
        };
        let step = process.acceptor.switch_membership(membership).map_err(|e| e.to_string())?;
        process.queue(&step);
        Ok(self.flush_all())
    }

    /// A term bump by an operator to a term, or by one, durable when it returns; `None` when nobody answers.
    pub fn bump_term(&mut self, term: Option<Term>) -> Option<Vec<Cut>> {
        let process = self.process.as_mut().filter(|process| !process.failed)?;
        let step = process.acceptor.bump_term(term);
        process.queue(&step);
        Some(self.flush_all())
    }

    /// The disk completes some of the writes in flight.
    pub fn flush(&mut self, random: &mut Random, out: &mut Vec<Outgoing>) -> Vec<Cut> {
        let (Some(process), Some(disk)) = (self.process.as_mut(), self.disk.as_mut()) else {
            return Vec::new();
        };
        let mut cuts = Vec::new();
        if random.once_in(FLUSHES_PER_LOOK) {
            self.earlier = Some(disk.clone());
        }
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
            let unwitnessed = process.witnessed < process.durable;
            unwitnessed || !process.in_flight.is_empty() || !process.waiting.is_empty()
        })
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
    /// After a refused change the next proposer begins with an acceptor that knows what the disk has and no more.
    fn restart(&mut self, disk: &Disk, is_greeting: bool) -> Result<(), String> {
        if !is_greeting || !self.in_flight.is_empty() {
            return Err("the disk refused a change".to_string());
        }
        marks::hit("node.acceptor_restarted");
        self.acceptor.restart(disk.state.clone());
        self.failed = false;
        Ok(())
    }

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
