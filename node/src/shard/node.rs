//! How a node's shards start and find each other, without threads or sockets of their own: the caller runs each shard
//! on a runtime, real or simulated.
//!
//! Shard 0 takes the data directory and the listening port; the others wait for it. Nothing is served before every
//! shard has recovered its journal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_core::journal::segment::JournalNumber;
use firn_core::types::NodeId;
use firn_core::wire::walproposer::APPEND_BYTES_MAX;
use thiserror::Error;

use crate::config::identity::{DataDirectory, IdentityError};
use crate::credentials::Credentials;
use crate::journal::{Journal, JournalOptions, OpenError, open_layout};
use crate::peers::{catch_up, exchange};
use crate::runtime::{
    Listener, Mailbox, MailboxSender, OneshotReceiver, OneshotSender, Runtime, TaskClass, mailbox,
    oneshot,
};
use crate::shard::request::{NodeHandle, REQUESTS_MAX, Request};
use crate::shard::{Shard, management, reseed};
use crate::wal_service::listener;

/// How long a port in use is waited for at start.
const LISTEN_PATIENCE: Duration = Duration::from_secs(3);
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What a node is told at its start.
pub struct NodeOptions {
    /// Data directory.
    pub data: PathBuf,
    /// `host:port` of the Postgres port; port 0 takes a free one.
    pub listen: String,
    /// The node id that the directory must have, or gets when it is new.
    pub node_id: Option<NodeId>,
    /// What the node shows and trusts.
    pub credentials: Arc<Credentials>,
    /// Whether the Postgres port refuses clients without TLS.
    pub tls_required: bool,
    /// Token that this node shows to other acceptors.
    pub auth_token: Option<String>,
    /// Sizes of each shard's journal.
    pub journal: JournalOptions,
}

/// Why a node does not start. Its text is the one line that its user gets.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A shard's journal.
    #[error("shard {shard}: {source}")]
    Journal {
        /// The shard.
        shard: usize,
        /// Why.
        source: OpenError,
    },
    /// The Postgres port.
    #[error(transparent)]
    Listen(#[from] io::Error),
    /// Another shard failed; its own error says more.
    #[error("another shard did not start")]
    OtherShard,
}

/// What one shard starts with. Goes to the shard's thread.
pub struct ShardStart {
    number: usize,
    options: Arc<NodeOptions>,
    mailbox: Mailbox<Request>,
    senders: Vec<MailboxSender<Request>>,
    identity: Identity,
    started: OneshotSender<Result<Started, StartError>>,
}

enum Identity {
    /// Shard 0 tells the others.
    Tells(Vec<OneshotSender<(NodeId, JournalNumber)>>),
    Hears(OneshotReceiver<(NodeId, JournalNumber)>),
}

/// What a shard says when it serves.
struct Started {
    node: NodeHandle,
    /// Of shard 0.
    listen: Option<SocketAddr>,
}

/// Shards that are starting.
pub struct Starting(Vec<OneshotReceiver<Result<Started, StartError>>>);

/// A node that serves.
#[derive(Debug, Clone)]
pub struct RunningNode {
    /// The way to its shards.
    pub node: NodeHandle,
    /// Where it listens.
    pub listen: SocketAddr,
}

/// What `shards` shards start with, in the order of their numbers.
pub fn prepare(options: NodeOptions, shards: usize) -> (Vec<ShardStart>, Starting) {
    assert!(shards > 0, "a node has a shard");
    let journal_takes = options.journal.append_bytes_max;
    assert!(
        journal_takes >= APPEND_BYTES_MAX,
        "the journal takes every append that peers may send"
    );
    let options = Arc::new(options);
    let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox(REQUESTS_MAX)).unzip();
    let (tells, hears): (Vec<_>, Vec<_>) = (1..shards).map(|_| oneshot()).unzip();
    let (started, starting): (Vec<_>, Vec<_>) = (0..shards).map(|_| oneshot()).unzip();
    let identities =
        std::iter::once(Identity::Tells(tells)).chain(hears.into_iter().map(Identity::Hears));
    let starts = mailboxes.into_iter().zip(identities).zip(started).enumerate().map(
        |(number, ((mailbox, identity), started))| ShardStart {
            number,
            options: options.clone(),
            mailbox,
            senders: senders.clone(),
            identity,
            started,
        },
    );
    (starts.collect(), Starting(starting))
}

impl Starting {
    /// Waits until every shard serves, or the first error.
    pub async fn wait(self) -> Result<RunningNode, StartError> {
        let mut first = None;
        let mut other_shard = false;
        for starting in self.0 {
            match starting.await {
                Ok(Ok(started)) => {
                    first.get_or_insert(started);
                }
                Ok(Err(StartError::OtherShard)) | Err(_) => other_shard = true,
                Ok(Err(error)) => return Err(error),
            }
        }
        match first {
            Some(Started { node, listen: Some(listen) }) if !other_shard => {
                Ok(RunningNode { node, listen })
            }
            _ => Err(StartError::OtherShard),
        }
    }
}

/// Hands each shard's thread what it starts with.
pub struct ShardStarts(Mutex<Vec<Option<ShardStart>>>);

impl ShardStarts {
    /// For threads that know their shard's number.
    pub fn new(starts: Vec<ShardStart>) -> ShardStarts {
        ShardStarts(Mutex::new(starts.into_iter().map(Some).collect()))
    }

    /// What a shard starts with, once.
    pub fn take(&self, shard: usize) -> ShardStart {
        let mut starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        starts[shard].take().expect("each shard starts once")
    }
}

/// Runs one shard until the process ends, or at once returns when it cannot start.
pub async fn run_shard(runtime: Runtime, start: ShardStart) {
    run_watched_shard(runtime, start, |_| {}).await;
}

/// As [`run_shard`]; whoever watches gets the shard once its journal is recovered, before it serves anything.
pub async fn run_watched_shard(runtime: Runtime, start: ShardStart, opened: impl FnOnce(&Shard)) {
    let ShardStart { number, options, mailbox, senders, identity, started } = start;
    let recovered = open(&runtime, number, &options, senders, identity).await;
    let (directory, shard, listener) = match recovered {
        Ok(recovered) => recovered,
        Err(error) => {
            // Whoever started the node may be gone.
            let _ = started.send(Err(error));
            return;
        }
    };
    opened(&shard);
    let listen = listener.as_ref().map(|listener| listener.local_addr());
    if let Some(listener) = listener {
        let accepting = listener::accept(shard.clone(), listener);
        runtime.spawn(TaskClass::Latency, accepting).detach();
    }
    let sweeping = shard.connections().clone().sweep();
    runtime.spawn(TaskClass::Background, sweeping).detach();
    runtime.spawn(TaskClass::Background, reseed::watch(shard.clone())).detach();
    runtime.spawn(TaskClass::Background, catch_up::watch(shard.clone())).detach();
    if number == 0 {
        runtime.spawn(TaskClass::Background, exchange::run(shard.clone())).detach();
    }
    // Whoever started the node may be gone.
    let _ = started.send(Ok(Started { node: shard.node().clone(), listen }));
    management::serve(shard, mailbox).await;
    drop(directory);
}

/// Listens, also when the port is not free yet: the kernel takes a killed process' ring apart, and with it the listening
/// socket, a moment after the process is gone.
async fn listen(runtime: &Runtime, address: &str) -> io::Result<Listener> {
    let deadline = runtime.now() + LISTEN_PATIENCE;
    loop {
        match runtime.listen(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && runtime.now() < deadline => {
                runtime.sleep(LISTEN_RETRY_INTERVAL).await;
            }
            result => return result,
        }
    }
}

type Opened = (Option<DataDirectory>, Shard, Option<Listener>);

async fn open(
    runtime: &Runtime,
    number: usize,
    options: &Arc<NodeOptions>,
    senders: Vec<MailboxSender<Request>>,
    identity: Identity,
) -> Result<Opened, StartError> {
    let failed = |source| StartError::Journal { shard: number, source };
    let (node_id, journal_number, directory, listener) = match identity {
        Identity::Tells(tells) => {
            let directory = DataDirectory::open(runtime, &options.data, options.node_id).await?;
            // The port before the journal: a port in use is told at once, not after a recovery.
            let listener = listen(runtime, &options.listen).await?;
            let shards = u32::try_from(senders.len()).expect("a node has a few hundred shards");
            let layout = open_layout(runtime, &options.data, shards).await.map_err(failed)?;
            let node_id = directory.node_id;
            for (tell, journal) in tells.into_iter().zip(&layout.journals[1..]) {
                tell.send((node_id, *journal)).map_err(|_| StartError::OtherShard)?;
            }
            (node_id, layout.journals[0], Some(directory), Some(listener))
        }
        Identity::Hears(hears) => {
            let (node_id, journal) = hears.await.map_err(|_| StartError::OtherShard)?;
            (node_id, journal, None, None)
        }
    };
    let opening = Journal::open(runtime, &options.data, journal_number, options.journal.clone());
    let (journal, report) = opening.await.map_err(failed)?;
    let node = NodeHandle::new(node_id, senders);
    let shard = Shard::new(number, runtime, node, options.clone(), journal);
    tracing::info!(shard = number, timelines = shard.keys().len(), ?report, "journal recovered");
    Ok((directory, shard, listener))
}
