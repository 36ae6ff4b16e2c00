//! One timeline on its shard: the acceptor, what of it the journal has, who writes it and who reads it.
//!
//! Invariant: the changes of every step go to the journal in the order of the steps. When the journal refuses one (it
//! is full), the acceptor believes what the disk will never have: the timeline then refuses everything until the
//! next proposer's connection, which begins with an acceptor made anew from what the journal has.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use firn_core::api::{
    AcceptorStatus, PeerPosition, PeerStatus, PostgresInfo, StandingStatus, TermStartStatus,
    TimelineStatus, WalReceiverStatus,
};
use firn_core::consensus::acceptor::{Acceptor, AcceptorError, Mark, Reply, Standing, Step, When};
use firn_core::consensus::postgres_history::{PostgresHistory, PostgresSwitch};
use firn_core::consensus::state::TimelineState;
use firn_core::postgres::wal::{SegmentPrefix, WalVersion};
use firn_core::types::{Lsn, NodeId, PostgresTimeline, Term, TimelineKey};
use firn_core::wire::walproposer::{AppendResponse, PageserverFeedback, ProposerMessage};
use thiserror::Error;

use crate::journal::{Journal, JournalError, Ticket};
use crate::runtime::sync::Notify;
use crate::shard::metrics::ShardMetrics;
use crate::shard::readers::Readers;
use crate::shard::slots::Slots;
use crate::wal_service::reply_queue::ReplyQueue;

/// Why a step was not made.
#[derive(Debug, Error)]
pub enum StepError {
    /// The message breaks the protocol.
    #[error(transparent)]
    Acceptor(#[from] AcceptorError),
    /// The journal takes nothing more.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An earlier change was refused by the journal.
    #[error("the journal refused a change of timeline {0}: connect again")]
    Failed(TimelineKey),
    /// The timeline is gone.
    #[error("timeline {0} was deleted")]
    Deleted(TimelineKey),
}

/// Why WAL cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Before the first byte that is here.
    #[error("WAL at {position} is not on this node: it has WAL from {first}")]
    NotHere {
        /// What was asked for.
        position: Lsn,
        /// Where it begins here.
        first: Lsn,
    },
    /// A newer proposer began before it.
    #[error("WAL at {position} was cut off by a newer proposer")]
    CutOff {
        /// What was asked for.
        position: Lsn,
    },
    /// The device, or what it returned.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a step asks its caller to do.
#[derive(Debug)]
pub struct Stepped {
    /// The answer, and when it may be sent.
    pub reply: Reply,
    /// The step's own changes.
    pub mark: Option<Mark>,
    /// The last change of the timeline that the journal was given.
    pub ticket: Option<Ticket>,
}

/// What readers go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// Highest term voted for or learned.
    pub term: Term,
    /// End of the durable log.
    pub flush_lsn: Lsn,
    /// Committed, as far as this node has heard.
    pub commit_lsn: Lsn,
}

/// A timeline. Owned by its shard and the tasks of its connections; never leaves the shard's thread.
pub struct Timeline {
    key: TimelineKey,
    journal: Journal,
    metrics: Rc<ShardMetrics>,
    acceptor: RefCell<Acceptor>,
    last_ticket: RefCell<Option<Ticket>>,
    /// Whenever a position, the term or the timeline's being there changes.
    changed: Notify,
    readers: Readers,
    slots: Slots,
    proposers: RefCell<BTreeMap<u64, Proposer>>,
    deleted: Cell<bool>,
    failed: Cell<bool>,
    /// Why the last attempt to re-seed it failed.
    reseed_error: RefCell<Option<String>>,
    /// What the other members last said.
    peers: RefCell<BTreeMap<NodeId, PeerPosition>>,
}

struct Proposer {
    queue: Rc<ReplyQueue>,
    streams: bool,
}

/// A proposer's entry, gone with its connection.
pub struct ProposerEntry {
    timeline: Rc<Timeline>,
    connection_id: u64,
}

impl Timeline {
    /// A timeline whose `state` is what the journal has, or is about to have.
    pub fn new(
        key: TimelineKey,
        node_id: NodeId,
        state: TimelineState,
        journal: Journal,
        metrics: Rc<ShardMetrics>,
    ) -> Timeline {
        let mut acceptor = Acceptor::new(key, node_id, state);
        if journal.is_suspect(key) {
            acceptor.distrust();
        }
        Timeline {
            key,
            journal,
            metrics,
            acceptor: RefCell::new(acceptor),
            last_ticket: RefCell::new(None),
            changed: Notify::new(),
            readers: Readers::default(),
            slots: Slots::default(),
            proposers: RefCell::default(),
            deleted: Cell::new(false),
            failed: Cell::new(false),
            reseed_error: RefCell::default(),
            peers: RefCell::default(),
        }
    }

    /// Its name.
    pub fn key(&self) -> TimelineKey {
        self.key
    }

    /// Handles a proposer's message. [`Self::ready`] comes first.
    pub fn handle(&self, message: &ProposerMessage<'_>) -> Result<Stepped, StepError> {
        self.step(|acceptor| acceptor.handle(message))
    }

    /// Makes one step of the acceptor and hands its changes to the journal.
    pub(crate) fn step<'a, E>(
        &self,
        step: impl FnOnce(&mut Acceptor) -> Result<Step<'a>, E>,
    ) -> Result<Stepped, StepError>
    where
        StepError: From<E>,
    {
        if self.deleted.get() {
            return Err(StepError::Deleted(self.key));
        }
        if self.failed.get() {
            return Err(StepError::Failed(self.key));
        }
        let Step { changes, mark, reply } = step(&mut self.acceptor.borrow_mut())?;
        for change in changes.iter() {
            // The acceptor knows whether it is suspect, and what it may change then.
            let appended = self.journal.append_to_reseed(self.key, change.clone());
            let ticket = appended.inspect_err(|error| {
                self.failed.set(true);
                tracing::error!(
                    tenant = %self.key.tenant_id,
                    timeline = %self.key.timeline_id,
                    %error,
                    "the journal refused a change: the timeline stops"
                );
            })?;
            *self.last_ticket.borrow_mut() = Some(ticket);
        }
        self.changed.notify_all();
        Ok(Stepped { reply, mark, ticket: self.last_ticket.borrow().clone() })
    }

    /// After the journal refused a change: goes on with an acceptor that knows what the journal has and no more.
    pub async fn recover(&self) -> Result<(), JournalError> {
        let last = self.last_ticket.borrow().clone();
        if let Some(ticket) = last.filter(|_| self.failed.get()) {
            self.journal.durable(&ticket).await?;
        }
        // Another connection may have done it meanwhile.
        if self.failed.get() {
            let journalled = self.journal.state().timelines.get(&self.key).cloned();
            if let Some(timeline) = journalled {
                self.acceptor.borrow_mut().restart(timeline.state.clone());
                self.failed.set(false);
                self.changed.notify_all();
            }
        }
        Ok(())
    }

    /// Waits until the journal takes another change.
    pub async fn ready(&self) -> Result<(), JournalError> {
        self.journal.ready(self.key).await
    }

    /// Takes over the Postgres timelines that the elected proposer of `term` tells; durable when this returns.
    pub async fn set_postgres_history(
        &self,
        term: Term,
        history: &PostgresHistory,
    ) -> Result<(), StepError> {
        self.ready().await?;
        let stepped = self.step(|acceptor| acceptor.set_postgres_history(term, history))?;
        Ok(self.settle(&stepped).await?)
    }

    /// Makes durable what the acceptor keeps lazily: positions that heartbeats moved.
    pub async fn checkpoint(&self) -> Result<(), StepError> {
        if self.deleted.get() || self.failed.get() {
            return Ok(());
        }
        let stepped = self.step(|acceptor| {
            Ok::<_, AcceptorError>(acceptor.checkpoint().unwrap_or_else(Step::nothing))
        })?;
        Ok(self.settled(stepped.ticket.as_ref(), stepped.mark, When::Durable).await?)
    }

    /// Waits until a step's answer may be sent, and tells the acceptor what is durable by then.
    pub async fn settled(
        &self,
        ticket: Option<&Ticket>,
        mark: Option<Mark>,
        when: When,
    ) -> Result<(), JournalError> {
        match (ticket, when) {
            (Some(ticket), When::Durable) => self.journal.durable(ticket).await?,
            (Some(ticket), When::Witnessed) => self.journal.witnessed(ticket).await?,
            _ => {}
        }
        if let Some(mark) = mark {
            self.acceptor.borrow_mut().durable(mark);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Waits until the changes of a management step are witnessed.
    pub(crate) async fn settle(&self, stepped: &Stepped) -> Result<(), JournalError> {
        self.settled(stepped.ticket.as_ref(), stepped.mark, When::Witnessed).await
    }

    /// What to tell the other members.
    pub fn position(&self) -> PeerPosition {
        self.with_acceptor(|acceptor| PeerPosition {
            key: self.key,
            generation: acceptor.state().membership.generation,
            term: acceptor.term(),
            last_log_term: acceptor.last_log_term(),
            flush_lsn: acceptor.flush_lsn(),
            commit_lsn: acceptor.commit_lsn(),
            standing: standing_status(acceptor.standing()),
            hold_lsn: self.slots.lowest(),
        })
    }

    /// What the other members last said, as far as they are members still.
    pub fn peer_positions(&self) -> Vec<(NodeId, PeerPosition)> {
        self.with_acceptor(|acceptor| {
            let membership = &acceptor.state().membership;
            let peers = self.peers.borrow();
            let members = peers.iter().filter(|(peer, _)| membership.contains(**peer));
            members.map(|(peer, position)| (*peer, position.clone())).collect()
        })
    }

    /// Notes what another node says; of those that are members only.
    pub(super) fn set_peer_position(&self, peer: NodeId, position: PeerPosition) {
        if self.with_acceptor(|acceptor| acceptor.state().membership.contains(peer)) {
            self.peers.borrow_mut().insert(peer, position);
        }
    }

    /// What it may say: after its journal lost acknowledged frames less than usual.
    pub fn standing(&self) -> Standing {
        self.with_acceptor(Acceptor::standing)
    }

    /// Takes part from `floor` on: a majority of the other members promised it. Witnessed when this returns.
    pub(super) async fn begin_seeding(&self, floor: Term) -> Result<(), StepError> {
        let stepped = self.step(|acceptor| match acceptor.standing() {
            Standing::Whole => Ok(Step::nothing()),
            Standing::Suspect | Standing::Seeding { .. } => acceptor.begin_seeding(floor),
        })?;
        Ok(self.settle(&stepped).await?)
    }

    /// It has everything that can have been committed: it votes from now on, also after a crash.
    pub(super) async fn become_whole(&self) -> Result<(), StepError> {
        if self.deleted.get() {
            return Err(StepError::Deleted(self.key));
        }
        let ticket = self.journal.reseeded(self.key)?;
        self.journal.witnessed(&ticket).await?;
        self.acceptor.borrow_mut().trust();
        self.reseed_error.take();
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn note_reseed_error(&self, reason: String) {
        *self.reseed_error.borrow_mut() = Some(reason);
    }

    /// What to answer to appends now, with what standbys need.
    pub fn append_response(
        &self,
        pageserver: Option<PageserverFeedback>,
    ) -> Option<AppendResponse> {
        let mut response = self.acceptor.borrow().append_response()?;
        response.hot_standby = self.readers.standby_horizons();
        response.pageserver = pageserver;
        Some(response)
    }

    /// Reads something of the acceptor.
    pub fn with_acceptor<T>(&self, read: impl FnOnce(&Acceptor) -> T) -> T {
        read(&self.acceptor.borrow())
    }

    /// What readers go by.
    pub fn positions(&self) -> Positions {
        self.with_acceptor(|acceptor| Positions {
            term: acceptor.term(),
            flush_lsn: acceptor.flush_lsn(),
            commit_lsn: acceptor.commit_lsn(),
        })
    }

    /// Ready after the next change of [`Self::positions`], counted from this call.
    pub fn changed(&self) -> impl Future<Output = ()> + 'static {
        self.changed.notified()
    }

    /// Bytes in a WAL segment.
    pub fn segment_size_bytes(&self) -> u64 {
        self.with_acceptor(|acceptor| u64::from(acceptor.state().segment_size_bytes))
    }

    /// The first position that can be read: where the segment begins that WAL begins in.
    pub fn first_readable_lsn(&self) -> Lsn {
        let start = self.with_acceptor(|acceptor| acceptor.state().local_start_lsn);
        start.segment_start(self.segment_size_bytes())
    }

    /// Which Postgres timelines wrote the log, as far as it can never change any more.
    pub fn settled_postgres_history(&self) -> PostgresHistory {
        self.with_acceptor(|acceptor| {
            acceptor.state().postgres_history.settled(acceptor.commit_lsn())
        })
    }

    /// The Postgres timeline that follows one, and where, once that can never change any more.
    pub fn postgres_timeline_after(&self, timeline: PostgresTimeline) -> Option<PostgresSwitch> {
        self.with_acceptor(|acceptor| {
            let next = acceptor.state().postgres_history.after(timeline)?;
            (next.lsn < acceptor.commit_lsn()).then_some(next)
        })
    }

    /// Reads at least one and at most `bytes_max` bytes, which must lie below the durable or committed end. Before the
    /// timeline's own start come the made-up bytes of its first segment.
    pub async fn read_wal(&self, position: Lsn, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let start = self.with_acceptor(|acceptor| acceptor.state().local_start_lsn);
        if position >= start {
            return Ok(self.journal.read_wal(self.key, position, bytes_max).await?);
        }
        let not_here = ReadError::NotHere { position, first: start };
        let prefix = self.segment_prefix().ok_or(not_here)?;
        if position < prefix.begin() {
            return Err(ReadError::NotHere { position, first: prefix.begin() });
        }
        Ok(prefix.read(position, start.min(position + bytes_max as u64)))
    }

    fn segment_prefix(&self) -> Option<SegmentPrefix> {
        self.with_acceptor(|acceptor| {
            let state = acceptor.state();
            Some(SegmentPrefix {
                version: WalVersion::from_major(state.postgres_version.major())?,
                system_id: state.system_id,
                timeline: state.postgres_history.timeline_at(state.local_start_lsn),
                segment_size_bytes: state.segment_size_bytes,
                start: state.local_start_lsn,
            })
        })
    }

    /// Notes a proposer's connection.
    pub fn enter_proposer(
        self: &Rc<Self>,
        connection_id: u64,
        queue: Rc<ReplyQueue>,
    ) -> ProposerEntry {
        let proposer = Proposer { queue, streams: false };
        self.proposers.borrow_mut().insert(connection_id, proposer);
        self.metrics.counters.proposers.increment();
        ProposerEntry { timeline: self.clone(), connection_id }
    }

    /// Whether a proposer is connected.
    pub fn has_proposer(&self) -> bool {
        !self.proposers.borrow().is_empty()
    }

    /// The readers.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// How much of what is committed some reader was not sent yet, in bytes.
    pub fn reader_lag_bytes(&self) -> u64 {
        let sent = self.readers.least_sent();
        let committed = self.positions().commit_lsn;
        sent.map_or(0, |sent| committed.0.saturating_sub(sent.0))
    }

    /// The replication slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Passes a page server's feedback on to all proposers.
    pub fn spread_pageserver_feedback(&self, feedback: PageserverFeedback) {
        for proposer in self.proposers.borrow().values() {
            proposer.queue.set_feedback(feedback);
        }
    }

    /// Whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.get()
    }

    pub(super) fn note_created(&self, ticket: Ticket) {
        *self.last_ticket.borrow_mut() = Some(ticket);
    }

    pub(super) fn note_deleted(&self) {
        self.deleted.set(true);
        self.changed.notify_all();
    }

    /// What the HTTP API tells.
    pub fn status(&self) -> TimelineStatus {
        let proposers = self.proposers.borrow();
        let walreceivers = proposers.iter().map(|(id, proposer)| {
            let status = if proposer.streams { "Streaming" } else { "Voting" };
            WalReceiverStatus { conn_id: *id, status: status.to_string() }
        });
        let walreceivers = walreceivers.collect();
        let peers = self.peer_positions();
        let told = peers.iter().filter_map(|(_, position)| position.hold_lsn);
        let hold_lsn = told.chain(self.slots.lowest()).min();
        self.with_acceptor(|acceptor| {
            let state = acceptor.state();
            let history = state.term_history.0.iter();
            TimelineStatus {
                key: self.key,
                mconf: state.membership.clone(),
                acceptor_state: AcceptorStatus {
                    term: acceptor.term(),
                    epoch: acceptor.last_log_term(),
                    term_history: history
                        .map(|start| TermStartStatus { term: start.term, lsn: start.lsn })
                        .collect(),
                },
                pg_info: PostgresInfo {
                    pg_version: state.postgres_version,
                    system_id: state.system_id,
                    wal_seg_size: state.segment_size_bytes,
                },
                flush_lsn: acceptor.flush_lsn(),
                timeline_start_lsn: state.timeline_start_lsn,
                local_start_lsn: state.local_start_lsn,
                commit_lsn: acceptor.commit_lsn(),
                backup_lsn: state.timeline_start_lsn,
                peer_horizon_lsn: acceptor.peer_horizon_lsn(),
                remote_consistent_lsn: self.readers.remote_consistent_lsn(),
                standing: standing_status(acceptor.standing()),
                reseed_error: self.reseed_error.borrow().clone(),
                peers: peers
                    .iter()
                    .map(|(peer, position)| PeerStatus {
                        sk_id: *peer,
                        term: position.term,
                        flush_lsn: position.flush_lsn,
                        commit_lsn: position.commit_lsn,
                        last_log_term: position.last_log_term,
                        standing: position.standing,
                        hold_lsn: position.hold_lsn,
                    })
                    .collect(),
                walsenders: self.readers.status(),
                slots: self.slots.status(),
                hold_lsn,
                walreceivers,
            }
        })
    }
}

fn standing_status(standing: Standing) -> StandingStatus {
    match standing {
        Standing::Whole => StandingStatus::Whole,
        Standing::Suspect => StandingStatus::Suspect,
        Standing::Seeding { .. } => StandingStatus::Seeding,
    }
}

impl ProposerEntry {
    /// Notes that the proposer was elected and streams.
    pub fn streams(&self) {
        if let Some(proposer) = self.timeline.proposers.borrow_mut().get_mut(&self.connection_id) {
            proposer.streams = true;
        }
    }
}

impl Drop for ProposerEntry {
    fn drop(&mut self) {
        self.timeline.proposers.borrow_mut().remove(&self.connection_id);
        self.timeline.metrics.counters.proposers.decrement();
    }
}
