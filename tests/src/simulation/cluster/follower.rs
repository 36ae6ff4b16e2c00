//! Reads a node's committed log as it grows, through the node's own code, on the node's own shard: as whatever consumes WAL
//! on a node does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::types::{Lsn, TimelineKey};
use firn_node::runtime::TaskClass;
use firn_node::shard::Shard;
use futures_util::future::{Either, select};

/// WAL read at once.
const READ_BYTES: usize = 256 * 1024;
/// Pause while there is nothing to read from: no timeline, or a journal that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Committed bytes that a node gave out.
pub type Read = (Lsn, Vec<u8>);

/// Follows from `from` on, or from the first byte that is there, until the process ends.
pub fn follow(shard: &Shard, key: TimelineKey, from: Lsn, reads: Rc<RefCell<Vec<Read>>>) {
    let own = shard.clone();
    shard.runtime().spawn(TaskClass::Background, run(own, key, from, reads)).detach();
}

async fn run(shard: Shard, key: TimelineKey, from: Lsn, reads: Rc<RefCell<Vec<Read>>>) {
    let mut position = from;
    loop {
        if let Ok(timeline) = shard.timeline(key)
            && shard.durable_state(key).is_some()
            && !shard.is_suspect(key)
        {
            let start = timeline.with_acceptor(|acceptor| acceptor.state().local_start_lsn);
            position = position.max(start);
            let changed = timeline.changed();
            let end = timeline.positions().commit_lsn;
            if position >= end {
                let pause = std::pin::pin!(shard.runtime().sleep(PAUSE));
                let (Either::Left(_) | Either::Right(_)) =
                    select(std::pin::pin!(changed), pause).await;
                continue;
            }
            let length = READ_BYTES.min((end - position) as usize);
            if let Ok(bytes) = timeline.read_wal(position, length).await
                && !timeline.is_deleted()
                && !bytes.is_empty()
            {
                let read = (position, bytes);
                position = position + read.1.len() as u64;
                reads.borrow_mut().push(read);
                continue;
            }
        } else {
            // What is made anew begins anew.
            position = Lsn::INVALID;
        }
        shard.runtime().sleep(PAUSE).await;
    }
}
