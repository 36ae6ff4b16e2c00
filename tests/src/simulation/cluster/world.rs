//! One run: machines, the timeline's creation, steps with faults between them, and the proof at the end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::{CreateTimeline, Fenced};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::state::TimelineState;
use firn_core::marks;
use firn_core::types::{
    Generation, Id, Lsn, NodeId, PostgresVersion, SystemId, TenantId, TimelineId, TimelineKey,
};
use firn_node::relay;
use firn_node::relay::options::{RelayArguments, RelayOptions};
use firn_node::runtime::sim::{MachineId, Simulation, Trace};
use firn_node::shard::request::{ManagementError, Request};

use super::audit::Audit;
use super::faults::Faults;
use super::follower;
use super::nodes::{NODE_PORT, NodeMachine};
use super::operator::{Note, Work};
use super::postgres::{POSTGRES_PORT, PostgresMachine};
use crate::simulation::checks::{Log, Violation};
use crate::simulation::ledger::Ledger;
use crate::simulation::primary::Primary;
use crate::simulation::random::Random;
use crate::simulation::wal::{Cluster, Wal};

/// Messages that every seed delivers at least.
pub const MESSAGES_MIN: u64 = 5_000;

const SEGMENT_SIZE_BYTES: u32 = 1 << 20;
/// Longest time between two faults.
const CALM_US_MAX: u64 = 3_000_000;
/// Virtual time in which a run must have delivered its messages.
const RUN_MAX: Duration = Duration::from_secs(600);
/// Virtual time that a healed cluster has for each step of the proof: more than all back-offs and time-outs together.
const QUIET_MAX: Duration = Duration::from_secs(180);
/// Nodes that are no members at first.
const SPARE_NODES: u64 = 1;
/// Changes after which a healed cluster has come to the end of the one that was begun.
const CHANGES_MAX: usize = 20;
/// WAL below what was compared that is read again after a restart.
const READ_AGAIN_BYTES: u64 = 256 * 1024;

/// What a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Packets delivered.
    pub messages: u64,
    /// Faults injected.
    pub faults: u64,
    /// Records that clients were told are safe.
    pub acknowledged: usize,
    /// Hash of everything that happened, in order.
    pub trace: Trace,
}

/// A machine that runs a relay.
pub struct RelayMachine {
    /// The machine.
    pub machine: MachineId,
    options: Rc<RelayOptions>,
    /// Why the relay ended by itself.
    ended: Rc<RefCell<Option<String>>>,
}

/// Whether anything changed that the audit looks at.
fn is_other(seen: &TimelineState, now: &TimelineState) -> bool {
    let essence = |state: &TimelineState| {
        let positions = (state.commit_lsn, state.record_end_lsn, state.write_lsn);
        (state.term, positions, state.membership.generation, state.term_history.0.len())
    };
    essence(seen) != essence(now) || seen.term_history.0.last() != now.term_history.0.last()
}

/// Everything.
pub struct World {
    /// The machines.
    pub simulation: Simulation,
    /// Chance of everything that is not a machine's.
    pub random: Random,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<NodeMachine>,
    /// The primary, and after the rebuild the new one.
    pub postgres: Vec<PostgresMachine>,
    /// Relays of the first primary, two of them.
    pub relays: Vec<RelayMachine>,
    operator: MachineId,
    /// Changes the members.
    changer: MachineId,
    notes: Rc<RefCell<Vec<Note>>>,
    membership: Membership,
    key: TimelineKey,
    cluster: Cluster,
    audit: Audit,
    ledger: Rc<RefCell<Ledger>>,
    acknowledged: usize,
}

/// Runs one seed to its end.
pub fn run(seed: u64) -> Result<Outcome, Violation> {
    let mut world = World::new(seed);
    world.create_timeline()?;
    let mut faults = Faults::new(&mut world);
    world.start_relay(0);
    let end = world.simulation.now() + RUN_MAX;
    while world.simulation.delivered_packets() < MESSAGES_MIN || faults.count() < 3 {
        if world.simulation.now() > end {
            return Err(format!(
                "{} packets and {} faults in {RUN_MAX:?}",
                world.simulation.delivered_packets(),
                faults.count()
            ));
        }
        let calm = Duration::from_micros(world.random.below(CALM_US_MAX));
        if world.random.percent(30) {
            faults.kill_voter(&mut world, calm)?;
        } else {
            world.run_until(calm, |_| false)?;
        }
        match world.random.percent(15) {
            true => faults.power_flickers(&mut world)?,
            false => faults.inject(&mut world),
        }
    }
    faults.end(&mut world);
    world.prove()?;
    Ok(Outcome {
        messages: world.simulation.delivered_packets(),
        faults: faults.count(),
        acknowledged: world.ledger.borrow().entries().len(),
        trace: world.simulation.trace(),
    })
}

impl World {
    fn new(seed: u64) -> World {
        let simulation = Simulation::new(seed);
        let mut random = Random::new(seed);
        let node_count = if random.percent(70) { 3 } else { 5 };
        let nodes: Vec<NodeMachine> = (1..=node_count + SPARE_NODES)
            .map(|id| NodeMachine::new(&simulation, NodeId(id), 1 + random.index(3)))
            .collect();
        let members = nodes[..node_count as usize]
            .iter()
            .map(|node| Member {
                id: node.id,
                host: format!("node-{}", node.id),
                pg_port: NODE_PORT,
            })
            .collect();
        let membership = Membership { generation: Generation(1), members, new_members: None };
        let cluster = Cluster {
            postgres_version: PostgresVersion(160_009),
            system_id: SystemId(7_000_000_000_000_000_001),
            segment_size_bytes: SEGMENT_SIZE_BYTES.into(),
        };
        let primary = Primary::new(cluster, Lsn(cluster.segment_size_bytes));
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let postgres =
            PostgresMachine::new(&simulation, "primary-1", primary, ledger.clone(), random.fork());
        let id = Id([7; 16]);
        let mut world = World {
            operator: simulation.add_machine("operator"),
            changer: simulation.add_machine("operator-2"),
            notes: Rc::default(),
            audit: Audit::new(Lsn(cluster.segment_size_bytes), membership.clone()),
            membership,
            key: TimelineKey { tenant_id: TenantId(id), timeline_id: TimelineId(id) },
            simulation,
            random,
            nodes,
            postgres: vec![postgres],
            relays: Vec::new(),
            cluster,
            ledger,
            acknowledged: 0,
        };
        world.add_relay("relay-1", "primary-1");
        world.add_relay("relay-2", "primary-1");
        world
    }

    /// Starts a node's process.
    pub fn start_node(&mut self, index: usize) {
        self.nodes[index].start(&self.simulation);
    }

    /// Starts a relay's process, if it does not run.
    pub fn start_relay(&mut self, index: usize) {
        let relay = &self.relays[index];
        if self.simulation.is_running(relay.machine) {
            return;
        }
        *relay.ended.borrow_mut() = None;
        self.simulation.start(relay.machine, 1, |runtime| {
            let (options, ended) = (relay.options.clone(), relay.ended.clone());
            async move {
                let stop = relay::Relay::new(&runtime, &options).follow().await;
                *ended.borrow_mut() = Some(stop.to_string());
            }
        });
    }

    /// Runs until a condition holds or so much time has passed; checks what must hold after every step. Whether the
    /// condition held.
    pub fn run_until(
        &mut self,
        at_most: Duration,
        mut condition: impl FnMut(&mut World) -> bool,
    ) -> Result<bool, Violation> {
        let simulation = self.simulation.clone();
        let mut violation = None;
        let mut held = false;
        simulation.run_until(at_most, || {
            match self.check() {
                Err(found) => violation = Some(found),
                Ok(()) => held = condition(self),
            }
            held || violation.is_some()
        });
        violation.map_or(Ok(held), Err)
    }

    /// Looks at every node that runs, at what clients were told, and at what the operator does.
    fn check(&mut self) -> Result<(), Violation> {
        self.take_notes()?;
        let mut highest = Lsn::INVALID;
        for index in 0..self.nodes.len() {
            highest = highest.max(self.look_at(index)?);
        }
        highest = highest.max(self.ledger_end());
        self.audit.commits(highest, &self.nodes)?;
        for index in 0..self.nodes.len() {
            self.compare_bytes(index)?;
        }
        self.audit.ledger(&self.ledger.borrow())
    }

    /// What a node knows as committed.
    fn look_at(&mut self, index: usize) -> Result<Lsn, Violation> {
        let node = &mut self.nodes[index];
        let Some(shard) = node.shard(self.key) else { return Ok(Lsn::INVALID) };
        if !node.is_followed {
            node.is_followed = true;
            let again = self.random.below(READ_AGAIN_BYTES);
            let from =
                if self.random.percent(25) { 0 } else { node.compared.0.saturating_sub(again) };
            follower::follow(&shard, self.key, Lsn(from), node.reads.clone());
        }
        let timeline = shard.timeline(self.key);
        let Some(state) = shard.durable_state(self.key) else {
            if node.leaves {
                node.forget_timeline();
            } else if node.last_seen.is_some() && !node.damaged {
                return Err(format!("node {} forgot the timeline", node.id));
            }
            return Ok(Lsn::INVALID);
        };
        if shard.is_suspect(self.key) && !node.damaged {
            return Err(format!("node {} lost data, but its disk was not damaged", node.id));
        }
        // A damaged node gives no vote, but what it has taken since counts: elections do without it until it has it all.
        if node.last_seen.as_ref().is_none_or(|seen| is_other(seen, &state)) {
            self.audit.node(node, &state)?;
        }
        let known = timeline.map_or(Lsn::INVALID, |timeline| timeline.positions().commit_lsn);
        Ok(known.max(state.commit_lsn))
    }

    fn ledger_end(&mut self) -> Lsn {
        let ledger = self.ledger.borrow();
        let news = &ledger.entries()[self.acknowledged..];
        let end = news.iter().map(|entry| entry.range.end).max().unwrap_or(Lsn::INVALID);
        self.acknowledged = ledger.entries().len();
        end
    }

    fn compare_bytes(&mut self, index: usize) -> Result<(), Violation> {
        let reads = std::mem::take(&mut *self.nodes[index].reads.borrow_mut());
        for (from, bytes) in reads {
            let node = &mut self.nodes[index];
            // What rot may have changed is not looked at: the node reads its CRCs.
            self.audit.bytes(node, from, &bytes)?;
            node.compared = node.compared.max(from + bytes.len() as u64);
        }
        Ok(())
    }

    fn take_notes(&mut self) -> Result<(), Violation> {
        let notes = std::mem::take(&mut *self.notes.borrow_mut());
        for note in notes {
            match note {
                Note::Issue(membership) => self.audit.issue(&membership, &self.nodes)?,
                Note::Exclude(id) => {
                    let node = self.nodes.iter_mut().find(|node| node.id == id);
                    node.into_iter().for_each(|node| node.leaves = true);
                }
                Note::Complete(done, gone) => {
                    self.audit.complete(done.generation);
                    self.membership = done;
                    self.clean(&gone);
                }
            }
        }
        Ok(())
    }

    /// Nodes that are no members any more and were damaged get a new disk: they may become members again.
    fn clean(&mut self, gone: &BTreeSet<NodeId>) {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if gone.contains(&node.id) && node.damaged {
                marks::hit("cluster.damaged_node_replaced");
                node.damaged = false;
                node.forget_timeline();
                if self.simulation.is_running(node.machine) {
                    node.kill(&self.simulation);
                }
                self.simulation.empty_disk(node.machine);
                self.start_node(index);
            }
        }
    }

    /// An operator begins to change the members, if none is at it.
    pub fn start_changing(&mut self, only_finish: bool) -> Option<Rc<Cell<bool>>> {
        if self.simulation.is_running(self.changer) {
            return None;
        }
        let damaged = self.nodes.iter().filter(|node| node.damaged).map(|node| node.id).collect();
        let idle = Rc::new(Cell::new(false));
        let work = Rc::new(Work {
            key: self.key,
            doors: self.nodes.iter().map(NodeMachine::door).collect(),
            damaged,
            only_finish,
            random: RefCell::new(self.random.fork()),
            notes: self.notes.clone(),
            idle: idle.clone(),
        });
        self.simulation.start(self.changer, 1, |runtime| {
            let work = work.clone();
            async move { work.run(&runtime).await }
        });
        Some(idle)
    }

    /// The operator walks away.
    pub fn stop_changing(&mut self) -> bool {
        let runs = self.simulation.is_running(self.changer);
        if runs {
            self.simulation.kill(self.changer);
        }
        runs
    }

    /// Whether the node is a member, and a majority of every membership that may be in use keeps its disks without it.
    pub fn may_lose(&self, node: usize) -> bool {
        let keeps = |id| {
            let whole = self.nodes.iter().enumerate();
            whole.filter(|(index, _)| *index != node).any(|(_, n)| n.id == id && !n.damaged)
        };
        let memberships = self.audit.memberships();
        let id = self.nodes[node].id;
        memberships.iter().any(|membership| membership.contains(id))
            && memberships.iter().all(|membership| membership.is_quorum(keeps))
    }

    fn create_timeline(&mut self) -> Result<(), Violation> {
        (0..self.nodes.len()).for_each(|index| self.start_node(index));
        self.postgres[0].start(&self.simulation);
        let started = self
            .run_until(QUIET_MAX, |world| world.nodes.iter().all(|node| node.handle().is_some()))?;
        assert!(started, "nodes start on empty disks");
        for index in 0..self.membership.members.len() {
            let start_lsn = self.postgres[0].server.borrow().primary.wal().start();
            let body = CreateTimeline {
                key: self.key,
                mconf: self.membership.clone(),
                pg_version: self.cluster.postgres_version,
                system_id: Some(self.cluster.system_id),
                wal_seg_size: Some(SEGMENT_SIZE_BYTES),
                start_lsn,
                commit_lsn: None,
                to_be_added: false,
            };
            let created: Option<Result<(), ManagementError>> =
                self.ask(index, |reply| Request::Create(body, reply))?;
            created
                .ok_or("a node does not answer".to_string())?
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Asks a node as its HTTP API would; `None` when there is no answer in time.
    fn ask<T: Send + 'static>(
        &mut self,
        node: usize,
        request: impl FnOnce(firn_node::shard::request::Reply<T>) -> Request + 'static,
    ) -> Result<Option<Result<T, ManagementError>>, Violation> {
        let Some(handle) = self.nodes[node].handle() else { return Ok(None) };
        let answer = Rc::new(RefCell::new(None));
        if self.simulation.is_running(self.operator) {
            self.simulation.kill(self.operator);
        }
        let tenant_id = self.key.tenant_id;
        let request = RefCell::new(Some(request));
        self.simulation.start(self.operator, 1, |_| {
            let (answer, handle) = (answer.clone(), handle.clone());
            let request = request.borrow_mut().take().expect("one shard asks once");
            async move {
                let result = handle.ask(tenant_id, request).await;
                *answer.borrow_mut() = Some(result);
            }
        });
        self.run_until(QUIET_MAX, |_| answer.borrow().is_some())?;
        Ok(answer.borrow_mut().take())
    }

    /// With all faults over: a fence succeeds; every node's committed log has every acknowledged record; a primary that is
    /// rebuilt from it goes on, and its commits are acknowledged.
    fn prove(&mut self) -> Result<(), Violation> {
        for relay in &self.relays {
            if self.simulation.is_running(relay.machine) {
                self.simulation.kill(relay.machine);
            }
        }
        let fenced = self.fence()?;
        if fenced.lsn < self.ledger.borrow().end() {
            let acknowledged = self.ledger.borrow().end();
            return Err(format!("fenced at {}, but {acknowledged} was acknowledged", fenced.lsn));
        }
        self.wait_for_bytes(fenced.lsn)?;
        let committed = self.audit.committed();
        let log = Log { start: committed.start, bytes: committed.bytes.clone() };
        assert_eq!(log.end(), fenced.lsn, "nothing is committed behind a fence");
        self.go_on(&log)?;
        self.finish_change()
    }

    /// Every member that can be trusted comes to hold all that is committed, and gives it out.
    fn wait_for_bytes(&mut self, lsn: Lsn) -> Result<(), Violation> {
        let read = self.run_until(QUIET_MAX, |world| world.audit.committed().end() >= lsn)?;
        let unchecked = self.audit.unchecked(&self.ledger.borrow());
        match read && unchecked == 0 {
            true => Ok(()),
            false => Err(format!(
                "without faults, nobody gives out what is committed up to {lsn}, and {unchecked} acknowledged records: {}",
                self.describe()
            )),
        }
    }

    /// A change of members that was begun comes to its end, and then every member gives out the same committed bytes.
    fn finish_change(&mut self) -> Result<(), Violation> {
        for _ in 0..CHANGES_MAX {
            // One who is still at it began before the faults ended, or waited in vain.
            self.stop_changing();
            let idle = self.start_changing(true).expect("nobody changes the members");
            let changer = self.changer;
            let simulation = self.simulation.clone();
            self.run_until(QUIET_MAX, |_| !simulation.is_running(changer))?;
            if idle.get() {
                let lsn = self.audit.committed().end();
                let agree = self.run_until(QUIET_MAX, |world| {
                    let members =
                        world.nodes.iter().filter(|node| world.membership.contains(node.id));
                    members.filter(|node| !node.damaged).all(|node| node.compared >= lsn)
                })?;
                return match agree {
                    true => Ok(()),
                    false => Err(format!(
                        "without faults, not all members reach {lsn}: {}",
                        self.describe()
                    )),
                };
            }
        }
        Err(format!("without faults, the change of members does not end: {}", self.describe()))
    }

    fn fence(&mut self) -> Result<Fenced, Violation> {
        let mut last = "no node runs".to_string();
        // Another node is asked when one cannot: as people do.
        for attempt in 0..4 * self.nodes.len() {
            let node = attempt % self.nodes.len();
            let id = self.nodes[node].id;
            if self.nodes[node].damaged || !self.membership.contains(id) {
                continue;
            }
            let key = self.key;
            match self.ask(node, move |reply| Request::Fence(key, reply))? {
                Some(Ok(fenced)) => {
                    marks::hit("cluster.fenced");
                    return Ok(fenced);
                }
                Some(Err(error)) => last = error.to_string(),
                None => last = format!("node {} gave no answer", self.nodes[node].id),
            }
            self.run_until(Duration::from_secs(2), |_| false)?;
        }
        Err(format!("without faults, no fence: {last}; {}", self.describe()))
    }

    fn go_on(&mut self, log: &Log) -> Result<(), Violation> {
        if self.simulation.is_running(self.postgres[0].machine) {
            self.simulation.kill(self.postgres[0].machine);
        }
        let wal = Wal::restored(self.cluster, log.start, log.bytes.clone());
        let xid = self.postgres[0].server.borrow().primary.next_xid();
        let mut primary = Primary::rebuilt(wal, xid);
        primary.write(&mut self.random);
        primary.flush_all();
        let wanted = primary.flushed();
        let postgres = PostgresMachine::new(
            &self.simulation,
            "primary-2",
            primary,
            self.ledger.clone(),
            self.random.fork(),
        );
        postgres.server.borrow_mut().busy = false;
        postgres.start(&self.simulation);
        self.postgres.push(postgres);
        self.add_relay("relay-3", "primary-2");
        let relay = self.relays.len() - 1;
        self.start_relay(relay);
        let ended = self.relays[relay].ended.clone();
        let done = self.run_until(QUIET_MAX, |world| {
            ended.borrow().is_some() || world.ledger.borrow().end() >= wanted
        })?;
        if let Some(reason) = ended.borrow().as_ref() {
            return Err(format!(
                "without faults, the relay of the rebuilt primary ended: {reason}"
            ));
        }
        match done {
            true => Ok(()),
            false => Err(format!(
                "without faults, {wanted} is not acknowledged in {QUIET_MAX:?}: {}",
                self.describe()
            )),
        }
    }

    fn describe(&self) -> String {
        self.nodes.iter().map(NodeMachine::describe).collect()
    }

    fn add_relay(&mut self, name: &str, primary: &str) {
        let arguments = RelayArguments {
            postgres: format!("host={primary} port={POSTGRES_PORT} user=firn sslmode=disable"),
            tenant: self.key.tenant_id,
            timeline: self.key.timeline_id,
            acceptors: self
                .nodes
                .iter()
                .map(|node| format!("node-{}:{NODE_PORT}", node.id))
                .collect(),
            slot: "firn".to_string(),
            application_name: None,
            http: None,
            auth_token: None,
            tls_ca: None,
        };
        let options = arguments.check(&|_| None).expect("the options are right");
        self.relays.push(RelayMachine {
            machine: self.simulation.add_machine(name),
            options: Rc::new(options),
            ended: Rc::default(),
        });
    }
}
