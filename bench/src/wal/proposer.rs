//! One timeline's proposer: is elected by all targets, keeps as many appends outstanding as it may, times each.
//!
//! A sending and a receiving task per target share [`Timeline`]. Whatever makes room or time for appends calls
//! [`Timeline::issue`], which puts their bytes into every target's outgoing buffer; the sending task takes all that is
//! there at once. Outgoing bytes are bounded by the outstanding appends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::{Generation, Lsn, PostgresVersion, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::walproposer::{
    AcceptorMessage, AppendRequest, ProposerElected, ProposerGreeting, ProposerMessage,
    ProtocolVersion, VoteRequest,
};
use firn_node::runtime::sync::Notify;
use firn_node::runtime::{MonotonicTime, Runtime, Stream, Task, TaskClass};
use firn_node::wal_service::client::AcceptorClient;

use super::options::Load;
use super::source::{SEGMENT_BYTES, VERSION, WalSource};

/// Where every timeline's WAL begins: behind the first segment, as initdb leaves it.
const START: Lsn = Lsn(SEGMENT_BYTES as u64);
/// How often a timeline's proposer looks for a connection that broke.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What one acknowledged append tells: since when it was due, and when its acknowledgement came.
pub type Acknowledge = Rc<dyn Fn(MonotonicTime, MonotonicTime)>;

/// A timeline that an elected proposer may push to.
pub struct Timeline {
    runtime: Runtime,
    load: Load,
    generation: Cell<Generation>,
    term: Cell<Term>,
    clients: Vec<Client>,
    state: RefCell<State>,
    acknowledge: Acknowledge,
}

struct Client {
    stream: Stream,
    receiving: Cell<Option<AcceptorClient>>,
    /// There is something to send.
    wake: Notify,
    outgoing: RefCell<Vec<u8>>,
}

struct State {
    source: WalSource,
    /// End of each unacknowledged append, and when it was due.
    outstanding: VecDeque<(Lsn, MonotonicTime)>,
    /// What each target says it has flushed.
    flushed: Vec<Lsn>,
    commit_lsn: Lsn,
    pace: Pace,
    /// The WAL of one append.
    piece: Vec<u8>,
}

/// When the next append is due.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Not before the load begins, and not after it ends.
    Never,
    /// As soon as there is room.
    AtOnce { until: MonotonicTime },
    /// At moments fixed before.
    Every { next: MonotonicTime, interval: Duration, until: MonotonicTime },
}

impl Timeline {
    /// Connects to all targets and is elected by them.
    pub async fn elect(
        runtime: &Runtime,
        targets: &[String],
        token: Option<&str>,
        key: TimelineKey,
        load: &Load,
        acknowledge: Acknowledge,
    ) -> anyhow::Result<Rc<Timeline>> {
        let version = load.protocol;
        let mut clients = Vec::new();
        let mut highest = (Generation(0), Term(0));
        for target in targets {
            let name = || format!("target {target}");
            let client =
                AcceptorClient::connect(runtime, target, Some(key), "firn-bench", token, None);
            let mut client = client.await.with_context(name)?;
            let number = version.number();
            let options = format!("(proto_version '{number}', allow_timeline_creation 'true')");
            client.start_copy(&format!("START_WAL_PUSH {options}")).await.with_context(name)?;
            send(&client.sender(), version, &greeting(key)).await.with_context(name)?;
            match receive(&mut client, version).await.with_context(name)? {
                AcceptorMessage::Greeting(greeting) => {
                    highest.0 = highest.0.max(greeting.membership.generation);
                    highest.1 = highest.1.max(greeting.term);
                }
                other => anyhow::bail!("target {target}: expected a greeting, found {other:?}"),
            }
            clients.push(client);
        }
        let (generation, term) = (highest.0, Term(highest.1.0 + 1));
        for (client, target) in clients.iter_mut().zip(targets) {
            let name = || format!("target {target}");
            let request = ProposerMessage::VoteRequest(VoteRequest { generation, term });
            send(&client.sender(), version, &request).await.with_context(name)?;
            match receive(client, version).await.with_context(name)? {
                AcceptorMessage::VoteResponse(vote) => {
                    anyhow::ensure!(vote.vote_given, "target {target}: refused its vote in {term}");
                    let empty = !vote.flush_lsn.is_valid();
                    anyhow::ensure!(empty, "target {target}: the new timeline {key} has WAL");
                }
                other => anyhow::bail!("target {target}: expected a vote, found {other:?}"),
            }
        }
        for client in &clients {
            let elected = ProposerMessage::Elected(ProposerElected {
                generation,
                term,
                start_streaming_at: START,
                term_history: TermHistory(vec![TermStart { term, lsn: START }]),
            });
            send(&client.sender(), version, &elected).await?;
        }
        let flushed = vec![Lsn(0); clients.len()];
        let client = |client: AcceptorClient| Client {
            stream: client.sender(),
            receiving: Cell::new(Some(client)),
            wake: Notify::new(),
            outgoing: RefCell::default(),
        };
        Ok(Rc::new(Timeline {
            runtime: runtime.clone(),
            load: load.clone(),
            generation: Cell::new(generation),
            term: Cell::new(term),
            clients: clients.into_iter().map(client).collect(),
            state: RefCell::new(State {
                source: WalSource::new(system_id(key), START),
                outstanding: VecDeque::with_capacity(load.outstanding),
                flushed,
                commit_lsn: Lsn(0),
                pace: Pace::Never,
                piece: Vec::with_capacity(load.size_bytes),
            }),
            acknowledge,
        }))
    }

    /// Pushes from `start` to `until`, then waits at most `patience` for what is outstanding. `place` of `of`: this
    /// timeline's among all, which spreads open-loop appends evenly over time.
    pub async fn push(
        self: &Rc<Self>,
        (start, until): (MonotonicTime, MonotonicTime),
        (place, of): (usize, usize),
        patience: Duration,
    ) -> anyhow::Result<()> {
        let mut tasks: Vec<Task<anyhow::Result<()>>> = Vec::new();
        for target in 0..self.clients.len() {
            let (sender, receiver) = (self.clone(), self.clone());
            tasks.push(
                self.runtime
                    .spawn(TaskClass::Latency, async move { sender.send_all(target).await }),
            );
            tasks.push(
                self.runtime
                    .spawn(TaskClass::Latency, async move { receiver.receive_all(target).await }),
            );
        }
        self.runtime.sleep_until(start).await;
        match self.load.rate_per_s {
            None => self.state.borrow_mut().pace = Pace::AtOnce { until },
            Some(rate) => {
                let interval = Duration::from_secs_f64(of as f64 / rate);
                let next = start + interval.mul_f64(place as f64 / of as f64);
                self.state.borrow_mut().pace = Pace::Every { next, interval, until };
            }
        }
        let deadline = until + patience;
        loop {
            let now = self.runtime.now();
            let next = self.issue(now);
            if now >= until && self.state.borrow().outstanding.is_empty() {
                break;
            }
            if let Some(ended) = tasks.iter().position(Task::is_finished) {
                tasks.swap_remove(ended).await?;
                anyhow::bail!("an acceptor closed the connection");
            }
            let left = self.state.borrow().outstanding.len();
            anyhow::ensure!(now < deadline, "{left} appends were not acknowledged in {patience:?}");
            // Room is made by acknowledgements, which issue by themselves; here only time matters.
            let watch = now + WATCH_INTERVAL;
            self.runtime.sleep_until(next.map_or(watch, |next| next.min(watch))).await;
        }
        Ok(())
    }

    /// Puts all appends that are due and have room into the outgoing buffers. Returns when the next is due, if that is
    /// only a matter of time.
    fn issue(&self, now: MonotonicTime) -> Option<MonotonicTime> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut issued = false;
        let next = loop {
            if state.outstanding.len() >= self.load.outstanding {
                break None;
            }
            let due = match &mut state.pace {
                Pace::AtOnce { until } if now < *until => now,
                Pace::Every { next, interval, until } if *next < *until => {
                    if *next > now {
                        break Some(*next);
                    }
                    let due = *next;
                    *next = due + *interval;
                    due
                }
                _ => break None,
            };
            self.put_append(state, due);
            issued = true;
        };
        if issued {
            self.clients.iter().for_each(|client| client.wake.notify_all());
        }
        next
    }

    fn put_append(&self, state: &mut State, due: MonotonicTime) {
        state.piece.clear();
        let begin_lsn = state.source.position();
        if self.load.size_bytes > 0 {
            state.source.next(self.load.size_bytes, &mut state.piece);
        }
        let message = ProposerMessage::Append(AppendRequest {
            generation: self.generation.get(),
            term: self.term.get(),
            begin_lsn,
            commit_lsn: state.commit_lsn,
            truncate_lsn: Lsn(0),
            wal: &state.piece,
        });
        for client in &self.clients {
            let mut outgoing = client.outgoing.borrow_mut();
            outgoing.message(b'd', |out| message.encode(self.load.protocol, out));
        }
        state.outstanding.push_back((state.source.position(), due));
    }

    async fn send_all(&self, target: usize) -> anyhow::Result<()> {
        let client = &self.clients[target];
        let mut sending = Vec::new();
        loop {
            let woken = client.wake.notified();
            std::mem::swap(&mut *client.outgoing.borrow_mut(), &mut sending);
            if sending.is_empty() {
                woken.await;
                continue;
            }
            let (result, buffer) = client.stream.send_all(sending).await;
            sending = buffer;
            sending.clear();
            result.context("send")?;
        }
    }

    async fn receive_all(&self, target: usize) -> anyhow::Result<()> {
        let client = self.clients[target].receiving.take();
        let mut client = client.expect("a target's answers are received by one task");
        loop {
            match receive(&mut client, self.load.protocol).await? {
                AcceptorMessage::AppendResponse(response) => {
                    let (expected, found) = (self.term.get(), response.term);
                    anyhow::ensure!(found <= expected, "another proposer has term {found}");
                    self.flushed(target, response.flush_lsn);
                }
                other => anyhow::bail!("expected an append response, found {other:?}"),
            }
        }
    }

    /// A target has flushed up to here: acknowledges what a majority has, and issues more.
    fn flushed(&self, target: usize, flush_lsn: Lsn) {
        let now = self.runtime.now();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.flushed[target] = state.flushed[target].max(flush_lsn);
            let majority = |lsn: Lsn| {
                2 * state.flushed.iter().filter(|flushed| **flushed >= lsn).count()
                    > state.flushed.len()
            };
            let highest = state.flushed.iter().copied().filter(|lsn| majority(*lsn)).max();
            state.commit_lsn = state.commit_lsn.max(highest.unwrap_or_default());
            let heartbeats = self.load.size_bytes == 0;
            while let Some((end, due)) = state.outstanding.front().copied() {
                // Heartbeats move nothing: any answer is an answer to all that wait.
                if end > state.commit_lsn && !heartbeats {
                    break;
                }
                state.outstanding.pop_front();
                (self.acknowledge)(due, now);
            }
        }
        self.issue(now);
    }
}

fn greeting(key: TimelineKey) -> ProposerMessage<'static> {
    ProposerMessage::Greeting(ProposerGreeting {
        key,
        membership: Membership::default(),
        postgres_version: PostgresVersion(VERSION.major() * 10_000),
        system_id: system_id(key),
        segment_size_bytes: SEGMENT_BYTES,
    })
}

/// A cluster's number must be some number: its timeline's first half is one.
fn system_id(key: TimelineKey) -> SystemId {
    let bytes = key.timeline_id.0.0.first_chunk().copied().expect("an id has 16 bytes");
    SystemId(u64::from_be_bytes(bytes) | 1)
}

async fn send(
    stream: &Stream,
    version: ProtocolVersion,
    message: &ProposerMessage<'_>,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    bytes.message(b'd', |out| message.encode(version, out));
    stream.send_all(bytes).await.0.context("send")
}

async fn receive(
    client: &mut AcceptorClient,
    version: ProtocolVersion,
) -> anyhow::Result<AcceptorMessage> {
    Ok(AcceptorMessage::decode(version, client.next_data().await?)?)
}
