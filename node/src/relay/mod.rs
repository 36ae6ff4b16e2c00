//! The proposer for stock Postgres: follows a primary by physical replication and proposes its WAL to a quorum.
//!
//! Invariant: the primary is told that WAL is flushed only when a majority of acceptors has it on disk, and nothing that a
//! majority may have committed is ever proposed differently: before a relay writes anything, the primary's WAL is
//! compared, byte for byte, with what the quorum holds.
//!
//! Decisions are pure and live in `firn_core::relay` and `firn_core::consensus`; here is I/O only. A relay is one shard
//! without any state of its own on disk: `kill -9` and a new start are its normal course.
//!
//! Budget of a commit's way, per WAL message of the primary: one receive, shared with whatever else arrived; one copy of
//! the WAL, from the receive buffer into the piece that all acceptors share; per acceptor a header of 50 bytes and one
//! sendmsg(2) that takes the shared piece from where it lies; per answer one receive; one send of the status as soon as a
//! quorum has it. Allocations: the piece, and per acceptor header and message. All that is ready in one turn of the shard
//! shares its `io_uring_enter`: a lone commit takes about six of them. TLS to the primary adds one copy to decrypt.
//!
//! Read first: [`session`] (the order of things), then [`link`] (an acceptor's stream), [`survey`] and [`check`] (what is
//! asked before anything is changed), [`primary`] and [`wal_stream`] (where WAL comes from), [`members_wal`] (the quorum's log,
//! from whichever member can give it), [`postgres`] (the client), [`metrics`].

pub mod acceptor;
pub mod check;
pub mod link;
pub mod members_wal;
pub mod metrics;
pub mod options;
pub mod postgres;
pub mod primary;
pub mod session;
pub mod survey;
pub mod wal_stream;
pub mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use firn_core::types::{NodeId, Term};
use thiserror::Error;

use crate::control::relay_metrics;
use crate::control::server::Control;
use crate::runtime::{Runtime, TaskClass, block_on, mailbox};
use metrics::RelayMetrics;
use options::RelayOptions;
use session::End;

/// Pause after the first failed attempt; doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why a relay ends by itself: somebody has to act before it is started again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Stop {
    /// Another relay or a fence took the timeline over.
    #[error("{0}")]
    Superseded(String),
    /// This primary, or the way it is set, cannot be followed.
    #[error("{0}")]
    Refused(String),
}

impl Stop {
    /// The process' exit status. A supervisor that takes part in no fight tells these from 1, after which it may start
    /// the relay again.
    pub fn exit_status(&self) -> u8 {
        match self {
            Stop::Superseded(_) => 3,
            Stop::Refused(_) => 4,
        }
    }
}

/// Runs a relay until somebody has to act: it connects, and connects again, by itself.
///
/// # Errors
/// When the metrics port is in use, or io_uring cannot be set up.
pub fn run(options: RelayOptions) -> Result<Stop> {
    let (scrapes, scraped) = mailbox(relay_metrics::SCRAPES_MAX);
    if let Some(address) = options.http {
        let control = Control::bind(address).context("--http")?;
        tracing::info!(http = %control.local_addr()?, "metrics are served");
        control.start(relay_metrics::router(scrapes), || ())?;
    }
    let options = Rc::new(options);
    let stopped = block_on(move |runtime| async move {
        let relay = Relay::new(&runtime, &options);
        let metrics = relay.metrics.clone();
        let serving = async move { metrics.serve(scraped).await };
        let _serving = runtime.spawn(TaskClass::Background, serving);
        relay.follow().await
    });
    stopped.context("cannot set up io_uring")
}

/// A relay's process: what outlives its sessions. Lives on the relay's one shard.
pub struct Relay {
    runtime: Runtime,
    options: Rc<RelayOptions>,
    metrics: Rc<RelayMetrics>,
    /// Whether commits could be acknowledged by now: from then on a higher term is another's.
    has_led: Cell<bool>,
    /// The highest term that was ours, if only in a campaign.
    own_term: Cell<Term>,
    /// Members that could not give WAL that nobody else has: the next election does without them if it can.
    unreadable: RefCell<BTreeSet<NodeId>>,
}

impl Relay {
    /// A relay that did nothing yet.
    pub fn new(runtime: &Runtime, options: &Rc<RelayOptions>) -> Relay {
        Relay {
            runtime: runtime.clone(),
            options: options.clone(),
            metrics: Rc::default(),
            has_led: Cell::new(false),
            own_term: Cell::new(Term(0)),
            unreadable: RefCell::default(),
        }
    }

    /// Session after session, on any runtime; gives the reason why there is no further one.
    pub async fn follow(self) -> Stop {
        let relay = Rc::new(self);
        let mut backoff = BACKOFF_MIN;
        let mut last_reason = String::new();
        loop {
            let led = Cell::new(false);
            let reason = match session::run(&relay, &led).await {
                End::Stop(stop) => return stop,
                End::Retry(reason) | End::Lost(reason) => reason,
            };
            if led.get() {
                backoff = BACKOFF_MIN;
            }
            if led.get() || reason != last_reason {
                tracing::warn!("{reason}; trying again");
                last_reason = reason;
            }
            relay.runtime.sleep(jittered(&relay.runtime, backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// Up to half of it more, so that two relays do not meet again and again.
fn jittered(runtime: &Runtime, pause: Duration) -> Duration {
    pause + pause.mul_f64(f64::from(runtime.random_u64() as u16) / 131_072.0)
}
