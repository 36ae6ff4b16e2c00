//! One attempt to propose a primary's WAL: from asking who everyone is until something ends it.
//!
//! Order: the primary says who it is; the acceptors say what they hold; what is committed is compared; only then an
//! election changes anything, and the rest of the log that it chose is compared before the first byte is written.
//!
//! All of a session runs on the relay's one shard. Its state is shared by its tasks and never borrowed across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::consensus::proposer::{Action, Holder, Proposer, ProposerConfig, Role, StopReason};
use firn_core::relay::history_file::Parting;
use firn_core::relay::window::Window;
use firn_core::types::{Lsn, NodeId, Term};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::replication::{FromReader, POSTGRES_EPOCH_UNIX_US};
use firn_core::wire::walproposer::AcceptorMessage;
use futures_util::future::{Either, select};

use super::check::{Check, CheckError, Found};
use super::link::Link;
use super::members_wal::{Reach, Source};
use super::options::RelayOptions;
use super::postgres::connection::Connection;
use super::postgres::transport::Transport;
use super::primary::{self, Primary, PrimaryError};
use super::survey::Survey;
use super::wal_stream::{PrimaryWal, WalEvent};
use super::watch;
use super::{Relay, Stop};
use crate::runtime::sync::{Notify, Watch};
use crate::runtime::{Runtime, Task, TaskClass};

/// Recent WAL kept for all acceptors. An acceptor that is further behind reads from another one; a primary that is
/// further ahead of the quorum waits.
const WINDOW_BYTES: u64 = 64 << 20;

/// The window grows up to this length for a record that does not fit: no acceptor has a part of a record durable, so that
/// nothing of it is committed before all of it was sent. Longer records do not exist (PostgreSQL 15 to 18: XLogRecordMaxSize
/// and MaxAllocSize are below 1 GiB).
const WINDOW_GROWN_BYTES_MAX: u64 = (1 << 30) + WINDOW_BYTES;

/// Heartbeats to acceptors and status to the primary, at least.
const TICK: Duration = Duration::from_secs(1);

/// How long another relay may hold the slot after it was superseded.
const SLOT_WAIT: Duration = Duration::from_secs(30);

/// Pause between attempts to take the slot.
const SLOT_RETRY: Duration = Duration::from_millis(200);

/// How long acceptors may take to vote when their votes decide whether a primary can be followed. Long enough for one
/// that was just started or is slow: the other way out is to rebuild the primary.
const VOTES_WAIT: Duration = Duration::from_secs(30);

/// With fewer bytes than this in common in the last segment the one before is compared too.
const COMPARED_BYTES_MIN: u64 = 64 << 10;

/// How a session ended.
#[derive(Debug, Clone)]
pub enum End {
    /// Try again.
    Retry(String),
    /// Somebody has to act first.
    Stop(Stop),
    /// An acceptor follows another proposer while we led.
    Lost(String),
}

impl From<PrimaryError> for End {
    fn from(error: PrimaryError) -> End {
        let text = error.to_string();
        if error.is_final() { End::Stop(Stop::Refused(text)) } else { End::Retry(text) }
    }
}

impl From<CheckError> for End {
    fn from(error: CheckError) -> End {
        match error {
            CheckError::Primary(error) => error.into(),
            CheckError::Members(error) => End::Retry(error.to_string()),
            CheckError::Different(_)
            | CheckError::LeftBeforeCommit(_)
            | CheckError::Behind { .. } => End::Stop(Stop::Refused(error.to_string())),
        }
    }
}

/// A won election.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elected {
    term: Term,
    term_start_lsn: Lsn,
}

/// What the tasks of a session share.
pub struct Session {
    pub(super) relay: Rc<Relay>,
    pub(super) runtime: Runtime,
    pub(super) options: Rc<RelayOptions>,
    pub(super) proposer: RefCell<Proposer>,
    pub(super) window: RefCell<Window>,
    pub(super) links: BTreeMap<NodeId, Link>,
    /// The primary's timelines, for the names of the acceptors' WAL files; set before anything of our term is sent.
    pub(super) postgres_history: RefCell<PostgresHistory>,
    /// Members that are connected to only after the election: they hold what nobody could read.
    pub(super) late: BTreeSet<NodeId>,
    /// The primary's WAL was compared with the elected log, and goes to the acceptors.
    leading: Cell<bool>,
    voted: Notify,
    /// WAL went to an acceptor.
    pub(super) sent: Notify,
    pub(super) elected: Watch<Option<Elected>>,
    committed: Watch<Lsn>,
    status_requested: Notify,
    end: Watch<Option<End>>,
}

/// Runs one session to its end. `led` is set once commits can be acknowledged.
pub async fn run(relay: &Rc<Relay>, led: &Cell<bool>) -> End {
    relay.metrics.begin_session();
    let (primary, questions) = match Primary::identify(&relay.runtime, &relay.options.primary).await
    {
        Ok(identified) => identified,
        Err(error) => return error.into(),
    };
    match attempt(relay, &primary, questions, led).await {
        Ok(never) => match never {},
        Err(End::Lost(reason)) => match survey(relay, &primary).await {
            Ok(_) => End::Retry(reason),
            Err(End::Stop(stop)) => End::Stop(stop),
            Err(End::Retry(error) | End::Lost(error)) => End::Retry(format!("{reason}; {error}")),
        },
        Err(end) => end,
    }
}

/// Asks the acceptors. Once we led, a quorum that knows a term higher than any of ours has elected another proposer, now
/// or while we were trying to connect; a minority may only have been asked by one that is gone.
async fn survey(relay: &Relay, primary: &Primary) -> Result<Survey, End> {
    let survey = Survey::take(&relay.runtime, &relay.options, primary).await;
    let survey = survey.map_err(|error| End::Retry(error.to_string()))?;
    let own = relay.own_term.get();
    match survey.is_superseded(own) {
        Some(term) if relay.has_led.get() => Err(End::Stop(Stop::Superseded(format!(
            "superseded: a quorum follows another relay or a fence, elected in term {term} after ours, {own}. This relay ends; start it again only if it shall take over"
        )))),
        _ => Ok(survey),
    }
}

async fn attempt(
    relay: &Rc<Relay>,
    primary: &Primary,
    mut questions: Connection,
    led: &Cell<bool>,
) -> Result<Infallible, End> {
    let (runtime, options) = (&relay.runtime, &relay.options);
    let survey = survey(relay, primary).await?;
    let compared_to = compare_committed(runtime, options, primary, &survey).await?;
    let slot_lsn = primary::ensure_slot(&mut questions, &options.primary.slot).await?;
    let segment = u64::from(primary.segment_size_bytes);
    let slot_lsn = if slot_lsn.is_valid() { slot_lsn } else { primary.flush_lsn };

    let start_lsn = slot_lsn.segment_start(segment);
    let session = Rc::new(Session::new(relay, primary, &survey, start_lsn));
    let _tasks = session.spawn_tasks();
    let won = session.or_end(session.elected()).await?;
    tracing::info!(term = won.term.0, lsn = %won.term_start_lsn, "elected");
    relay.metrics.counters.elections.increment();
    let primary = primary.refresh(&mut questions).await?;
    let mut stream_from = won.term_start_lsn;
    if survey.has_wal() {
        let from = if compared_to.is_valid() {
            compared_to
        } else {
            won.term_start_lsn.segment_start(segment)
        };
        let begin = session.or_end(compare_elected(&session, &primary, from, won)).await?;
        stream_from = stream_start(begin, segment);
    }
    let wal = session.or_end(open_wal(runtime, options, &primary, stream_from)).await?;
    // The server that was compared is the one that streams: had it died since and come back, with an older disk perhaps,
    // it would not answer in this session.
    primary.refresh(&mut questions).await?;
    drop(questions);
    session.begin_leading(stream_from, primary.path.postgres_history());
    tracing::info!(from = %stream_from, "streaming");
    relay.has_led.set(true);
    led.set(true);
    session.or_end(session.stream(wal)).await
}

/// Where the primary's stream begins: some WAL before the term helps acceptors that are a little behind.
fn stream_start(term_start_lsn: Lsn, segment: u64) -> Lsn {
    let segment_start = term_start_lsn.segment_start(segment);
    if term_start_lsn - segment_start <= WINDOW_BYTES / 2 { segment_start } else { term_start_lsn }
}

/// Compares the committed WAL of the last segment, before anything is changed; up to where. What nobody can read at the
/// moment is compared after the election, with what follows it.
async fn compare_committed(
    runtime: &Runtime,
    options: &RelayOptions,
    primary: &Primary,
    survey: &Survey,
) -> Result<Lsn, End> {
    let check = Check {
        primary: &options.primary,
        path: &primary.path,
        reach: Reach { runtime, options: &options.acceptor, key: options.key },
        sources: &|at| survey.sources(at),
        term: None,
    };
    let committed = survey.committed();
    let mut unreadable = None;
    for end in &committed {
        match compare_segment(&check, primary, *end).await {
            Ok((start, found)) => {
                judge_committed(primary, found, start, committed[0])?;
                return Ok(*end);
            }
            Err(CheckError::Members(error)) => unreadable = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(CheckError::Members(unreadable.expect("a quorum answered")).into())
}

/// Compares the segment that ends at `committed`, or what there is of it; from where on.
async fn compare_segment(
    check: &Check<'_>,
    primary: &Primary,
    committed: Lsn,
) -> Result<(Lsn, Found), CheckError> {
    let segment = u64::from(primary.segment_size_bytes);
    let start = committed.segment_start(segment);
    // A few bytes at a segment's start may agree by chance: then the segment before is compared too, if both have it.
    if committed - start < COMPARED_BYTES_MIN && start.0 >= segment {
        let earlier = Lsn(start.0 - segment);
        match check.compare(earlier, committed, primary.flush_lsn).await {
            Ok(found) => return Ok((earlier, found)),
            Err(CheckError::Primary(PrimaryError::WalGone { .. }) | CheckError::Members(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((start, check.compare(start, committed, primary.flush_lsn).await?))
}

fn judge_committed(primary: &Primary, found: Found, start: Lsn, committed: Lsn) -> Result<(), End> {
    let error = match found {
        Found::Same => return Ok(()),
        Found::Behind { primary } => CheckError::Behind { primary, quorum: committed },
        Found::Differs(difference) => {
            match primary.path.judge_parting(start, difference.at, committed) {
                Parting::LeftBeforeCommit(left) => CheckError::LeftBeforeCommit(left),
                Parting::Different | Parting::Follow { .. } => CheckError::Different(difference),
            }
        }
    };
    Err(error.into())
}

/// Compares the rest of the elected log, from `start` up to where the term begins. A primary that left the log for a
/// new timeline, past everything that can have been committed, is followed from there: the term then begins earlier.
async fn compare_elected(
    session: &Session,
    primary: &Primary,
    start: Lsn,
    won: Elected,
) -> Result<Lsn, End> {
    let check = Check {
        primary: &session.options.primary,
        path: &primary.path,
        reach: session.reach(),
        sources: &|at| session.sources(at),
        term: Some(won.term),
    };
    let end = won.term_start_lsn;
    let compared = check.compare(start, end, primary.flush_lsn).await;
    if let Err(CheckError::Members(error)) = &compared {
        session.relay.unreadable.borrow_mut().extend(error.reasons.keys());
    }
    let error = match compared? {
        Found::Same => return Ok(end),
        Found::Behind { primary } => CheckError::Behind { primary, quorum: end },
        Found::Differs(difference) => {
            let path = &primary.path;
            match path.judge_parting(start, difference.at, Lsn::INVALID) {
                Parting::Follow { at } => session.wait_for_votes(at).await,
                _ => return Err(CheckError::Different(difference).into()),
            }
            let maybe_committed = session.proposer.borrow().maybe_committed_lsn().unwrap_or(end);
            match path.judge_parting(start, difference.at, maybe_committed) {
                Parting::Follow { at } => {
                    tracing::info!(%at, cut = end - at, "the primary switched its timeline: cutting WAL that no quorum has");
                    session.proposer.borrow_mut().shorten(at);
                    return Ok(at);
                }
                Parting::LeftBeforeCommit(left) => CheckError::LeftBeforeCommit(left),
                Parting::Different => CheckError::Different(difference),
            }
        }
    };
    Err(error.into())
}

/// Streams through the slot; another relay that was superseded just now may still hold it.
async fn open_wal(
    runtime: &Runtime,
    options: &RelayOptions,
    primary: &Primary,
    from: Lsn,
) -> Result<PrimaryWal, End> {
    let deadline = runtime.now() + SLOT_WAIT;
    let slot = Some(options.primary.slot.as_str());
    loop {
        match PrimaryWal::open(runtime, &options.primary, &primary.path, slot, from).await {
            Err(error) if error.is_slot_in_use() && runtime.now() < deadline => {
                runtime.sleep(SLOT_RETRY).await;
            }
            opened => return Ok(opened?),
        }
    }
}

impl Session {
    fn new(relay: &Rc<Relay>, primary: &Primary, survey: &Survey, start_lsn: Lsn) -> Session {
        let mut proposer = Proposer::new(ProposerConfig {
            key: relay.options.key,
            membership: survey.membership.clone(),
            postgres_version: primary.version,
            system_id: primary.system_id,
            segment_size_bytes: primary.segment_size_bytes,
            role: Role::Stream { start_lsn },
        });
        // Nothing but votes goes to acceptors before the primary's WAL was compared with the elected log.
        proposer.hold();
        let addresses = survey.addresses.iter();
        let mut late = relay.unreadable.borrow().clone();
        if !survey.can_do_without(&late) {
            late.clear();
        }
        if !late.is_empty() {
            let nodes: Vec<u64> = late.iter().map(|node| node.0).collect();
            tracing::warn!(
                ?nodes,
                "electing without the votes of members whose WAL nobody can read"
            );
        }
        Session {
            late,
            relay: relay.clone(),
            runtime: relay.runtime.clone(),
            options: relay.options.clone(),
            proposer: RefCell::new(proposer),
            window: RefCell::new(Window::new(Lsn::INVALID, WINDOW_BYTES)),
            links: addresses.map(|(id, address)| (*id, Link::new(address))).collect(),
            postgres_history: RefCell::default(),
            leading: Cell::new(false),
            voted: Notify::new(),
            sent: Notify::new(),
            elected: Watch::new(None),
            committed: Watch::new(Lsn::INVALID),
            status_requested: Notify::new(),
            end: Watch::new(None),
        }
    }

    /// Members that have WAL of the elected log at a position, the best first.
    pub(super) fn sources(&self, at: Lsn) -> Vec<Source> {
        let holders = self.proposer.borrow().holders(at);
        let address = |node| self.links[&node].address.clone();
        let source = |Holder { node, end }: Holder| Source { node, address: address(node), end };
        holders.into_iter().map(source).collect()
    }

    pub(super) fn reach(&self) -> Reach<'_> {
        let (runtime, options) = (&self.runtime, &self.options);
        Reach { runtime, options: &options.acceptor, key: options.key }
    }

    /// The tasks end when what is returned is dropped.
    fn spawn_tasks(self: &Rc<Session>) -> Vec<Task<()>> {
        let mut tasks: Vec<Task<()>> = self
            .links
            .keys()
            .map(|node| {
                let (session, node) = (self.clone(), *node);
                let work = async move { session.run_link(node).await };
                self.runtime.spawn(TaskClass::Latency, work)
            })
            .collect();
        let session = self.clone();
        tasks.push(self.runtime.spawn(TaskClass::Latency, async move { session.tick().await }));
        tasks
    }

    async fn tick(&self) {
        loop {
            self.runtime.sleep(TICK).await;
            self.proposer.borrow_mut().tick();
            let now = self.runtime.now();
            self.links.values().for_each(|link| link.check_silence(now));
            self.wake_all();
            self.measure();
        }
    }

    /// What is not counted where it happens.
    fn measure(&self) {
        let (proposer, window) = (self.proposer.borrow(), self.window.borrow());
        let streaming = || proposer.peers().filter(|(_, peer)| peer.streaming);
        let furthest = streaming().map(|(_, peer)| peer.flush_lsn).min().unwrap_or(window.end());
        let counters = &self.relay.metrics.counters;
        counters.acceptors.set(self.links.len() as u64);
        counters.acceptors_streaming.set(streaming().count() as u64);
        counters.acceptor_lag_bytes.set(window.end() - furthest.min(window.end()));
        counters.window_bytes.set(window.end() - window.start());
    }

    async fn elected(&self) -> Result<Elected, End> {
        self.elected.wait_until(Option::is_some).await;
        Ok(self.elected.get().expect("it was waited for"))
    }

    /// Gives the acceptors that did not vote yet some time to, as long as what they may hold past `at` matters.
    async fn wait_for_votes(&self, at: Lsn) {
        let deadline = self.runtime.now() + VOTES_WAIT;
        loop {
            let voted = std::pin::pin!(self.voted.notified());
            if self.proposer.borrow().maybe_committed_lsn().is_none_or(|lsn| lsn <= at) {
                return;
            }
            let timer = std::pin::pin!(self.runtime.sleep_until(deadline));
            if let Either::Right(_) = select(voted, timer).await {
                return;
            }
        }
    }

    /// Does `work` unless the session ends before.
    async fn or_end<T>(&self, work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
        let work = std::pin::pin!(work);
        let ended = std::pin::pin!(self.end.wait_until(Option::is_some));
        match select(work, ended).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(self.end.get().expect("it was waited for")),
        }
    }

    /// An acceptor said something.
    pub(super) fn message(&self, node: NodeId, message: &AcceptorMessage) {
        let is_answer = matches!(message, AcceptorMessage::AppendResponse(_));
        if matches!(message, AcceptorMessage::VoteResponse(_)) {
            self.voted.notify_all();
        }
        let (actions, term) = {
            let mut proposer = self.proposer.borrow_mut();
            (proposer.message(node, message), proposer.term())
        };
        if term > self.relay.own_term.get() {
            self.relay.own_term.set(term);
            self.relay.metrics.counters.term.set(term.0);
        }
        if is_answer {
            self.relay.metrics.counters.append_responses.increment();
        }
        let changed = !actions.is_empty() || !is_answer;
        actions.into_iter().for_each(|action| self.perform(action));
        if changed {
            self.wake_all();
        }
    }

    pub(super) fn perform(&self, action: Action) {
        match action {
            Action::Elected { term, term_start_lsn, .. } => {
                self.elected.set(Some(Elected { term, term_start_lsn }));
            }
            Action::Committed { lsn } => {
                self.relay.metrics.committed(lsn, self.runtime.now());
                self.committed.set(lsn);
            }
            Action::Disconnect { node, reason } => {
                self.links[&node].refuse(reason.to_string());
            }
            Action::Stop(reason) => self.end.set(Some(self.end_of(&reason))),
        }
    }

    fn end_of(&self, reason: &StopReason) -> End {
        match reason {
            StopReason::HigherTerm { .. } if self.leading.get() => End::Lost(reason.to_string()),
            reason => End::Retry(reason.to_string()),
        }
    }

    pub(super) fn wake_all(&self) {
        self.links.values().for_each(|link| link.wake.notify_all());
    }

    /// The primary's WAL was compared: from now on the acceptors get it, from `stream_from` on.
    fn begin_leading(&self, stream_from: Lsn, history: PostgresHistory) {
        *self.postgres_history.borrow_mut() = history;
        *self.window.borrow_mut() = Window::new(stream_from, WINDOW_BYTES);
        self.leading.set(true);
        self.relay.unreadable.borrow_mut().clear();
        self.relay.metrics.counters.leading.set(1);
        self.proposer.borrow_mut().release();
        self.wake_all();
    }

    async fn stream(&self, wal: PrimaryWal) -> Result<Infallible, End> {
        let transport = wal.transport();
        let watch = watch::watch(&self.runtime, &self.options.primary, wal.process_id());
        let watch = std::pin::pin!(watch);
        let receive = std::pin::pin!(self.receive(wal));
        let report = std::pin::pin!(self.report(transport));
        match select(select(receive, report), watch).await {
            Either::Left((Either::Left((end, _)) | Either::Right((end, _)), _)) => end,
            Either::Right((never, _)) => match never {},
        }
    }

    /// Takes the primary's WAL into the window.
    async fn receive(&self, mut wal: PrimaryWal) -> Result<Infallible, End> {
        loop {
            match wal.next().await? {
                WalEvent::Wal(piece) => {
                    let length_bytes = piece.len() as u64;
                    self.relay.metrics.received(wal.position(), length_bytes, self.runtime.now());
                    self.wait_for_room(length_bytes).await;
                    let end = {
                        let mut window = self.window.borrow_mut();
                        window.push(piece, self.committed.get());
                        window.end()
                    };
                    self.proposer.borrow_mut().wal_available(end);
                    self.wake_all();
                }
                WalEvent::Keepalive { reply_requested: true } => self.status_requested.notify_all(),
                WalEvent::Keepalive { .. } => {}
            }
        }
    }

    async fn wait_for_room(&self, length_bytes: u64) {
        loop {
            let committed = std::pin::pin!(self.committed.changed());
            let sent = std::pin::pin!(self.sent.notified());
            if self.has_room(length_bytes) {
                return;
            }
            select(committed, sent).await;
        }
    }

    fn has_room(&self, length_bytes: u64) -> bool {
        let (window, committed) = (self.window.borrow(), self.committed.get());
        if window.has_room(committed, length_bytes) {
            return true;
        }
        let proposer = self.proposer.borrow();
        let has_all = |id: NodeId| {
            proposer.peers().any(|(peer, status)| peer == id && status.sent_lsn >= window.end())
        };
        let uncommitted_bytes = window.end() - committed.clamp(window.start(), window.end());
        // A quorum was sent everything, and may be waiting for the rest of a record.
        uncommitted_bytes + length_bytes <= WINDOW_GROWN_BYTES_MAX
            && proposer.membership().is_quorum(has_all)
    }

    /// Reports what the quorum has: at once when it grows or the primary asks, and every second.
    async fn report(&self, transport: Transport) -> Result<Infallible, End> {
        loop {
            let changed = std::pin::pin!(self.committed.changed());
            let requested = std::pin::pin!(self.status_requested.notified());
            let lsn = self.committed.get();
            let status = FromReader::StandbyStatus {
                write: lsn,
                flush: lsn,
                apply: lsn,
                sent_at_us: self.runtime.unix_time_us() - POSTGRES_EPOCH_UNIX_US,
                reply_requested: false,
            };
            let mut out = Vec::with_capacity(64);
            out.message(b'd', |out| status.encode(out));
            transport.send(out).await.map_err(|error| End::Retry(format!("postgres: {error}")))?;
            self.relay.metrics.reported(lsn, self.runtime.now());
            let timer = std::pin::pin!(self.runtime.sleep(TICK));
            select(changed, select(requested, timer)).await;
        }
    }
}
