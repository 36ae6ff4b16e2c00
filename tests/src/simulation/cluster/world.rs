//! One run: machines, the timeline's creation, steps with faults between them, and the proof at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::{CreateTimeline, Fenced};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::marks;
use firn_core::types::{
    Generation, Id, Lsn, NodeId, PostgresVersion, SystemId, TenantId, TimelineId, TimelineKey,
};
use firn_node::relay;
use firn_node::relay::options::{RelayArguments, RelayOptions};
use firn_node::runtime::TaskClass;
use firn_node::runtime::sim::{MachineId, Simulation, Trace};
use firn_node::shard::request::{ManagementError, Request};

use super::audit::Audit;
use super::faults::Faults;
use super::nodes::{NODE_PORT, NodeMachine};
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
/// WAL read at once by the proof.
const READ_BYTES: usize = 256 * 1024;

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
        faults.inject(&mut world);
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
        let nodes: Vec<NodeMachine> = (1..=node_count)
            .map(|id| NodeMachine::new(&simulation, NodeId(id), 1 + random.index(3)))
            .collect();
        let members = nodes
            .iter()
            .map(|node| Member {
                id: node.id,
                host: format!("node-{}", node.id),
                pg_port: NODE_PORT,
            })
            .collect();
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
            membership: Membership { generation: Generation(1), members, new_members: None },
            key: TimelineKey { tenant_id: TenantId(id), timeline_id: TimelineId(id) },
            simulation,
            random,
            nodes,
            postgres: vec![postgres],
            relays: Vec::new(),
            cluster,
            audit: Audit::new(Lsn(cluster.segment_size_bytes)),
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

    /// Looks at every node that runs, and at what clients were told.
    fn check(&mut self) -> Result<(), Violation> {
        let mut highest = Lsn::INVALID;
        for node in &mut self.nodes {
            let Some(shard) = node.shard(self.key) else { continue };
            let Some(state) = shard.durable_state(self.key) else { continue };
            if node.last_seen.as_ref() != Some(&*state) {
                self.audit.node(node, &state)?;
                highest = highest.max(state.commit_lsn);
            }
        }
        let ledger = self.ledger.borrow();
        if ledger.entries().len() > self.acknowledged {
            self.acknowledged = ledger.entries().len();
            highest = highest.max(ledger.end());
        }
        self.audit.commits(highest, &self.membership, &self.nodes)
    }

    fn create_timeline(&mut self) -> Result<(), Violation> {
        (0..self.nodes.len()).for_each(|index| self.start_node(index));
        self.postgres[0].start(&self.simulation);
        let started = self
            .run_until(QUIET_MAX, |world| world.nodes.iter().all(|node| node.handle().is_some()))?;
        assert!(started, "nodes start on empty disks");
        for index in 0..self.nodes.len() {
            let start_lsn = self.postgres[0].server.borrow().primary.wal().start();
            let body = CreateTimeline {
                key: self.key,
                mconf: self.membership.clone(),
                pg_version: self.cluster.postgres_version,
                system_id: Some(self.cluster.system_id),
                wal_seg_size: Some(SEGMENT_SIZE_BYTES),
                start_lsn,
                commit_lsn: None,
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
        let log = self.read_committed(fenced.lsn)?;
        self.go_on(&log)
    }

    fn fence(&mut self) -> Result<Fenced, Violation> {
        let mut last = "no node runs".to_string();
        // Another node is asked when one cannot: as people do.
        for attempt in 0..4 * self.nodes.len() {
            let node = attempt % self.nodes.len();
            if self.nodes[node].damaged {
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

    /// Reads the committed log from every node that can be trusted; they agree. Gives the longest.
    fn read_committed(&mut self, fenced: Lsn) -> Result<Log, Violation> {
        let start = Lsn(self.cluster.segment_size_bytes);
        let mut longest = Log { start, bytes: Vec::new() };
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let Some(shard) = node.shard(self.key).filter(|_| !node.damaged) else { continue };
            let Some(state) = shard.durable_state(self.key).map(|state| state.clone()) else {
                continue;
            };
            let Ok(timeline) = shard.timeline(self.key) else { continue };
            let end = state.commit_lsn.min(fenced);
            let done = Rc::new(RefCell::new(None));
            let result = done.clone();
            let reading = async move {
                let mut log = Log { start: state.local_start_lsn, bytes: Vec::new() };
                while log.end() < end {
                    let length = READ_BYTES.min((end - log.end()) as usize);
                    match timeline.read_wal(log.end(), length).await {
                        Ok(bytes) if !bytes.is_empty() => log.bytes.extend(bytes),
                        Ok(_) => break,
                        Err(error) => {
                            *result.borrow_mut() = Some(Err(error.to_string()));
                            return;
                        }
                    }
                }
                *result.borrow_mut() = Some(Ok(log));
            };
            shard.runtime().spawn(TaskClass::Latency, reading).detach();
            self.run_until(QUIET_MAX, |_| done.borrow().is_some())?;
            let id = self.nodes[index].id;
            let log =
                done.borrow_mut().take().ok_or(format!("node {id} does not read its WAL"))??;
            if log.end() < end {
                return Err(format!("node {id} has committed {end} but reads up to {}", log.end()));
            }
            self.audit.log(&self.nodes[index], &log, &self.ledger.borrow())?;
            let common = log.end().min(longest.end());
            if log.start <= start && longest.read(start, common) != log.read(start, common) {
                return Err(format!("node {id} has another committed log than the others"));
            }
            if log.start <= start && log.end() > longest.end() {
                longest = log;
            }
        }
        if longest.end() < self.ledger.borrow().end() {
            return Err(format!("nobody has committed {}", self.ledger.borrow().end()));
        }
        Ok(longest)
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
                .membership
                .members
                .iter()
                .map(|member| format!("{}:{}", member.host, member.pg_port))
                .collect(),
            slot: "firn".to_string(),
            application_name: None,
            http: None,
            auth_token: None,
        };
        let options = arguments.check(&|_| None).expect("the options are right");
        self.relays.push(RelayMachine {
            machine: self.simulation.add_machine(name),
            options: Rc::new(options),
            ended: Rc::default(),
        });
    }
}
