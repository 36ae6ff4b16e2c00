//! The tasks that carry frames to the device: one per write in flight, so that nothing is allocated per frame; and the
//! sealer.

use std::rc::Rc;
use std::time::Duration;

use firn_core::journal::INFLIGHT_MAX;
use firn_core::journal::entry::Entry;

use super::shared::Shared;
use crate::runtime::{Task, TaskClass};

/// How long the journal is idle before the last frame gets its witness.
const SEAL_AFTER: Duration = Duration::from_millis(1);

/// Starts the lanes and the sealer.
pub(super) fn start(shared: &Rc<Shared>) -> Vec<Task<()>> {
    let mut tasks = Vec::new();
    for _ in 0..INFLIGHT_MAX {
        tasks.push(shared.runtime.spawn(TaskClass::Latency, lane(shared.clone())));
    }
    tasks.push(shared.runtime.spawn(TaskClass::Latency, sealer(shared.clone())));
    tasks
}

async fn lane(shared: Rc<Shared>) {
    while let Some(work) = shared.next_work().await {
        let started = shared.runtime.now();
        shared.note_formed(started);
        // More may be waiting than this one write takes. (A lane woken for nothing would cost a turn of the ring.)
        if shared.has_work() {
            shared.wake_lane();
        }
        let (result, buffer) = work.file.write_durable_at(work.buffer, work.offset_bytes).await;
        shared.device_latencies.record(shared.runtime.now() - started);
        match result {
            Ok(()) => shared.complete(work.number, buffer),
            Err(error) => shared.poison(work.stage, error),
        }
    }
}

/// Writes an empty frame when the last one has no witness and nothing came for [`SEAL_AFTER`]. Looks once per
/// [`SEAL_AFTER`] at most, however many frames there are.
async fn sealer(shared: Rc<Shared>) {
    while shared.check_poison().is_ok() {
        let woken = shared.wake_sealer.notified();
        if !shared.log.borrow().wants_seal() {
            woken.await;
            continue;
        }
        let entries = shared.entries();
        shared.runtime.sleep(SEAL_AFTER).await;
        if shared.entries() == entries && shared.log.borrow().wants_seal() {
            // Only a journal that failed refuses a seal.
            let _ = shared.push(&Entry::Seal);
        }
    }
}
