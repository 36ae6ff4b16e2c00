//! The connections of one shard: how many there are, and which of them went silent.
//!
//! Invariant: an entry lives exactly as long as its connection's task. A silent connection is shut down at the socket,
//! which its task sees as the peer's end; no receive is ever abandoned half-way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use firn_core::types::TimelineKey;
use thiserror::Error;

use crate::runtime::{MonotonicTime, Runtime, Stream};
use crate::wal_service::receive::RECEIVE_BYTES;

/// Connections of one shard: 5,000 of a node's tenants, should they all fall on it, and some more.
pub const CONNECTIONS_MAX: usize = 6000;

/// What the receive buffers of a shard's connections may have together beyond [`RECEIVE_BYTES`] each: those of two
/// thousand connections that have received the longest append, or of 256 that have received the longest message. A
/// connection keeps what it took until it ends.
const LONG_MESSAGES_BYTES_MAX: usize = 256 << 20;

/// A connection that sends nothing for this long is dropped, as the reference acceptor does. Proposers and readers
/// send something at least every ten seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Startup and authentication take a few round trips.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often silent connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The open connections of a shard.
#[derive(Debug, Clone)]
pub struct Connections(Rc<Registry>);

#[derive(Debug)]
struct Registry {
    runtime: Runtime,
    next_id: Cell<u64>,
    open: RefCell<BTreeMap<u64, Rc<Entry>>>,
    /// Of [`LONG_MESSAGES_BYTES_MAX`].
    long_messages_bytes: Cell<usize>,
}

#[derive(Debug)]
struct Entry {
    stream: Stream,
    timeout: Cell<Duration>,
    heard_at: Cell<MonotonicTime>,
    timeline: Cell<Option<TimelineKey>>,
}

/// A connection's share of the memory for long messages; dropping it gives it back.
#[derive(Debug)]
pub struct Room {
    registry: Rc<Registry>,
    taken_bytes: usize,
}

/// Too many connections are in the middle of long messages.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no room for a message of {wanted_bytes} bytes: this shard's connections hold {held_bytes} of {LONG_MESSAGES_BYTES_MAX} bytes"
)]
pub struct NoRoom {
    wanted_bytes: usize,
    held_bytes: usize,
}

impl Room {
    /// Makes sure of a receive buffer of this many bytes.
    ///
    /// # Errors
    /// If the other connections of the shard leave no room for it.
    pub fn grow_to(&mut self, wanted_bytes: usize) -> Result<(), NoRoom> {
        let beyond = wanted_bytes.saturating_sub(RECEIVE_BYTES);
        if beyond <= self.taken_bytes {
            return Ok(());
        }
        let held_bytes = self.registry.long_messages_bytes.get();
        let held_then = held_bytes - self.taken_bytes + beyond;
        if held_then > LONG_MESSAGES_BYTES_MAX {
            return Err(NoRoom { wanted_bytes, held_bytes });
        }
        self.registry.long_messages_bytes.set(held_then);
        self.taken_bytes = beyond;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let held = &self.registry.long_messages_bytes;
        held.set(held.get() - self.taken_bytes);
    }
}

/// A connection's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    registry: Rc<Registry>,
    id: u64,
    entry: Rc<Entry>,
}

impl Connections {
    /// No connections.
    pub fn new(runtime: &Runtime) -> Connections {
        Connections(Rc::new(Registry {
            runtime: runtime.clone(),
            next_id: Cell::new(1),
            open: RefCell::new(BTreeMap::new()),
            long_messages_bytes: Cell::new(0),
        }))
    }

    /// Takes a place for a connection that has yet to authenticate; `None` when all are taken.
    pub fn enter(&self, stream: &Stream) -> Option<Place> {
        let mut open = self.0.open.borrow_mut();
        if open.len() >= CONNECTIONS_MAX {
            return None;
        }
        let id = self.0.next_id.replace(self.0.next_id.get() + 1);
        let entry = Rc::new(Entry {
            stream: stream.clone(),
            timeout: Cell::new(STARTUP_TIMEOUT),
            heard_at: Cell::new(self.0.runtime.now()),
            timeline: Cell::new(None),
        });
        open.insert(id, entry.clone());
        Some(Place { registry: self.0.clone(), id, entry })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.open.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the connections of a timeline.
    pub async fn shut_down_timeline(&self, key: TimelineKey) {
        self.shut_down_where(|entry| entry.timeline.get() == Some(key)).await;
    }

    /// Ends silent connections, for ever.
    pub async fn sweep(self) {
        loop {
            self.0.runtime.sleep(SWEEP_INTERVAL).await;
            let now = self.0.runtime.now();
            self.shut_down_where(|entry| now - entry.heard_at.get() > entry.timeout.get()).await;
        }
    }

    async fn shut_down_where(&self, silent: impl Fn(&Entry) -> bool) {
        let streams: Vec<Stream> = {
            let open = self.0.open.borrow();
            open.values().filter(|e| silent(e)).map(|entry| entry.stream.clone()).collect()
        };
        for stream in streams {
            // An error means that the connection is gone already.
            let _ = stream.shutdown(Shutdown::Both).await;
        }
    }
}

impl Place {
    /// The node's number of the connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection's share of the memory for long messages, nothing of it taken.
    pub fn room(&self) -> Room {
        Room { registry: self.registry.clone(), taken_bytes: 0 }
    }

    /// Notes that the peer sent something.
    pub fn heard(&self) {
        self.entry.heard_at.set(self.registry.runtime.now());
    }

    /// Notes that the peer has authenticated: from now on it may be silent for longer.
    pub fn authenticated(&self) {
        self.entry.timeout.set(IDLE_TIMEOUT);
        self.heard();
    }

    /// Notes the timeline that the connection serves.
    pub fn serves(&self, key: TimelineKey) {
        self.entry.timeline.set(Some(key));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.open.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::block_on;

    #[test]
    fn long_messages_share_a_bound() {
        block_on(|runtime| async move {
            let registry = Connections::new(&runtime).0;
            let room = || Room { registry: registry.clone(), taken_bytes: 0 };
            let mut first = room();
            first.grow_to(RECEIVE_BYTES).unwrap();
            assert_eq!(registry.long_messages_bytes.get(), 0);
            first.grow_to(RECEIVE_BYTES + LONG_MESSAGES_BYTES_MAX - 10).unwrap();
            let mut second = room();
            second.grow_to(RECEIVE_BYTES + 10).unwrap();
            let refused = second.grow_to(RECEIVE_BYTES + 11).unwrap_err();
            assert_eq!(refused.held_bytes, LONG_MESSAGES_BYTES_MAX);
            // A buffer does not shrink while its connection lives.
            first.grow_to(1).unwrap();
            assert!(second.grow_to(RECEIVE_BYTES + 11).is_err());
            drop(first);
            second.grow_to(RECEIVE_BYTES + 11).unwrap();
            drop(second);
            assert_eq!(registry.long_messages_bytes.get(), 0);
        })
        .unwrap();
    }
}
