//! A proposer that runs inside the node, beside the timeline's acceptor, without a primary: a fence or a re-seed.
//!
//! It reaches the members, this node among them, through their Postgres ports, so its effect is that of any proposer.
//! Members that it writes to and that lack a part of the log get it from a member that has it, the donor first, and another
//! one when that cannot read it; and before any of it, as from a relay, the donor's history of Postgres timelines: who has
//! bytes knows under which name they go. When nobody can read a part, the campaign is repeated without the votes of those
//! that have it, if the others are a quorum.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::consensus::proposer::{
    Action, Holder, Next, Proposer, ProposerConfig, Role, StopReason,
};
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
/// Attempts in a row after which a member counts as out of reach: with the pauses between them, longer than its restart.
const ATTEMPTS_MAX: u32 = 10;
/// A member that has WAL and gives none for so long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How a proposer that got somewhere ended; with the history of Postgres timelines of the log that it chose, once it told
/// any.
pub(super) type Ended = (StopReason, Option<PostgresHistory>);

/// Runs one proposer to its end, a second time without members that hold what nobody can read.
/// `Err`: it got nowhere; what went wrong with each member.
pub(super) async fn run(
    shard: &Shard,
    timeline: &Rc<Timeline>,
    membership: Membership,
    role: Role,
) -> Result<Ended, String> {
    let (ended, unreadable) =
        run_with(shard, timeline, membership.clone(), role, BTreeSet::new()).await;
    if ended.is_ok() || unreadable.is_empty() || !can_do_without(&membership, role, &unreadable) {
        return ended;
    }
    let nodes: Vec<u64> = unreadable.iter().map(|node| node.0).collect();
    tracing::warn!(?nodes, "campaigning without the votes of members whose WAL nobody can read");
    run_with(shard, timeline, membership, role, unreadable).await.0
}

fn can_do_without(membership: &Membership, role: Role, nodes: &BTreeSet<NodeId>) -> bool {
    let others = |id| !nodes.contains(&id);
    match role {
        Role::Reseed { node, .. } => membership.is_quorum_of_others(node, others),
        Role::Stream { .. } | Role::Fence => membership.is_quorum(others),
    }
}

/// How it ended, and which members hold WAL that none of them can read.
async fn run_with(
    shard: &Shard,
    timeline: &Rc<Timeline>,
    membership: Membership,
    role: Role,
    late: BTreeSet<NodeId>,
) -> (Result<Ended, String>, BTreeSet<NodeId>) {
    let mut members: Vec<Member> = membership.all().cloned().collect();
    members.sort_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    let config = timeline.with_acceptor(|acceptor| ProposerConfig {
        key: acceptor.key(),
        membership: membership.clone(),
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
        late,
        membership,
        role,
        failures: RefCell::default(),
        is_hopeless: Cell::new(false),
        addresses: members.iter().map(|member| (member.id, member.address())).collect(),
        proposer: RefCell::new(Proposer::new(config)),
        history: RefCell::new(None),
        changed: Notify::new(),
        steps: Cell::new(0),
        stopped: Cell::new(None),
        unreadable: RefCell::default(),
        errors: RefCell::default(),
    };
    let talking = join_all(members.iter().map(|member| campaign.talk(member.id)));
    let beside = select(Box::pin(campaign.tick()), Box::pin(campaign.watch_for_stall()));
    select(Box::pin(talking), beside).await;
    let stopped = campaign.stopped.take();
    let ended = stopped.map(|reason| (reason, campaign.history.take())).ok_or_else(|| {
        let errors = campaign.errors.borrow();
        let reasons: Vec<String> =
            errors.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
        if reasons.is_empty() { "no answers".into() } else { reasons.join("; ") }
    });
    (ended, campaign.unreadable.take())
}

/// A proposer and its connections; owned by the request's task.
struct Campaign<'a> {
    shard: &'a Shard,
    timeline: &'a Rc<Timeline>,
    /// The node that is to be re-seeded: it takes part only after the election.
    reseeds: Option<NodeId>,
    /// Members that are talked to only after the election.
    late: BTreeSet<NodeId>,
    membership: Membership,
    role: Role,
    /// How often in a row each member could not be talked to.
    failures: RefCell<BTreeMap<NodeId, u32>>,
    /// So many members are out of reach that nobody will be elected.
    is_hopeless: Cell<bool>,
    addresses: BTreeMap<NodeId, String>,
    proposer: RefCell<Proposer>,
    /// The donor's, once it was asked.
    history: RefCell<Option<PostgresHistory>>,
    /// After every event, since it may give any member something to be sent.
    changed: Notify,
    /// Messages received so far: whether anything comes forward.
    steps: Cell<u64>,
    stopped: Cell<Option<StopReason>>,
    /// Members that hold WAL which none of them can read: the campaign is of no use any more.
    unreadable: RefCell<BTreeSet<NodeId>>,
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
        let proposer_stopped = self.proposer.borrow().is_stopped();
        proposer_stopped || self.is_hopeless.get() || !self.unreadable.borrow().is_empty()
    }

    /// Before an election it is over when those that can be talked to are no quorum.
    fn note_failure(&self, node: NodeId) {
        let mut failures = self.failures.borrow_mut();
        *failures.entry(node).or_default() += 1;
        let lost = failures.iter().filter(|(_, count)| **count >= ATTEMPTS_MAX);
        let lost = lost.map(|(node, _)| *node).collect();
        let is_elected = self.proposer.borrow().donor().is_some();
        if !is_elected && !can_do_without(&self.membership, self.role, &lost) {
            self.is_hopeless.set(true);
        }
    }

    /// Waits for the term that a quorum promised; `None`: the campaign ended before, and nobody promised anything.
    async fn wait_for_election(&self) -> Option<Term> {
        loop {
            let changed = self.changed.notified();
            let won = self.proposer.borrow().won_term();
            if won.is_some() || self.is_stopped() {
                return won;
            }
            changed.await;
        }
    }

    /// Talks to one member until the proposer stops.
    async fn talk(&self, node: NodeId) {
        if self.late.contains(&node) {
            self.wait_for_election().await;
        }
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
                self.note_failure(node);
            }
            self.proposer.borrow_mut().disconnected(node);
            self.changed.notify_all();
            if !self.is_stopped() {
                self.shard.runtime().sleep(TICK_INTERVAL).await;
            }
        }
    }

    /// Waits until the others promised a term, and has the acceptor here take part from there on. It stays closed when they
    /// did not: of a proposer that was not elected the term says nothing.
    async fn begin_seeding(&self) -> Result<(), String> {
        let Some(floor) = self.wait_for_election().await else { return Ok(()) };
        self.timeline.begin_seeding(floor).await.map_err(|error| error.to_string())
    }

    async fn connect(&self, node: NodeId) -> Result<AcceptorClient, ClientError> {
        let (address, key) = (&self.addresses[&node], Some(self.timeline.key()));
        self.shard.connect(address, key, "firn-campaign").await
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
        let mut stream = None;
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
                        let wal = self.read_elected(node, &mut stream, begin, end).await?;
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
    /// keep a fence from its end. No other refusal is taken for that: a member that is told was asked for its vote, so it is
    /// in this term; if it is in a higher one by now, or refuses everything, it says so to the next append as well.
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
            self.failures.borrow_mut().remove(&node);
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

    /// WAL `[begin, end)` of the elected log, at least one byte of it, for a member that lacks it: from any of the others
    /// that has it and can read it.
    async fn read_elected(
        &self,
        target: NodeId,
        stream: &mut Option<MemberStream>,
        begin: Lsn,
        end: Lsn,
    ) -> Result<Vec<u8>, String> {
        let term = self.proposer.borrow().term();
        let open = stream.take().filter(|open| open.position == begin && begin < open.holder.end);
        let mut holders = self.proposer.borrow().holders(begin);
        holders.retain(|holder| holder.node != target);
        if let Some(open) = &open {
            // The one that is being read from, as it was when that began.
            holders.retain(|holder| holder.node != open.holder.node);
            holders.insert(0, open.holder);
        }
        let mut open = open;
        let mut failed = BTreeMap::new();
        for holder in holders {
            let reading = self.read_from(holder, open.take(), begin, end, term);
            let read = self.shard.runtime().within(SILENCE_MAX, reading).await;
            let read = read.unwrap_or_else(|| Err(format!("gave nothing for {SILENCE_MAX:?}")));
            match read {
                Ok((wal, open)) => {
                    *stream = Some(open);
                    return Ok(wal);
                }
                Err(reason) => {
                    let node = holder.node;
                    tracing::warn!(%node, at = %begin, "member gives no WAL, turning to another one: {reason}");
                    failed.insert(node, reason);
                }
            }
        }
        self.unreadable.borrow_mut().extend(failed.keys());
        self.changed.notify_all();
        Err(format!("no member gives WAL at {begin}: {failed:?}"))
    }

    async fn read_from(
        &self,
        holder: Holder,
        open: Option<MemberStream>,
        begin: Lsn,
        end: Lsn,
        term: Term,
    ) -> Result<(Vec<u8>, MemberStream), String> {
        let mut stream = match open {
            Some(stream) => stream,
            None => {
                let client = self.connect(holder.node).await.map_err(|error| error.to_string())?;
                MemberStream::start(client, holder, begin, term).await?
            }
        };
        let wal = stream.read((end.min(holder.end) - begin) as usize).await?;
        Ok((wal, stream))
    }
}

fn encoded(message: &ProposerMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.message(b'd', |out| message.encode(ProtocolVersion::V3, out));
    bytes
}

/// WAL from a member, in order.
struct MemberStream {
    /// Whom it is of, and how far it is good: what follows may have been sent before it was cut off.
    holder: Holder,
    client: AcceptorClient,
    /// Position of the next byte that [`Self::read`] gives.
    position: Lsn,
    /// Received and not given yet; at most one message.
    waiting: Vec<u8>,
}

impl MemberStream {
    async fn start(
        mut client: AcceptorClient,
        holder: Holder,
        position: Lsn,
        term: Term,
    ) -> Result<MemberStream, String> {
        client.start_replication(position, Some(term)).await.map_err(|error| error.to_string())?;
        Ok(MemberStream { holder, client, position, waiting: Vec::new() })
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
