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

use crate::runtime::{MonotonicTime, Runtime, Stream};

/// Connections of one shard. With receive buffers of at most 1 MiB each they stay within 1 GiB.
pub const CONNECTIONS_MAX: usize = 1024;

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
}

#[derive(Debug)]
struct Entry {
    stream: Stream,
    timeout: Cell<Duration>,
    heard_at: Cell<MonotonicTime>,
    timeline: Cell<Option<TimelineKey>>,
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
