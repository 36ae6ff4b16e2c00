//! WAL that the journal's ring no longer holds: readers get it from the files that it was moved to.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::Path;
use std::sync::Arc;

use firn_core::types::{Generation, Lsn, NodeId, SystemId, Term, TimelineKey};
use firn_node::journal::JournalOptions;
use firn_node::runtime::{RuntimeName, RuntimeOptions, block_on, start_shards};
use firn_node::shard::node::{NodeOptions, RunningNode, ShardStarts, prepare, run_shard};
use firn_tests::proposer::{HandmadeProposer, RECORDED_COMMIT, recorded_wal};
use firn_tests::readers::RawReader;

/// A ring that a few dozen timelines fill.
const SEGMENT_BYTES: u64 = 8 << 20;
const SEGMENTS_MAX: usize = 6;

fn key(number: u64) -> TimelineKey {
    TimelineKey {
        tenant_id: format!("{:032x}", (0xa_u128 << 64) + u128::from(number)).parse().unwrap(),
        timeline_id: format!("{:032x}", (0xb_u128 << 64) + u128::from(number)).parse().unwrap(),
    }
}

/// A node of one shard in this process, on the real disk and real sockets.
fn start(data: &Path, runtime: RuntimeName) -> RunningNode {
    let options = NodeOptions {
        data: data.to_path_buf(),
        listen: "127.0.0.1:0".to_string(),
        node_id: Some(NodeId(1)),
        credentials: Arc::default(),
        tls_required: false,
        auth_token: None,
        journal: JournalOptions {
            segment_bytes: SEGMENT_BYTES,
            segments_max: SEGMENTS_MAX,
            queue_bytes_max: 4 << 20,
            ..JournalOptions::default()
        },
    };
    let (starts, starting) = prepare(options, 1);
    let starts = ShardStarts::new(starts);
    let options = RuntimeOptions { runtime, ..RuntimeOptions::default() };
    let running = start_shards(&options, move |runtime| {
        let start = starts.take(runtime.shard_index());
        run_shard(runtime, start)
    });
    // A shard never ends by itself: it goes with the process.
    std::mem::forget(running.unwrap());
    block_on(|_| starting.wait()).unwrap().unwrap()
}

/// A timeline with the recorded WAL, committed as far as it was when recorded.
fn write(address: &str, number: u64, start: Lsn, wal: &[u8]) {
    let mut writer = HandmadeProposer::connect(address, key(number), Generation(0)).unwrap();
    writer.greet(SystemId(7)).unwrap();
    writer.vote(Term(1)).unwrap();
    writer.elected(&[(Term(1), start)], start).unwrap();
    let end = writer.append_all(start, wal).unwrap();
    writer.append(end, &[], RECORDED_COMMIT).unwrap();
    writer.wait_flushed(end).unwrap();
}

fn readers_get_moved_wal(runtime: RuntimeName) {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), runtime);
    let address = node.listen.to_string();
    let (start, wal) = recorded_wal().unwrap();
    // More than the ring holds, so what came first is not in it any more, and far more than memory keeps.
    let timelines = SEGMENT_BYTES * SEGMENTS_MAX as u64 / wal.len() as u64 + 2;
    for number in 0..timelines {
        write(&address, number, start, &wal);
    }
    let committed = &wal[..(RECORDED_COMMIT - start) as usize];
    for number in [0, 1, timelines - 1] {
        let mut reader = RawReader::start(&address, key(number), start).unwrap();
        let read = reader.read_to(RECORDED_COMMIT).unwrap();
        assert!(read == committed, "timeline {number} reads back as it was written");
    }
}

#[test]
fn readers_get_wal_that_left_the_ring() {
    readers_get_moved_wal(RuntimeName::Uring);
}

#[test]
fn readers_get_wal_that_left_the_ring_on_the_other_runtime() {
    readers_get_moved_wal(RuntimeName::Glommio);
}
