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
//! asked before anything is changed), [`primary`] and [`wal_stream`] (where WAL comes from), [`postgres`] (the client).

pub mod acceptor;
pub mod check;
pub mod link;
pub mod options;
pub mod postgres;
pub mod primary;
pub mod session;
pub mod survey;
pub mod wal_stream;
pub mod watch;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::runtime::{Runtime, block_on};
use options::{RelayArguments, RelayOptions};
use session::End;

/// Pause after the first failed attempt; doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Runs a relay until somebody has to act: it connects, and connects again, by itself.
///
/// # Errors
/// When the options mean nothing, the primary is not the one whose WAL the quorum holds, or another relay took over.
pub fn run(arguments: RelayArguments) -> Result<()> {
    let options = arguments.check(&|name| std::env::var(name).ok())?;
    let options = Rc::new(options);
    let reason = block_on(move |runtime| async move { follow(&runtime, &options).await })
        .context("cannot set up io_uring")?;
    Err(anyhow!(reason))
}

/// Session after session, on any runtime; gives the reason why there is no further one.
pub async fn follow(runtime: &Runtime, options: &Rc<RelayOptions>) -> String {
    let mut backoff = BACKOFF_MIN;
    let mut last_reason = String::new();
    loop {
        let led = Cell::new(false);
        let reason = match session::run(runtime, options, &|| led.set(true)).await {
            End::Stop(reason) => return reason,
            End::Retry(reason) | End::Lost { reason, .. } => reason,
        };
        if led.get() {
            backoff = BACKOFF_MIN;
        }
        if led.get() || reason != last_reason {
            tracing::warn!("{reason}; trying again");
            last_reason = reason;
        }
        runtime.sleep(jittered(runtime, backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Up to half of it more, so that two relays do not meet again and again.
fn jittered(runtime: &Runtime, pause: Duration) -> Duration {
    pause + pause.mul_f64(f64::from(runtime.random_u64() as u16) / 131_072.0)
}
