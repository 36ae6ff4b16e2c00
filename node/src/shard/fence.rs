//! A fence: a proposer without a primary that elects a new term on the timeline's members, commits the tail that a
//! quorum has, and ends. From then on no proposer of a lower term can commit anything.
//!
//! It reaches all members, this node among them, through their Postgres ports, so its effect is that of any proposer.
//! Members that lack a part of the tail get it from the member that had most, the donor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::Fenced;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::proposer::{Action, Next, Proposer, ProposerConfig, Role, StopReason};
use firn_core::types::{Generation, Lsn, NodeId, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::replication::FromServer;
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use futures_util::future::{Either, join_all, select};

use crate::runtime::sync::Notify;
use crate::shard::Shard;
use crate::shard::request::ManagementError;
use crate::shard::timeline::Timeline;
use crate::wal_service::client::{AcceptorClient, ClientError};

/// Longest time for a fence: an election takes milliseconds, copying the tail to a majority seconds.
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// The proposer's clock, and the pause before a member is tried again.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Fences that begin again because the membership had changed.
const RESTARTS_MAX: usize = 4;

/// Fences a timeline that this node holds.
pub(super) async fn run(shard: &Shard, key: TimelineKey) -> Result<Fenced, ManagementError> {
    let timeline = shard.timeline(key)?;
    let commit_lsn = timeline.positions().commit_lsn;
    let mut membership = timeline.with_acceptor(|acceptor| acceptor.state().membership.clone());
    for _ in 0..RESTARTS_MAX {
        if membership.generation == Generation(0) {
            return Err(ManagementError::Conflict(format!(
                "timeline {key} has no membership: its proposer alone knows its acceptors"
            )));
        }
        match elect(shard, &timeline, membership.clone()).await? {
            StopReason::Fenced { lsn, term } => {
                tracing::info!(%lsn, %term, "fenced");
                return Ok(fenced(&timeline, membership, lsn, term, commit_lsn));
            }
            StopReason::Membership { membership: newer } => membership = newer,
            reason @ (StopReason::HigherTerm { .. } | StopReason::Reseeded { .. }) => {
                return Err(ManagementError::Conflict(reason.to_string()));
            }
        }
    }
    Err(ManagementError::Unavailable(format!("the membership of timeline {key} keeps changing")))
}

fn fenced(timeline: &Timeline, mconf: Membership, lsn: Lsn, term: Term, commit_lsn: Lsn) -> Fenced {
    Fenced {
        lsn,
        term,
        commit_lsn,
        mconf,
        pg_info: timeline.status().pg_info,
        postgres_timeline: Some(timeline.postgres_timeline_at(lsn)),
    }
}

/// Runs one proposer to its end.
async fn elect(
    shard: &Shard,
    timeline: &Timeline,
    membership: Membership,
) -> Result<StopReason, ManagementError> {
    let mut members: Vec<Member> = membership.all().cloned().collect();
    members.sort_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    let config = timeline.with_acceptor(|acceptor| ProposerConfig {
        key: acceptor.key(),
        membership,
        postgres_version: acceptor.state().postgres_version,
        system_id: SystemId(0),
        segment_size_bytes: acceptor.state().segment_size_bytes,
        role: Role::Fence,
    });
    let fence = Rc::new(Fence {
        shard: shard.clone(),
        key: timeline.key(),
        addresses: members.iter().map(|member| (member.id, address(member))).collect(),
        proposer: RefCell::new(Proposer::new(config)),
        changed: Notify::new(),
        stopped: Cell::new(None),
        errors: RefCell::default(),
    });
    let talking = join_all(members.iter().map(|member| fence.talk(member.id)));
    let working = async {
        let ticking = std::pin::pin!(fence.tick());
        select(talking, ticking).await;
    };
    let timeout = std::pin::pin!(shard.runtime().sleep(FENCE_TIMEOUT));
    select(std::pin::pin!(working), timeout).await;
    fence.stopped.take().ok_or_else(|| {
        let seconds = FENCE_TIMEOUT.as_secs();
        let errors = fence.errors.borrow();
        let reasons: Vec<String> =
            errors.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
        let reasons = if reasons.is_empty() { "no answers".into() } else { reasons.join("; ") };
        ManagementError::Unavailable(format!(
            "no quorum of the members agreed within {seconds} s: {reasons}"
        ))
    })
}

fn address(member: &Member) -> String {
    match member.host.contains(':') {
        true => format!("[{}]:{}", member.host, member.pg_port),
        false => format!("{}:{}", member.host, member.pg_port),
    }
}

/// A proposer and its connections; owned by the request's task.
struct Fence {
    shard: Shard,
    key: TimelineKey,
    addresses: BTreeMap<NodeId, String>,
    proposer: RefCell<Proposer>,
    /// After every event, since it may give any member something to be sent.
    changed: Notify,
    stopped: Cell<Option<StopReason>>,
    /// The last thing that went wrong with each member.
    errors: RefCell<BTreeMap<NodeId, String>>,
}

impl Fence {
    async fn tick(&self) {
        loop {
            self.shard.runtime().sleep(TICK_INTERVAL).await;
            self.proposer.borrow_mut().tick();
            self.changed.notify_all();
        }
    }

    fn is_stopped(&self) -> bool {
        self.proposer.borrow().is_stopped()
    }

    /// Talks to one member until the proposer stops.
    async fn talk(&self, node: NodeId) {
        while !self.is_stopped() {
            if let Err(reason) = self.talk_once(node).await {
                tracing::info!(%node, reason, "fence: connection to a member ended");
                self.errors.borrow_mut().insert(node, reason);
            }
            self.proposer.borrow_mut().disconnected(node);
            self.changed.notify_all();
            if !self.is_stopped() {
                self.shard.runtime().sleep(TICK_INTERVAL).await;
            }
        }
    }

    async fn connect(&self, node: NodeId) -> Result<AcceptorClient, ClientError> {
        let token = self.shard.options().auth_token.as_deref();
        let (runtime, address) = (self.shard.runtime(), &self.addresses[&node]);
        AcceptorClient::connect(runtime, address, self.key, "firn-fence", token).await
    }

    async fn talk_once(&self, node: NodeId) -> Result<(), String> {
        let text = |error: ClientError| error.to_string();
        let mut client = self.connect(node).await.map_err(text)?;
        client.start_wal_push().await.map_err(text)?;
        self.proposer.borrow_mut().connected(node);
        self.changed.notify_all();
        let sender = client.sender();
        let sending = std::pin::pin!(self.send(node, &sender));
        let receiving = std::pin::pin!(self.receive(node, &mut client));
        match select(sending, receiving).await {
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        }
    }

    async fn send(&self, node: NodeId, sender: &crate::runtime::Stream) -> Result<(), String> {
        let mut donor = None;
        loop {
            let changed = self.changed.notified();
            loop {
                let next = self.proposer.borrow_mut().next(node);
                let message = match next.map_err(|action| format!("{action:?}"))? {
                    None => break,
                    Some(Next::Message(message)) => encoded(&message),
                    Some(Next::Wal { begin, end }) => {
                        let wal = self.read_from_donor(&mut donor, begin, end).await?;
                        let mut proposer = self.proposer.borrow_mut();
                        let Some(request) = proposer.append(node, begin, &wal) else { break };
                        encoded(&ProposerMessage::Append(request))
                    }
                };
                sender.send_all(message).await.0.map_err(|error| error.to_string())?;
            }
            if self.is_stopped() {
                return Ok(());
            }
            changed.await;
        }
    }

    async fn receive(&self, node: NodeId, client: &mut AcceptorClient) -> Result<(), String> {
        while !self.is_stopped() {
            let payload = client.next_data().await.map_err(|error| error.to_string())?;
            let message = AcceptorMessage::decode(ProtocolVersion::V3, payload);
            let message = message.map_err(|error| error.to_string())?;
            let actions = self.proposer.borrow_mut().message(node, &message);
            self.changed.notify_all();
            for action in actions {
                match action {
                    Action::Elected { term, term_start_lsn, donor } => {
                        tracing::info!(%term, %term_start_lsn, %donor, "fence elected");
                    }
                    Action::Committed { .. } => {}
                    Action::Disconnect { reason, .. } => return Err(reason.to_string()),
                    Action::Stop(reason) => self.stopped.set(Some(reason)),
                }
            }
        }
        Ok(())
    }

    /// WAL `[begin, end)` of the donor's log; at least one byte of it.
    async fn read_from_donor(
        &self,
        donor: &mut Option<DonorStream>,
        begin: Lsn,
        end: Lsn,
    ) -> Result<Vec<u8>, String> {
        let (node, term) = {
            let proposer = self.proposer.borrow();
            (proposer.donor().ok_or("there is no donor before the election")?, proposer.term())
        };
        let text = |error: String| format!("donor {node}: {error}");
        let mut stream = match donor.take() {
            Some(stream) if stream.position == begin => stream,
            _ => {
                let client = self.connect(node).await.map_err(|error| text(error.to_string()))?;
                DonorStream::start(client, begin, term).await.map_err(text)?
            }
        };
        let wal = stream.read((end - begin) as usize).await.map_err(text)?;
        *donor = Some(stream);
        Ok(wal)
    }
}

fn encoded(message: &ProposerMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.message(b'd', |out| message.encode(ProtocolVersion::V3, out));
    bytes
}

/// WAL from the donor, in order.
struct DonorStream {
    client: AcceptorClient,
    /// Position of the next byte that [`Self::read`] gives.
    position: Lsn,
    /// Received and not given yet; at most one message.
    waiting: Vec<u8>,
}

impl DonorStream {
    async fn start(
        mut client: AcceptorClient,
        position: Lsn,
        term: Term,
    ) -> Result<DonorStream, String> {
        client.start_replication(position, term).await.map_err(|error| error.to_string())?;
        Ok(DonorStream { client, position, waiting: Vec::new() })
    }

    async fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        while self.waiting.is_empty() {
            let payload = self.client.next_data().await.map_err(|error| error.to_string())?;
            match FromServer::decode(payload).map_err(|error| error.to_string())? {
                FromServer::Keepalive { .. } => {}
                FromServer::Wal { start, wal, .. } if start == self.position => {
                    self.waiting.extend_from_slice(wal);
                }
                FromServer::Wal { start, .. } => {
                    return Err(format!("sent WAL at {start}, expected {}", self.position));
                }
            }
        }
        let rest = self.waiting.split_off(bytes_max.min(self.waiting.len()));
        let wal = std::mem::replace(&mut self.waiting, rest);
        self.position = self.position + wal.len() as u64;
        Ok(wal)
    }
}
