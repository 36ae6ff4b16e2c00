//! The machines that run `firn-node`.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use firn_core::consensus::state::TimelineState;
use firn_core::types::{Lsn, NodeId, TimelineKey};
use firn_core::wire::walproposer::APPEND_BYTES_MAX;
use firn_node::journal::JournalOptions;
use firn_node::runtime::sim::{MachineId, Simulation};
use firn_node::shard::Shard;
use firn_node::shard::node::{NodeOptions, ShardStarts, prepare, run_watched_shard};
use firn_node::shard::request::NodeHandle;
use futures_util::future::join;

use super::follower::Read;

/// Port of every node.
pub const NODE_PORT: u16 = 5454;

/// One machine that runs a node.
pub struct NodeMachine {
    /// The node's id: given by its operator, so it survives an emptied disk.
    pub id: NodeId,
    /// The machine.
    pub machine: MachineId,
    /// Shards of the next start.
    pub shards: usize,
    /// The disk was emptied or rotted once: it may have lost what it acknowledged.
    pub damaged: bool,
    /// The disk misbehaves at the moment.
    pub sick: bool,
    /// The durable state when it was last looked at.
    pub last_seen: Option<TimelineState>,
    /// The durable state that its disk had when it was damaged.
    pub before_damage: Option<TimelineState>,
    /// It was told that a membership does without it.
    pub leaves: bool,
    /// Committed bytes that it gave out and nobody compared yet.
    pub reads: Rc<RefCell<Vec<Read>>>,
    /// Up to where its committed bytes were compared.
    pub compared: Lsn,
    /// Its committed log is being read in this life.
    pub is_followed: bool,
    door: Door,
    failed: Rc<RefCell<Option<String>>>,
}

/// The way into a node's process, whichever runs.
#[derive(Clone)]
pub struct Door {
    /// The node.
    pub id: NodeId,
    shards: Rc<Cell<usize>>,
    /// The shards that have recovered.
    opened: Rc<RefCell<Vec<Shard>>>,
}

impl Door {
    /// The way to its shards, once all have recovered.
    pub fn handle(&self) -> Option<NodeHandle> {
        let opened = self.opened.borrow();
        opened
            .first()
            .filter(|_| opened.len() == self.shards.get())
            .map(|shard| shard.node().clone())
    }
}

impl NodeMachine {
    /// A machine named `node-ID` with an empty disk.
    pub fn new(simulation: &Simulation, id: NodeId, shards: usize) -> NodeMachine {
        NodeMachine {
            id,
            machine: simulation.add_machine(&format!("node-{id}")),
            shards,
            damaged: false,
            sick: false,
            last_seen: None,
            before_damage: None,
            leaves: false,
            reads: Rc::default(),
            compared: Lsn::INVALID,
            is_followed: false,
            door: Door { id, shards: Rc::default(), opened: Rc::default() },
            failed: Rc::default(),
        }
    }

    /// Starts the node's process.
    pub fn start(&mut self, simulation: &Simulation) {
        self.forget_process();
        self.door.shards.set(self.shards);
        let options = NodeOptions {
            data: PathBuf::from("/data"),
            listen: format!("0.0.0.0:{NODE_PORT}"),
            node_id: Some(self.id),
            credentials: Arc::default(),
            tls_required: false,
            auth_token: None,
            journal: small_journal(),
        };
        let (starts, starting) = prepare(options, self.shards);
        let starts = ShardStarts::new(starts);
        let starting = RefCell::new(Some(starting));
        *self.failed.borrow_mut() = None;
        simulation.start(self.machine, self.shards, |runtime| {
            let start = starts.take(runtime.shard_index());
            let (opened, failed) = (self.door.opened.clone(), self.failed.clone());
            let starting = starting.borrow_mut().take();
            async move {
                let notes = |shard: &Shard| opened.borrow_mut().push(shard.clone());
                let serving = run_watched_shard(runtime, start, notes);
                let waiting = async {
                    if let Some(starting) = starting
                        && let Err(error) = starting.wait().await
                    {
                        *failed.borrow_mut() = Some(error.to_string());
                    }
                };
                join(serving, waiting).await;
            }
        });
    }

    /// The power goes.
    pub fn kill(&mut self, simulation: &Simulation) {
        self.forget_process();
        simulation.kill(self.machine);
    }

    fn forget_process(&mut self) {
        self.door.opened.borrow_mut().clear();
        self.reads.borrow_mut().clear();
        self.is_followed = false;
    }

    /// The timeline's copy here is given up: a membership does without it, or another disk is put in.
    pub fn forget_timeline(&mut self) {
        self.leaves = false;
        self.last_seen = None;
        self.before_damage = None;
        self.compared = Lsn::INVALID;
    }

    /// The way into its process.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// How it is, for a violation's words.
    pub fn describe(&self) -> String {
        let damaged = if self.damaged { " damaged," } else { "" };
        let run = match self.failed.borrow().as_ref() {
            Some(reason) => format!("did not start: {reason}"),
            None => format!("{} of {} shards run", self.door.opened.borrow().len(), self.shards),
        };
        let seen = self.last_seen.as_ref().map_or("nothing".to_string(), |state| {
            format!("term {} log {} commit {}", state.term, state.record_end_lsn, state.commit_lsn)
        });
        format!("[node {}:{damaged} {run}; durable: {seen}]", self.id)
    }

    /// The shard of a timeline, once it has recovered.
    pub fn shard(&self, key: TimelineKey) -> Option<Shard> {
        let opened = self.door.opened.borrow();
        let number = opened.first()?.node().shard_of(key.tenant_id);
        opened.iter().find(|shard| shard.number() == number).cloned()
    }

    /// The way to its shards, once all have recovered.
    pub fn handle(&self) -> Option<NodeHandle> {
        self.door.handle()
    }
}

/// As small as it gets with appends of 128 KiB, so that the ring wraps and WAL is moved out of it in every run.
fn small_journal() -> JournalOptions {
    JournalOptions {
        segment_bytes: 768 << 10,
        segments_max: 6,
        frame_bytes_max: 352 << 10,
        append_bytes_max: APPEND_BYTES_MAX,
        ..JournalOptions::small()
    }
}
