//! Names to addresses. The system's resolver blocks, for many seconds when its servers do not answer: it runs on threads of
//! its own, of which a shard has a bounded number. Lookups beyond that wait; each belongs to a task, which bounds them.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::mailbox::oneshot;
use super::threads;

/// Lookups of a shard at once: a few names that hang leave room for those that do not.
const LOOKUPS_MAX: usize = 4;

/// A shard's lookups.
#[derive(Debug)]
pub(super) struct Resolver {
    /// One permit for each lookup that may begin. A thread keeps its permit until it ends, whether or not anybody still
    /// waits for the answer.
    free: flume::Receiver<()>,
    give_back: flume::Sender<()>,
}

impl Default for Resolver {
    fn default() -> Resolver {
        let (give_back, free) = flume::bounded(LOOKUPS_MAX);
        (0..LOOKUPS_MAX).for_each(|_| give_back.send(()).expect("there is room for all permits"));
        Resolver { free, give_back }
    }
}

impl Resolver {
    /// The first address of `host:port`.
    pub(super) async fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        let taken = self.free.recv_async().await;
        taken.expect("permits come back: this resolver keeps both ends");
        let permit = Permit(self.give_back.clone());
        let (sender, receiver) = oneshot();
        let owned = address.to_string();
        threads::spawn("resolve", move || {
            let first = owned.to_socket_addrs().map(|mut addresses| addresses.next());
            drop(permit);
            // The task that asked may be gone.
            let _ = sender.send(first);
        })?;
        let answer = receiver.await.map_err(io::Error::other)??;
        answer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }
}

/// Comes back when dropped, also by a thread that panics or never starts.
struct Permit(flume::Sender<()>);

impl Drop for Permit {
    fn drop(&mut self) {
        // The shard may be gone.
        let _ = self.0.try_send(());
    }
}
