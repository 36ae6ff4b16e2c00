//! One run: everything that exists, and the loop that lets one thing happen at a time.

use std::collections::BTreeMap;

use firn_core::consensus::change::Create;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::proposer::Role;
use firn_core::marks;
use firn_core::types::{
    Generation, Id, Lsn, NodeId, PostgresVersion, SystemId, TenantId, Term, TimelineId, TimelineKey,
};

use super::actor::{AnyProposer, Event};
use super::faults::Faults;
use super::network::{ConnectionName, Direction, Network, NodeIndex, ProposerNumber};
use super::node::{Cut, Node, Outgoing};
use super::operator::Operator;
use super::walproposer::{Proposal, WalProposer};
use crate::simulation::checks::{Checks, NodeView, Violation, describe};
use crate::simulation::ledger::Ledger;
use crate::simulation::primary::Primary;
use crate::simulation::random::Random;
use crate::simulation::wal::{Cluster, Wal};

const SEGMENT_SIZE_BYTES: u32 = 1 << 20;

/// Nodes that are no members at first.
const SPARE_NODES: u64 = 2;
/// Memberships after which the first one is forgotten: nobody can be elected by its quorums any more.
const MEMBERSHIPS_MAX: usize = 6;

/// Database servers at once: two that were given up and one that was rebuilt.
const MACHINES_MAX: usize = 3;

/// Messages that every seed delivers at least.
pub const MESSAGES_MIN: u64 = 5_000;
/// Steps after which a proposer that does not stream gives up, as relay and fence do after a while: the members may have
/// changed behind its back since it was greeted, and nobody is left to tell it.
const ELECTION_STEPS_MAX: u64 = 5_000;
/// Steps in which a healed cluster must acknowledge everything: some thirty times what it takes.
const QUIET_STEPS_MAX: u64 = 60_000;

/// What a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Messages delivered.
    pub messages: u64,
    /// Faults injected.
    pub faults: u64,
    /// Records that clients were told are safe.
    pub acknowledged: usize,
    /// Hash of everything that happened, in order.
    pub trace: u32,
}

/// A running proposer.
#[derive(Debug)]
pub struct Actor {
    /// Its decisions.
    pub proposer: AnyProposer,
    /// What it proposes.
    source: Source,
    /// The node that it re-seeds: it lives in that node's process.
    reseeds: Option<NodeIndex>,
    /// Whether it may send WAL: its primary was compared with the quorum's log.
    streams: bool,
    /// The step in which it began.
    since: u64,
}

/// Whose WAL a proposer proposes.
#[derive(Debug)]
enum Source {
    /// That of the machine of this number, in its life of this number: a relay.
    Primary { machine: usize, life: u64 },
    /// The quorum's own, as the donor of the election had it: a fence.
    Quorum { start: Lsn, bytes: Vec<u8> },
}

/// A database server.
#[derive(Debug)]
pub struct Machine {
    /// Its Postgres.
    pub primary: Primary,
    /// Counts its restarts: a relay follows one life only.
    life: u64,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Where all chance comes from.
    pub random: Random,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<Node>,
    /// The proposers that run.
    pub actors: BTreeMap<ProposerNumber, Actor>,
    /// What is between them.
    pub network: Network,
    /// The databases: the last one is the newest, the others were given up but still run.
    pub machines: Vec<Machine>,
    /// How the timeline begins, with its first members.
    pub create: Create,
    /// The invariants' memory.
    pub checks: Checks,
    /// The memberships that nodes were told of lately, in that order.
    memberships: Vec<Membership>,
    operator: Operator,
    /// The newest membership that a node heard of while it was being re-seeded: its own may be older.
    heard: BTreeMap<NodeIndex, Membership>,
    /// How many of a hundred steps are a disk's: with slow disks more is in flight when a node dies.
    disk_percent: u64,
    /// What was begun is finished, and nothing else is begun.
    quiet: bool,
    cluster: Cluster,
    key: TimelineKey,
    ledger: Ledger,
    proposers: ProposerNumber,
    /// Where the last complete fence ended.
    fenced: Option<Lsn>,
    steps: u64,
    messages: u64,
    trace: u32,
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Result<Outcome, Violation> {
    let mut world = World::new(seed);
    let mut faults = Faults::default();
    world.start_relay(0);
    while world.messages < MESSAGES_MIN || faults.count() < 3 {
        world.step()?;
        if world.random.once_in(200) {
            faults.inject(&mut world)?;
        }
    }
    world.settle(&mut faults)?;
    Ok(Outcome {
        messages: world.messages,
        faults: faults.count(),
        acknowledged: world.ledger.entries().len(),
        trace: world.trace,
    })
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let node_count = if random.percent(60) { 3 } else { 5 };
        let disk_percent = [2, 5, 14][random.index(3)];
        let cluster = Cluster {
            postgres_version: PostgresVersion(160_009),
            system_id: SystemId(7_000_000_000_000_000_001),
            segment_size_bytes: SEGMENT_SIZE_BYTES.into(),
        };
        let start = Lsn(u64::from(SEGMENT_SIZE_BYTES));
        let id = Id([7; 16]);
        let key = TimelineKey { tenant_id: TenantId(id), timeline_id: TimelineId(id) };
        let node_ids = (1..=node_count + SPARE_NODES).map(NodeId);
        let members = (1..=node_count).map(NodeId).map(member).collect();
        let membership = Membership { generation: Generation(1), members, new_members: None };
        let create = Create {
            membership: membership.clone(),
            postgres_version: cluster.postgres_version,
            system_id: cluster.system_id,
            segment_size_bytes: SEGMENT_SIZE_BYTES,
            start_lsn: start,
            commit_lsn: start,
        };
        let mut nodes: Vec<Node> = node_ids.map(|id| Node::new(id, key)).collect();
        nodes[..node_count as usize].iter_mut().for_each(|node| node.create(&create));
        World {
            random,
            nodes,
            actors: BTreeMap::new(),
            network: Network::default(),
            machines: vec![Machine { primary: Primary::new(cluster, start), life: 0 }],
            fenced: None,
            create,
            memberships: vec![membership],
            operator: Operator::default(),
            heard: BTreeMap::new(),
            disk_percent,
            quiet: false,
            cluster,
            key,
            checks: Checks::new(start),
            ledger: Ledger::default(),
            proposers: 0,
            steps: 0,
            messages: 0,
            trace: 0,
        }
    }

    /// Lets one thing happen, and checks what must hold.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        self.give_up();
        match self.random.below(100) {
            share if share < 80 - self.disk_percent => self.deliver()?,
            0..80 => self.flush_some_disk()?,
            80..88 => {
                let machine = self.random.index(self.machines.len());
                let primary = &mut self.machines[machine].primary;
                primary.write(&mut self.random);
                if self.random.percent(70) {
                    primary.flush(&mut self.random);
                }
            }
            88..96 => self.stream()?,
            96..98 => self.connect_someone()?,
            98 => {
                self.operate()?;
                self.reseed_someone();
            }
            _ => self.tick()?,
        }
        self.checks.ledger_holds(&self.ledger)
    }

    fn give_up(&mut self) {
        let late = |actor: &Actor| !actor.streams && self.steps - actor.since > ELECTION_STEPS_MAX;
        let late = self.actors.iter().find(|(_, actor)| late(actor)).map(|(number, _)| *number);
        if let Some(number) = late {
            marks::hit(match self.actors[&number].reseeds {
                Some(_) => "reseed.gave_up",
                None => "proposer.gave_up",
            });
            self.stop_proposer(number);
        }
    }

    /// A relay of a machine's present life begins.
    pub fn start_relay(&mut self, machine: usize) {
        let source = Source::Primary { machine, life: self.machines[machine].life };
        let start_lsn = self.machines[machine].primary.wal().start();
        let membership = self.some_membership();
        self.start_proposer(source, membership, Role::Stream { start_lsn });
    }

    /// A proposer without a cluster begins, to fence.
    pub fn start_fence(&mut self) {
        let source = Source::Quorum { start: Lsn::INVALID, bytes: Vec::new() };
        let membership = self.some_membership();
        self.start_proposer(source, membership, Role::Fence);
    }

    /// A node that forgot writes asks the other members, unless it does already.
    fn reseed_someone(&mut self) {
        for node in 0..self.nodes.len() {
            let reseeds = self.actors.values().any(|actor| actor.reseeds == Some(node));
            if self.nodes[node].is_suspect() && !reseeds && self.reseed(node) {
                return;
            }
        }
    }

    /// False when it knows that it is no member any more.
    fn reseed(&mut self, node: NodeIndex) -> bool {
        let id = self.nodes[node].id;
        let own = self.nodes[node].membership();
        let own = own.into_iter().chain(self.heard.get(&node));
        // One that was to be added asks what became of it.
        let others = self.nodes.iter().filter_map(Node::membership);
        let own = own.max_by_key(|membership| membership.generation);
        let others = others.max_by_key(|membership| membership.generation);
        let newest = own.filter(|own| own.contains(id)).or(others).cloned();
        let (Some(membership), Some(known_term)) = (newest, self.nodes[node].term()) else {
            return false;
        };
        if !membership.contains(id) {
            return false;
        }
        let source = Source::Quorum { start: Lsn::INVALID, bytes: Vec::new() };
        self.start_proposer(source, membership, Role::Reseed { node: id, known_term });
        true
    }

    /// The others elected the proposer that re-seeds a node, which takes part from now on.
    fn begin_seeding(&mut self, node: NodeIndex, term: Term) -> Result<bool, Violation> {
        let Some(cuts) = self.nodes[node].begin_seeding(term) else { return Ok(false) };
        self.node_changed(node, &cuts)?;
        Ok(true)
    }

    fn become_whole(&mut self, node: NodeIndex) -> Result<(), Violation> {
        self.nodes[node].become_whole();
        self.heard.remove(&node);
        self.nothing_is_forgotten()
    }

    /// Whether anybody proposes, but for nodes that are re-seeded.
    pub fn has_proposer(&self) -> bool {
        self.actors.values().any(|actor| actor.reseeds.is_none())
    }

    /// A node's process dies and its disk goes back to an earlier state; false when there is none.
    pub fn forget_writes(&mut self, node: NodeIndex) -> bool {
        if !self.nodes[node].forget_writes() {
            return false;
        }
        self.checks.log_cut(self.nodes[node].id, Lsn::INVALID);
        self.process_died(node);
        true
    }

    /// What lived in a node's process is gone with it.
    fn process_died(&mut self, node: NodeIndex) {
        self.cut_all_of(node);
        let own = |actor: &Actor| actor.reseeds == Some(node);
        let number = self.actors.iter().find(|(_, actor)| own(actor)).map(|(number, _)| *number);
        if let Some(number) = number {
            self.stop_proposer(number);
        }
    }

    /// The proposer ends, without a word to anyone.
    pub fn stop_proposer(&mut self, number: ProposerNumber) {
        self.actors.remove(&number);
        for node in 0..self.nodes.len() {
            self.network.cut((number, node));
        }
    }

    fn stop_proposers(&mut self) {
        while let Some(number) = self.actors.keys().next().copied() {
            self.stop_proposer(number);
        }
    }

    /// A connection breaks; both ends notice at once.
    pub fn cut(&mut self, name: ConnectionName) -> bool {
        if let Some(actor) = self.actors.get_mut(&name.0) {
            actor.proposer.disconnected(name.1);
        }
        self.network.cut(name)
    }

    /// A node's process dies.
    pub fn crash_node(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let cuts = self.nodes[node].crash(&mut self.random);
        self.node_changed(node, &cuts)?;
        self.process_died(node);
        Ok(())
    }

    /// An operator raises a node's term; false when nobody answers.
    pub fn bump_term(&mut self, node: NodeIndex) -> Result<bool, Violation> {
        let Some(cuts) = self.nodes[node].bump_term(None) else { return Ok(false) };
        self.node_changed(node, &cuts)?;
        Ok(true)
    }

    /// A membership is about to be told to nodes: from now on its quorums count.
    pub fn issue(&mut self, membership: &Membership) -> Result<(), Violation> {
        if !self.memberships.contains(membership) {
            self.memberships.push(membership.clone());
            if self.memberships.len() > MEMBERSHIPS_MAX {
                self.memberships.remove(0);
            }
        }
        self.nothing_is_forgotten()
    }

    /// A node that is no member any more deletes the timeline.
    pub fn exclude(&mut self, node: NodeIndex, membership: &Membership) {
        self.nodes[node].exclude(membership);
        if !self.nodes[node].has_disk() {
            self.checks.log_cut(self.nodes[node].id, Lsn::INVALID);
            self.process_died(node);
        }
    }

    /// Whether a majority of every membership that may be in use keeps its disks when this one is lost: that is what is
    /// promised.
    pub fn may_lose(&self, node: NodeIndex) -> bool {
        let keeps = |id: NodeId| {
            let kept = self.nodes.iter().enumerate();
            kept.filter(|(other, _)| *other != node).any(|(_, n)| n.id == id && n.is_whole())
        };
        self.memberships.iter().rev().take(3).all(|membership| membership.is_quorum(keeps))
    }

    fn nothing_is_forgotten(&mut self) -> Result<(), Violation> {
        let voters = self.nodes.iter().filter(|node| node.is_whole());
        let voters: Vec<NodeView<'_>> = voters.filter_map(Node::view).collect();
        self.checks.nothing_is_forgotten(&self.memberships, &voters)
    }

    fn operate(&mut self) -> Result<(), Violation> {
        let mut operator = std::mem::take(&mut self.operator);
        let result = operator.step(self, self.quiet);
        self.operator = operator;
        result
    }

    /// A membership as some node knows it: what a proposer begins with may be old.
    fn some_membership(&mut self) -> Membership {
        let known = self.nodes.iter().filter_map(|node| node.membership());
        let known: Vec<&Membership> =
            known.filter(|known| known.generation > Generation(0)).collect();
        match known.len() {
            0 => self.create.membership.clone(),
            count => known[self.random.index(count)].clone(),
        }
    }

    /// A node's disk is replaced by an empty one.
    pub fn empty_disk(&mut self, node: NodeIndex) {
        self.nodes[node].lose_disk();
        self.checks.log_cut(self.nodes[node].id, Lsn::INVALID);
        self.process_died(node);
    }

    /// A primary died and came back; whoever followed it has lost it.
    pub fn primary_restarted(&mut self, machine: usize) {
        self.machines[machine].life += 1;
        let follows = |actor: &Actor| match actor.source {
            Source::Primary { machine: followed, .. } => followed == machine,
            Source::Quorum { .. } => false,
        };
        let followers: Vec<ProposerNumber> = self
            .actors
            .iter()
            .filter(|(_, actor)| follows(actor))
            .map(|(number, _)| *number)
            .collect();
        followers.into_iter().for_each(|number| self.stop_proposer(number));
    }

    /// Makes a new primary of all that is committed, on a new Postgres timeline, on a new machine or, when there are
    /// enough, in place of the newest. The other ones, and the relays on them, do not know.
    pub fn rebuild_primary(&mut self) {
        let committed = self.checks.committed();
        let wal = Wal::restored(self.cluster, committed.start, committed.bytes.clone());
        let xid = self.machines.iter().map(|machine| machine.primary.next_xid()).max();
        let primary = Primary::rebuilt(wal, xid.unwrap_or_default());
        match self.machines.len() {
            MACHINES_MAX => {
                let newest = MACHINES_MAX - 1;
                self.machines[newest].primary = primary;
                self.primary_restarted(newest);
            }
            _ => self.machines.push(Machine { primary, life: 0 }),
        }
    }

    /// Where the last complete fence ended; asked for once.
    pub fn take_fence(&mut self) -> Option<Lsn> {
        self.fenced.take()
    }

    /// Durable states of the nodes that have their disks.
    fn views(nodes: &[Node]) -> Vec<NodeView<'_>> {
        nodes.iter().filter_map(Node::view).collect()
    }

    fn start_proposer(&mut self, source: Source, membership: Membership, role: Role) {
        self.proposers += 1;
        let (system_id, reseeds) = match role {
            Role::Stream { .. } => (self.cluster.system_id, None),
            Role::Fence => (SystemId(0), None),
            Role::Reseed { node: id, .. } => {
                (SystemId(0), self.nodes.iter().position(|node| node.id == id))
            }
        };
        let streams = matches!(role, Role::Stream { .. });
        let proposal = Proposal {
            key: self.key,
            postgres_version: self.cluster.postgres_version,
            system_id,
            segment_size_bytes: SEGMENT_SIZE_BYTES,
        };
        // Only core's proposer knows when a fence or a re-seed is complete.
        let proposer = if streams && self.random.percent(30) {
            AnyProposer::Second(WalProposer::new(proposal))
        } else {
            let ids = self.nodes.iter().map(|node| node.id).collect();
            AnyProposer::core(proposal, membership, ids, role)
        };
        self.actors.insert(
            self.proposers,
            Actor { proposer, source, reseeds, streams: false, since: self.steps },
        );
    }

    fn cut_all_of(&mut self, node: NodeIndex) {
        for name in self.network.names() {
            if name.1 == node {
                self.cut(name);
            }
        }
    }

    fn deliver(&mut self) -> Result<(), Violation> {
        let Some((name, direction, message)) = self.network.deliver(&mut self.random) else {
            return Ok(());
        };
        self.messages += 1;
        self.trace = crc32c::crc32c_append(self.trace, &message);
        let (proposer, node) = name;
        match direction {
            Direction::ToNode => {
                let session = (name, self.network.number(name).unwrap_or_default());
                let mut out = Vec::new();
                if let Err(reason) = self.nodes[node].receive(session, &message, &mut out) {
                    self.trace = crc32c::crc32c_append(self.trace, reason.as_bytes());
                    marks::hit("node.refused");
                    self.cut(name);
                }
                self.send_all(out);
                self.checks.known_commit(self.nodes[node].id, self.nodes[node].known_commit_lsn())
            }
            Direction::ToProposer => {
                let mut events = Vec::new();
                if let Some(actor) = self.actors.get_mut(&proposer) {
                    actor.proposer.receive(node, &message, &mut events);
                }
                self.obey(proposer, events)
            }
        }
    }

    fn flush_some_disk(&mut self) -> Result<(), Violation> {
        let busy: Vec<NodeIndex> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].has_work()).collect();
        if busy.is_empty() {
            return Ok(());
        }
        let node = busy[self.random.index(busy.len())];
        let mut out = Vec::new();
        let cuts = self.nodes[node].flush(&mut self.random, &mut out);
        self.send_all(out);
        self.node_changed(node, &cuts)?;
        match self.nodes[node].is_seeded() {
            true => self.become_whole(node),
            false => Ok(()),
        }
    }

    /// Checks what a node's disk says now.
    pub fn node_changed(&mut self, node: NodeIndex, cuts: &[Cut]) -> Result<(), Violation> {
        let Some(view) = self.nodes[node].view() else { return Ok(()) };
        cuts.iter().for_each(|cut| self.checks.log_cut(view.id, cut.0));
        self.checks.node_agrees(view)?;
        if !cuts.is_empty() {
            marks::hit("node.log_cut");
            self.nothing_is_forgotten()?;
        }
        Ok(())
    }

    fn stream(&mut self) -> Result<(), Violation> {
        for number in self.actors.keys().copied().collect::<Vec<_>>() {
            let Some(actor) = self.actors.get_mut(&number).filter(|actor| actor.streams) else {
                continue;
            };
            let mut events = Vec::new();
            let random = &mut self.random;
            match &actor.source {
                Source::Primary { machine, .. } => {
                    let primary = &self.machines[*machine].primary;
                    let (wal, end) = (primary.wal(), primary.flushed());
                    actor.proposer.stream(end, |from, to| wal.read(from, to), random, &mut events);
                }
                Source::Quorum { start, bytes } => {
                    let end = *start + bytes.len() as u64;
                    let read = |from: Lsn, to: Lsn| {
                        &bytes[(from - *start) as usize..(to - *start) as usize]
                    };
                    actor.proposer.stream(end, read, random, &mut events);
                }
            }
            self.obey(number, events)?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Violation> {
        for number in self.actors.keys().copied().collect::<Vec<_>>() {
            let mut events = Vec::new();
            if let Some(actor) = self.actors.get_mut(&number) {
                actor.proposer.tick(&mut events);
            }
            self.obey(number, events)?;
        }
        Ok(())
    }

    /// Some proposer connects to some running node that it has no connection to.
    fn connect_someone(&mut self) -> Result<(), Violation> {
        let mut missing = Vec::new();
        for (proposer, actor) in &self.actors {
            for (node, state) in self.nodes.iter().enumerate() {
                if actor.reseeds == Some(node) && !actor.streams {
                    // It takes part only after the election.
                    continue;
                }
                let open = self.network.number((*proposer, node)).is_some();
                // A machine with an empty disk runs too: it must refuse.
                let refuses = !state.has_disk() && self.random.once_in(10);
                if !open && (state.is_running() || refuses) {
                    missing.push((*proposer, node));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let name = missing[self.random.index(missing.len())];
        self.network.open(name);
        let mut events = Vec::new();
        if let Some(actor) = self.actors.get_mut(&name.0) {
            actor.proposer.connected(name.1, &mut events);
        }
        self.obey(name.0, events)
    }

    fn send_all(&mut self, out: Vec<Outgoing>) {
        for outgoing in out {
            let (name, number) = outgoing.session;
            if self.network.number(name) == Some(number) {
                self.network.send(name, Direction::ToProposer, outgoing.message);
            }
        }
    }

    /// Does what a proposer asked for, and checks what it claims.
    fn obey(&mut self, number: ProposerNumber, events: Vec<Event>) -> Result<(), Violation> {
        for event in events {
            match event {
                Event::Send(node, message) => {
                    self.network.send((number, node), Direction::ToNode, message);
                }
                Event::Disconnect(node) => drop(self.cut((number, node))),
                Event::Elected { term, donor, at } => {
                    self.checks.elected(term, number as u64)?;
                    marks::hit("proposer.elected");
                    if !self.may_stream(number, donor, at) {
                        marks::hit("proposer.refused_its_primary");
                        self.stop_proposer(number);
                        return Ok(());
                    }
                    if let Some(node) = self.actors[&number].reseeds
                        && !self.begin_seeding(node, term)?
                    {
                        self.stop_proposer(number);
                        return Ok(());
                    }
                }
                Event::Reseeded { lsn, term } => {
                    let node = self.actors.get(&number).and_then(|actor| actor.reseeds);
                    self.stop_proposer(number);
                    if let Some(node) = node
                        && !lsn.is_valid()
                        && self.begin_seeding(node, term)?
                    {
                        self.become_whole(node)?;
                    }
                    return Ok(());
                }
                Event::Outdated(membership) => {
                    if let Some(node) = self.actors.get(&number).and_then(|actor| actor.reseeds) {
                        self.heard.insert(node, membership);
                    }
                    marks::hit("proposer.stopped");
                    self.stop_proposer(number);
                    return Ok(());
                }
                Event::Committed(lsn) => self.committed(number, lsn)?,
                Event::Fenced(lsn) => {
                    marks::hit("proposer.fenced");
                    if self.checks.committed().end() < lsn {
                        return Err(format!("fenced at {lsn}, but that is not committed"));
                    }
                    self.fenced = Some(lsn);
                    self.stop_proposer(number);
                    return Ok(());
                }
                Event::Stop(reason) => {
                    self.trace = crc32c::crc32c_append(self.trace, reason.as_bytes());
                    marks::hit("proposer.stopped");
                    self.stop_proposer(number);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The rule of every connect: the primary's WAL up to where the quorum's log ends is the quorum's, byte for byte.
    fn may_stream(&mut self, number: ProposerNumber, donor: NodeIndex, at: Lsn) -> bool {
        let Some(view) = self.nodes[donor].view() else { return false };
        let Some(log) = view.log.read(view.log.start, at) else { return false };
        let Some(actor) = self.actors.get_mut(&number) else { return false };
        actor.streams = match &mut actor.source {
            Source::Primary { machine, life } => {
                let machine = &self.machines[*machine];
                *life == machine.life
                    && machine.primary.flushed() >= at
                    && machine.primary.wal().read(view.log.start, at) == log
            }
            Source::Quorum { start, bytes } => {
                *start = view.log.start;
                *bytes = log.to_vec();
                true
            }
        };
        actor.streams
    }

    fn committed(&mut self, number: ProposerNumber, lsn: Lsn) -> Result<(), Violation> {
        let Some(actor) = self.actors.get(&number) else { return Ok(()) };
        let from = self.checks.committed().end();
        if lsn > from {
            let claimed = match &actor.source {
                Source::Primary { machine, .. } => {
                    self.machines[*machine].primary.wal().read(from, lsn)
                }
                Source::Quorum { start, bytes } => {
                    &bytes[(from - *start) as usize..(lsn - *start) as usize]
                }
            };
            let membership = actor.proposer.membership();
            // A disk that was lost after it had acknowledged is one of the minority that may be lost, a member that was
            // removed since counted when it answered.
            let once_durable: Vec<_> = self.nodes.iter().flat_map(Node::views_ever).collect();
            self.checks.commits(lsn, claimed, membership, &once_durable)?;
        }
        if let Source::Primary { machine, .. } = actor.source {
            let primary = &mut self.machines[machine].primary;
            primary.acknowledge(lsn, &mut self.ledger);
        }
        self.checks.ledger_holds(&self.ledger)
    }

    /// Ends all faults; then a fence must succeed, everything that a rebuilt primary writes must be acknowledged, and
    /// meanwhile a membership change that was begun must come to its end, and nodes that forgot writes must be re-seeded.
    fn settle(&mut self, faults: &mut Faults) -> Result<(), Violation> {
        faults.end(self);
        self.quiet = true;
        self.stop_proposers();
        self.fenced = None;
        self.run_until("a fence is complete", |world| {
            if !world.has_proposer() {
                world.start_fence();
            }
            world.fenced.is_some()
        })?;
        self.stop_proposers();
        self.rebuild_primary();
        let newest = self.machines.len() - 1;
        self.acknowledge_all(newest)?;
        self.run_until("the membership change is complete", |world| {
            if !world.has_proposer() {
                world.start_relay(newest);
            }
            world.operator.is_idle(world)
        })?;
        self.run_until("every member is whole", |world| {
            if !world.has_proposer() {
                world.start_relay(newest);
            }
            world.members_are_whole()
        })?;
        self.acknowledge_all(newest)
    }

    /// Who forgot writes has been re-seeded, unless the newest membership does without it.
    fn members_are_whole(&self) -> bool {
        let memberships = self.nodes.iter().filter_map(|node| node.membership());
        let newest = memberships.max_by_key(|membership| membership.generation);
        let is_member = |node: &&Node| newest.is_some_and(|newest| newest.contains(node.id));
        self.nodes.iter().filter(is_member).all(|node| !node.is_suspect())
    }

    fn acknowledge_all(&mut self, machine: usize) -> Result<(), Violation> {
        let primary = &mut self.machines[machine].primary;
        primary.write(&mut self.random);
        primary.flush_all();
        let wanted = primary.flushed();
        self.run_until("the rebuilt primary's commits are acknowledged", |world| {
            if !world.has_proposer() {
                world.start_relay(machine);
            }
            world.ledger.end() >= wanted
        })
    }

    fn run_until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut World) -> bool,
    ) -> Result<(), Violation> {
        for _ in 0..QUIET_STEPS_MAX {
            if done(self) {
                return Ok(());
            }
            self.step()?;
        }
        let committed = self.checks.committed().end();
        let nodes = describe(&Self::views(&self.nodes));
        let suspect = self.nodes.iter().filter(|node| node.is_suspect()).map(|node| node.id.0);
        let suspect: Vec<u64> = suspect.collect();
        Err(format!(
            "without faults, {what}: not within {QUIET_STEPS_MAX} steps; committed {committed}; {nodes}; suspect {suspect:?}; {:?}",
            self.operator
        ))
    }
}

/// A node as a member.
pub fn member(id: NodeId) -> Member {
    Member { id, host: format!("node-{id}"), pg_port: 5454 }
}
