//! What a shard is asked from outside its thread: connections that were accepted elsewhere, and management.
//!
//! Each request carries the sender of its one answer. The HTTP API, and the simulator in its place, ask through
//! [`NodeHandle`]; nothing else reaches a timeline but its own connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_core::api::{
    CreateTimeline, Deleted, Fenced, MembershipSwitched, PeerPosition, TermBump, TermBumped,
    TimelineStatus,
};
use firn_core::consensus::membership::Membership;
use firn_core::journal::layout::shard_of;
use firn_core::types::{NodeId, TenantId, TimelineId, TimelineKey};
use thiserror::Error;

use crate::peers::exchange::ShardNews;
use crate::runtime::{MailboxSender, OneshotSender, oneshot};
use crate::shard::metrics::ShardFigures;
use crate::wal_service::handover::Handover;

/// Requests that may wait for one shard; whoever asks past it waits. Each is answered within milliseconds or runs in a
/// task of its own, so a few dozen hide the latency of the mailbox.
pub const REQUESTS_MAX: usize = 128;

/// Most bytes of one WAL read: a few device reads, and small against a shard's memory.
pub const WAL_READ_BYTES_MAX: usize = 1024 * 1024;

/// Where an answer goes. Who asked may be gone: then the answer is dropped.
pub type Reply<T> = OneshotSender<Result<T, ManagementError>>;

/// A request to one shard.
#[derive(Debug)]
pub enum Request {
    /// A connection whose timeline lives here.
    Connection(Handover),
    /// Makes a timeline.
    Create(CreateTimeline, Reply<()>),
    /// The timelines that exist.
    List(Reply<Vec<TimelineKey>>),
    /// What is known of a timeline.
    Status(TimelineKey, Reply<TimelineStatus>),
    /// Deletes a timeline.
    Delete(TimelineKey, Reply<Deleted>),
    /// Deletes all timelines of a tenant.
    DeleteTenant(TenantId, Reply<BTreeMap<TimelineId, Deleted>>),
    /// Adopts a membership that this node belongs to.
    SwitchMembership(TimelineKey, Membership, Reply<MembershipSwitched>),
    /// Deletes a timeline because a newer membership does without this node.
    Exclude(TimelineKey, Membership, Reply<Deleted>),
    /// Raises the term.
    BumpTerm(TimelineKey, TermBump, Reply<TermBumped>),
    /// Elects a new term and commits what the quorum holds.
    Fence(TimelineKey, Reply<Fenced>),
    /// Takes what is left of a timeline after a loss for all there was.
    AcceptLoss(TimelineKey, Reply<TimelineStatus>),
    /// The positions that changed since this was asked last.
    Positions(Reply<ShardNews>),
    /// What another node says of timelines here.
    PeerPositions(NodeId, Vec<PeerPosition>),
    /// One piece of a WAL file.
    ReadWalFile(TimelineKey, WalFilePiece, Reply<Vec<u8>>),
    /// Counters and histograms.
    Metrics(Reply<ShardFigures>),
}

/// A piece of a file as `restore_command` asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFilePiece {
    /// Name of a WAL segment or of a `.history` file.
    pub name: String,
    /// Where the piece begins. An answer shorter than [`WAL_READ_BYTES_MAX`] ends the file.
    pub offset_bytes: u64,
}

/// Why a management request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManagementError {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request can never be right.
    #[error("{0}")]
    Invalid(String),
    /// Not allowed to this node.
    #[error("{0}")]
    Forbidden(String),
    /// The request does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// Not now: the journal failed, a quorum is missing, a shard is over.
    #[error("{0}")]
    Unavailable(String),
}

impl ManagementError {
    /// No timeline of this key lives here.
    pub fn no_timeline(key: TimelineKey) -> ManagementError {
        ManagementError::NotFound(format!("timeline {key} not found"))
    }
}

/// How everything outside of the shards reaches them: from any thread.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    node_id: NodeId,
    shards: Arc<[MailboxSender<Request>]>,
}

impl NodeHandle {
    /// A handle on shards, in the order of their numbers.
    pub fn new(node_id: NodeId, shards: Vec<MailboxSender<Request>>) -> NodeHandle {
        assert!(!shards.is_empty(), "a node has a shard");
        NodeHandle { node_id, shards: shards.into() }
    }

    /// The node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// How many shards the node has.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The shard that owns a tenant.
    pub fn shard_of(&self, tenant_id: TenantId) -> usize {
        shard_of(tenant_id, self.shards.len() as u32) as usize
    }

    /// The way to one shard.
    pub fn sender(&self, shard: usize) -> &MailboxSender<Request> {
        &self.shards[shard]
    }

    /// Asks the shard that owns a tenant.
    pub async fn ask<T: Send + 'static>(
        &self,
        tenant_id: TenantId,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, ManagementError> {
        self.ask_shard(self.shard_of(tenant_id), request).await
    }

    /// Asks every shard; the answers are in the order of the shards.
    pub async fn ask_all<T: Send + 'static>(
        &self,
        request: impl Fn(Reply<T>) -> Request,
    ) -> Result<Vec<T>, ManagementError> {
        let mut answers = Vec::new();
        for shard in 0..self.shards.len() {
            answers.push(self.ask_shard(shard, &request).await?);
        }
        Ok(answers)
    }

    /// Asks one shard.
    pub async fn ask_shard<T: Send + 'static>(
        &self,
        shard: usize,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, ManagementError> {
        let over = |_| ManagementError::Unavailable(format!("shard {shard} has stopped"));
        let (reply, answer) = oneshot();
        self.shards[shard].send(request(reply)).await.map_err(over)?;
        answer.await.map_err(over)?
    }
}
