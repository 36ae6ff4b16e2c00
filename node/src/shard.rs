//! What one core runs: the timelines of its tenants, their journal, their connections.
//!
//! Invariant: everything of a timeline happens on the thread of the shard that owns its tenant, so no two steps of an
//! acceptor interleave and nothing here is locked. A step hands its changes to the journal before the next step.
//!
//! Read first: [`node`] (how shards start and find each other), [`timeline`] (an acceptor and its journal), [`request`]
//! (what a shard is asked from outside), then `management` and `fence` (what it does then).

pub(crate) mod campaign;
mod fence;
mod management;
pub mod metrics;
pub mod node;
pub mod readers;
pub mod request;
mod reseed;
pub mod slots;
pub mod timeline;
pub(crate) mod wal_files;

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use firn_core::api::PeerPosition;
use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::state::TimelineState;
use firn_core::types::{Generation, NodeId, TimelineKey};
use thiserror::Error;

use crate::credentials::Loaded;
use crate::journal::{Journal, JournalError};
use crate::peers::Exchange;
use crate::peers::exchange::ShardNews;
use crate::peers::table::OwnPosition;
use crate::runtime::Runtime;
use crate::shard::metrics::ShardMetrics;
use crate::shard::node::NodeOptions;
use crate::shard::request::NodeHandle;
use crate::shard::timeline::Timeline;
use crate::wal_service::client::{AcceptorClient, ClientError};
use crate::wal_service::connections::Connections;

/// One shard, on its own thread. Clones are the same shard; it lives as long as the process.
#[derive(Clone)]
pub struct Shard(Rc<ShardState>);

struct ShardState {
    number: usize,
    runtime: Runtime,
    node: NodeHandle,
    options: Arc<NodeOptions>,
    journal: Journal,
    connections: Connections,
    metrics: Rc<ShardMetrics>,
    /// Of use on shard 0.
    exchange: Exchange,
    /// The positions that shard 0 was given.
    told_positions: RefCell<BTreeMap<TimelineKey, PeerPosition>>,
    /// Exactly the timelines whose creation the journal was given and whose deletion it was not.
    timelines: RefCell<BTreeMap<TimelineKey, Rc<Timeline>>>,
}

/// Why there is no such timeline to work with.
#[derive(Debug, Error)]
pub enum TimelineError {
    /// Not here.
    #[error("Timeline {0} was not found in global map")]
    Unknown(TimelineKey),
    /// It was deleted, and nothing newer may take its place with this generation.
    #[error(
        "Timeline {key} has been deleted; it may be made anew with a generation above {generation}"
    )]
    Deleted {
        /// The timeline.
        key: TimelineKey,
        /// The generation that it had.
        generation: Generation,
    },
    /// It exists.
    #[error("timeline {0} exists")]
    Exists(TimelineKey),
    /// The journal takes nothing more.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Shard {
    fn new(
        number: usize,
        runtime: &Runtime,
        node: NodeHandle,
        options: Arc<NodeOptions>,
        journal: Journal,
    ) -> Shard {
        let shard = Shard(Rc::new(ShardState {
            number,
            runtime: runtime.clone(),
            connections: Connections::new(runtime),
            node,
            options,
            journal,
            metrics: Rc::default(),
            exchange: Exchange::default(),
            told_positions: RefCell::default(),
            timelines: RefCell::default(),
        }));
        let recovered: Vec<(TimelineKey, TimelineState)> = {
            let state = shard.0.journal.state();
            state.timelines.iter().map(|(key, timeline)| (*key, timeline.state.clone())).collect()
        };
        for (key, state) in recovered {
            shard.insert(key, state);
        }
        shard
    }

    /// The shard's number, from 0.
    pub fn number(&self) -> usize {
        self.0.number
    }

    /// The shard's way to disks, sockets, time and chance.
    pub fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    /// The node that the shard is part of.
    pub fn node(&self) -> &NodeHandle {
        &self.0.node
    }

    /// What the node was told at its start.
    pub fn options(&self) -> &NodeOptions {
        &self.0.options
    }

    /// What the node shows and trusts now.
    pub fn credentials(&self) -> Arc<Loaded> {
        self.0.options.credentials.current()
    }

    /// Connects to the Postgres port of another node with what this one shows and trusts; without a timeline for what
    /// concerns the node.
    ///
    /// # Errors
    /// As [`AcceptorClient::connect`].
    pub async fn connect(
        &self,
        address: &str,
        key: Option<TimelineKey>,
        application_name: &str,
    ) -> Result<AcceptorClient, ClientError> {
        let (token, credentials) = (self.options().auth_token.as_deref(), self.credentials());
        let trusted = credentials.client.as_ref();
        AcceptorClient::connect(self.runtime(), address, key, application_name, token, trusted)
            .await
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        self.0.node.node_id()
    }

    /// The shard's connections.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// What the shard counts.
    pub fn metrics(&self) -> &ShardMetrics {
        &self.0.metrics
    }

    /// What the shard would know of a timeline after a crash at this moment; `None` when the timeline is not there.
    pub fn durable_state(&self, key: TimelineKey) -> Option<Ref<'_, TimelineState>> {
        Ref::filter_map(self.journal().state(), |state| {
            state.timelines.get(&key).map(|timeline| &timeline.state)
        })
        .ok()
    }

    /// Whether a timeline may have lost acknowledged data here and was not re-seeded yet.
    pub fn is_suspect(&self, key: TimelineKey) -> bool {
        self.journal().state().timelines.get(&key).is_some_and(|timeline| timeline.suspect)
    }

    fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// A timeline that exists.
    pub fn timeline(&self, key: TimelineKey) -> Result<Rc<Timeline>, TimelineError> {
        self.0.timelines.borrow().get(&key).cloned().ok_or(TimelineError::Unknown(key))
    }

    /// The node's exchange of positions with others; of use on shard 0.
    pub fn exchange(&self) -> &Exchange {
        &self.0.exchange
    }

    /// All timelines.
    pub fn timelines(&self) -> Vec<Rc<Timeline>> {
        self.0.timelines.borrow().values().cloned().collect()
    }

    /// The positions that changed since the last call, and the timelines that are gone since.
    fn position_news(&self) -> ShardNews {
        let timelines = self.0.timelines.borrow();
        let mut told = self.0.told_positions.borrow_mut();
        let gone = told.keys().filter(|key| !timelines.contains_key(key)).copied().collect();
        told.retain(|key, _| timelines.contains_key(key));
        let mut changed = Vec::new();
        for (key, timeline) in timelines.iter() {
            let position = timeline.position();
            if told.get(key) != Some(&position) {
                told.insert(*key, position.clone());
                let members = timeline
                    .with_acceptor(|acceptor| acceptor.state().membership.all().cloned().collect());
                changed.push(OwnPosition { position, members });
            }
        }
        (changed, gone)
    }

    fn keys(&self) -> Vec<TimelineKey> {
        self.0.timelines.borrow().keys().copied().collect()
    }

    /// Makes a timeline. It can be used at once: what is said about it waits for the journal like any other change.
    pub fn create_timeline(
        &self,
        key: TimelineKey,
        create: &Create,
    ) -> Result<Rc<Timeline>, TimelineError> {
        if self.0.timelines.borrow().contains_key(&key) {
            return Err(TimelineError::Exists(key));
        }
        let buried = self.journal().state().tombstones.get(&key).copied();
        if let Some(generation) = buried.filter(|buried| *buried >= create.membership.generation) {
            return Err(TimelineError::Deleted { key, generation });
        }
        let change = Change::Create(create.clone());
        let ticket = match create.membership.generation {
            Generation(0) => self.journal().append(key, change)?,
            // It may be one that the journal lost: then it begins as one that is to be re-seeded.
            _ => self.journal().append_to_reseed(key, change)?,
        };
        let timeline = self.insert(key, TimelineState::create(create));
        timeline.note_created(ticket);
        tracing::info!(
            shard = self.number(),
            tenant = %key.tenant_id,
            timeline = %key.timeline_id,
            generation = %create.membership.generation,
            start_lsn = %create.start_lsn,
            "timeline created"
        );
        Ok(timeline)
    }

    /// Deletes a timeline and ends its connections. Returns when the deletion is durable; `false` when there is none.
    async fn delete_timeline(&self, key: TimelineKey) -> Result<bool, JournalError> {
        let Some(timeline) = self.0.timelines.borrow().get(&key).cloned() else { return Ok(false) };
        let ticket = self.journal().append(key, Change::Delete)?;
        timeline.note_deleted();
        self.0.timelines.borrow_mut().remove(&key);
        self.0.metrics.counters.timelines.decrement();
        self.connections().shut_down_timeline(key).await;
        self.journal().witnessed(&ticket).await?;
        tracing::info!(
            shard = self.number(),
            tenant = %key.tenant_id,
            timeline = %key.timeline_id,
            "timeline deleted"
        );
        Ok(true)
    }

    fn insert(&self, key: TimelineKey, state: TimelineState) -> Rc<Timeline> {
        let timeline = Timeline::new(
            key,
            self.node_id(),
            state,
            self.journal().clone(),
            self.0.metrics.clone(),
        );
        let timeline = Rc::new(timeline);
        self.0.timelines.borrow_mut().insert(key, timeline.clone());
        self.0.metrics.counters.timelines.increment();
        timeline
    }
}
