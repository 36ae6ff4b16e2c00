//! A proposer that runs inside the node, beside the timeline's acceptor, without a primary: a fence or a re-seed.
//!
//! It reaches the members, this node among them, through their Postgres ports, so its effect is that of any proposer.
//! Members that it writes to and that lack a part of the log get it from the member that had most, the donor; and before
//! any of it, as from a relay, the donor's history of Postgres timelines: who has bytes knows under which name they go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::consensus::proposer::{Action, Next, Proposer, ProposerConfig, Role, StopReason};
use firn_core::types::{Lsn, NodeId, SystemId, Term};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::replication::FromServer;
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};
use futures_util::future::{Either, join_all, select};

use crate::runtime::sync::Notify;
use crate::shard::Shard;
use crate::shard::timeline::Timeline;
use crate::wal_service::client::{AcceptorClient, ClientError};

/// The proposer's clock, and the pause before a member is tried again.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Nothing comes forward for this long: votes take milliseconds, an append to a slow disk seconds.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs one proposer to its end; with the history of Postgres timelines of the log that it chose, once it told any.
/// `Err`: it got nowhere; what went wrong with each member.
pub(super) async fn run(
    shard: &Shard,
    timeline: &Rc<Timeline>,
    membership: Membership,
    role: Role,
) -> Result<(StopReason, Option<PostgresHistory>), String> {
    let mut members: Vec<Member> = membership.all().cloned().collect();
    members.sort_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    let config = timeline.with_acceptor(|acceptor| ProposerConfig {
        key: acceptor.key(),
        membership,
        postgres_version: acceptor.state().postgres_version,
        system_id: SystemId(0),
        segment_size_bytes: acceptor.state().segment_size_bytes,
        role,
    });
    let campaign = Campaign {
        shard,
        timeline,
        reseeds: match role {
            Role::Reseed { node, .. } => Some(node),
            Role::Stream { .. } | Role::Fence => None,
        },
        addresses: members.iter().map(|member| (member.id, member.address())).collect(),
        proposer: RefCell::new(Proposer::new(config)),
        history: RefCell::new(None),
        changed: Notify::new(),
        steps: Cell::new(0),
        stopped: Cell::new(None),
        errors: RefCell::default(),
    };
    let talking = join_all(members.iter().map(|member| campaign.talk(member.id)));
    let beside = select(Box::pin(campaign.tick()), Box::pin(campaign.watch_for_stall()));
    select(Box::pin(talking), beside).await;
    let stopped = campaign.stopped.take();
    stopped.map(|reason| (reason, campaign.history.take())).ok_or_else(|| {
        let errors = campaign.errors.borrow();
        let reasons: Vec<String> =
            errors.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
        if reasons.is_empty() { "no answers".into() } else { reasons.join("; ") }
    })
}

/// A proposer and its connections; owned by the request's task.
struct Campaign<'a> {
    shard: &'a Shard,
    timeline: &'a Rc<Timeline>,
    /// The node that is to be re-seeded: it takes part only after the election.
    reseeds: Option<NodeId>,
    addresses: BTreeMap<NodeId, String>,
    proposer: RefCell<Proposer>,
    /// The donor's, once it was asked.
    history: RefCell<Option<PostgresHistory>>,
    /// After every event, since it may give any member something to be sent.
    changed: Notify,
    /// Messages received so far: whether anything comes forward.
    steps: Cell<u64>,
    stopped: Cell<Option<StopReason>>,
    /// The last thing that went wrong with each member.
    errors: RefCell<BTreeMap<NodeId, String>>,
}

impl Campaign<'_> {
    async fn tick(&self) {
        loop {
            self.shard.runtime().sleep(TICK_INTERVAL).await;
            self.proposer.borrow_mut().tick();
            self.changed.notify_all();
        }
    }

    /// Ready when nothing was heard for a while.
    async fn watch_for_stall(&self) {
        loop {
            let before = self.steps.get();
            self.shard.runtime().sleep(STALL_TIMEOUT).await;
            if self.steps.get() == before {
                return;
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.proposer.borrow().is_stopped()
    }

    /// Talks to one member until the proposer stops.
    async fn talk(&self, node: NodeId) {
        if self.reseeds == Some(node)
            && let Err(reason) = self.begin_seeding().await
        {
            self.errors.borrow_mut().insert(node, reason);
            return;
        }
        while !self.is_stopped() {
            if let Err(reason) = self.talk_once(node).await {
                tracing::info!(%node, reason, "connection of a campaign to a member ended");
                self.errors.borrow_mut().insert(node, reason);
            }
            self.proposer.borrow_mut().disconnected(node);
            self.changed.notify_all();
            if !self.is_stopped() {
                self.shard.runtime().sleep(TICK_INTERVAL).await;
            }
        }
    }

    /// Waits until the others promised a term, and has the acceptor here take part from there on.
    async fn begin_seeding(&self) -> Result<(), String> {
        loop {
            let changed = self.changed.notified();
            if self.proposer.borrow().donor().is_some() {
                break;
            }
            changed.await;
        }
        let floor = self.proposer.borrow().term();
        self.timeline.begin_seeding(floor).await.map_err(|error| error.to_string())
    }

    async fn connect(&self, node: NodeId) -> Result<AcceptorClient, ClientError> {
        let token = self.shard.options().auth_token.as_deref();
        let (runtime, address) = (self.shard.runtime(), &self.addresses[&node]);
        let (key, trusted) = (Some(self.timeline.key()), self.shard.credentials().client.clone());
        AcceptorClient::connect(runtime, address, key, "firn-campaign", token, trusted.as_ref())
            .await
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
                    Some(Next::Message(message @ ProposerMessage::Elected(_))) => {
                        sender.send_all(encoded(&message)).await.0.map_err(|e| e.to_string())?;
                        self.tell_history(node).await?;
                        continue;
                    }
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

    /// Tells a member the donor's history. One that knows better stays with what it knows: names of WAL files must not
    /// keep a fence from its end.
    async fn tell_history(&self, node: NodeId) -> Result<(), String> {
        let (history, term) = (self.donor_history().await?, self.proposer.borrow().term());
        let mut client = self.connect(node).await.map_err(|error| error.to_string())?;
        match client.set_postgres_history(term, &history).await {
            Err(error @ ClientError::Refused { .. }) => {
                tracing::warn!(%node, %error, "a member keeps its history of Postgres timelines");
                Ok(())
            }
            told => told.map_err(|error| error.to_string()),
        }
    }

    async fn donor_history(&self) -> Result<PostgresHistory, String> {
        if let Some(history) = &*self.history.borrow() {
            return Ok(history.clone());
        }
        let donor = self.proposer.borrow().donor();
        let donor = donor.ok_or("there is no donor before the election")?;
        let text = |error: ClientError| format!("donor {donor}: {error}");
        let mut client = self.connect(donor).await.map_err(text)?;
        let history = client.postgres_history().await.map_err(text)?;
        *self.history.borrow_mut() = Some(history.clone());
        Ok(history)
    }

    async fn receive(&self, node: NodeId, client: &mut AcceptorClient) -> Result<(), String> {
        while !self.is_stopped() {
            let payload = client.next_data().await.map_err(|error| error.to_string())?;
            let message = AcceptorMessage::decode(ProtocolVersion::V3, payload);
            let message = message.map_err(|error| error.to_string())?;
            self.steps.set(self.steps.get() + 1);
            let actions = self.proposer.borrow_mut().message(node, &message);
            self.changed.notify_all();
            for action in actions {
                match action {
                    Action::Elected { term, term_start_lsn, donor } => {
                        tracing::info!(%term, %term_start_lsn, %donor, "campaign won");
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
        client.start_replication(position, Some(term)).await.map_err(|error| error.to_string())?;
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
