//! Keeps segments ready: files whose use has ended, and new ones, preallocated and filled with zeroes so that a frame's
//! write changes no metadata.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::options::JournalOptions;
use super::ring::{SPARES, Spare};
use super::shared::Shared;
use crate::runtime::{Buffer, OpenOptions, Runtime};

/// Bytes of zeroes per write: short enough to leave the device to frames in between.
const FILL_BYTES: usize = 256 << 10;

/// How long a full disk is left alone before the next attempt to make a file.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The name of a segment file.
pub(super) fn segment_name(number: u32) -> String {
    format!("SEGMENT-{number:06}")
}

/// Runs until the journal fails.
pub(super) async fn prepare(shared: Rc<Shared>) {
    while shared.check_poison().is_ok() {
        let woken = shared.wake_preparer.notified();
        match next(&shared) {
            Step::Wait => woken.await,
            Step::Reuse(name) => reuse(&shared, name).await,
            Step::Make(number) => make(&shared, number).await,
        }
    }
}

enum Step {
    Wait,
    Reuse(String),
    Make(u32),
}

fn next(shared: &Shared) -> Step {
    let mut ring = shared.ring.borrow_mut();
    let may_grow = ring.files() < shared.options.segments_max;
    // After a full disk the ring grows again as soon as it can, wanted or not: others count on that room.
    if ring.spares.len() >= SPARES && !(ring.cannot_grow && may_grow) {
        return Step::Wait;
    }
    if let Some(name) = ring.free.pop() {
        return Step::Reuse(name);
    }
    if may_grow {
        ring.next_file += 1;
        return Step::Make(ring.next_file - 1);
    }
    Step::Wait
}

async fn reuse(shared: &Shared, name: String) {
    match shared.runtime.open(shared.path(&name), OpenOptions::read_write()).await {
        Ok(file) => add(shared, Spare { name, file }),
        Err(error) => shared.poison("open a segment for reuse", error),
    }
}

async fn make(shared: &Shared, number: u32) {
    let name = segment_name(number);
    match make_segment(&shared.runtime, &shared.options, &shared.directory, name).await {
        Ok(spare) => {
            shared.ring.borrow_mut().cannot_grow = false;
            add(shared, spare);
        }
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            if !std::mem::replace(&mut shared.ring.borrow_mut().cannot_grow, true) {
                tracing::warn!(
                    journal = shared.number.0,
                    "no space for a new journal segment: {error}"
                );
            }
            shared.wake_maintenance.notify_all();
            shared.runtime.sleep(RETRY_AFTER).await;
        }
        Err(error) => shared.poison("make a segment", error),
    }
}

fn add(shared: &Shared, spare: Spare) {
    shared.ring.borrow_mut().spares.push_back(spare);
    shared.wake_lane();
    shared.room.notify_all();
}

/// Makes a segment file: preallocated, zeroed, with a durable name. Removes what it made when the disk is full.
pub(super) async fn make_segment(
    runtime: &Runtime,
    options: &JournalOptions,
    directory: &std::path::Path,
    name: String,
) -> io::Result<Spare> {
    let path = directory.join(&name);
    let made = async {
        let file = runtime.open(&path, OpenOptions::read_write().create().truncate()).await?;
        file.fallocate(0, options.segment_bytes).await?;
        let mut buffer = Buffer::zeroed(FILL_BYTES);
        let mut at = 0;
        while at < options.segment_bytes {
            buffer.set_len(FILL_BYTES.min((options.segment_bytes - at) as usize));
            let (result, returned) = file.write_at(buffer, at).await;
            result?;
            buffer = returned;
            at += buffer.len() as u64;
            runtime.yield_now().await;
        }
        file.fdatasync().await?;
        runtime.sync_dir(directory).await?;
        Ok(file)
    };
    match made.await {
        Ok(file) => Ok(Spare { name, file }),
        Err(error) => {
            let _ = runtime.remove_file(&path).await;
            Err(error)
        }
    }
}
