//! What a timeline without connections costs a node: bytes of memory, counted, and nothing else - no task, no timer, no
//! file. Ten thousand of them are to fit into 300 MB with all that a node has besides.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use firn_core::api::CreateTimeline;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::*;
use firn_node::journal::JournalOptions;
use firn_node::runtime::{RuntimeOptions, block_on, start_shards};
use firn_node::shard::node::{NodeOptions, RunningNode, ShardStarts, prepare, run_shard};
use firn_node::shard::request::Request;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counting what is allocated and not freed, on all threads.
struct Counting;

// SAFETY: every call goes to `System` unchanged; counting touches an atomic number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System.dealloc`, which made the block.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const TIMELINES: u32 = 2_000;
/// How often they are made.
const ROUNDS: u32 = 4;
/// As many wait for the journal together.
const AT_ONCE: usize = 100;
/// With three members each, about 2,000: what the acceptor knows, and the same again as far as it is durable.
const BYTES_PER_TIMELINE: i64 = 3_000;

fn create(number: u32) -> CreateTimeline {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_le_bytes());
    let key = TimelineKey { tenant_id: TenantId(Id(id)), timeline_id: TimelineId(Id(id)) };
    let member = |id| Member { id: NodeId(id), host: "10.0.0.1".to_string(), pg_port: 5454 };
    CreateTimeline {
        key,
        mconf: Membership {
            generation: Generation(1),
            members: [1, 2, 3].map(member).to_vec(),
            new_members: None,
        },
        pg_version: PostgresVersion(170_006),
        system_id: Some(SystemId(1)),
        wal_seg_size: None,
        start_lsn: Lsn(0x100_0000),
        commit_lsn: None,
        to_be_added: false,
    }
}

fn make(node: &RunningNode, numbers: std::ops::Range<u32>) {
    let node = node.node.clone();
    block_on(|_| async move {
        let numbers: Vec<u32> = numbers.collect();
        for together in numbers.chunks(AT_ONCE) {
            let creations = together.iter().map(async |number| {
                let body = create(*number);
                let tenant_id = body.key.tenant_id;
                node.ask(tenant_id, |reply| Request::Create(body, reply)).await.unwrap();
            });
            futures_util::future::join_all(creations).await;
        }
    })
    .unwrap();
}

#[test]
fn timelines_without_connections_cost_some_kilobytes() {
    let directory = tempfile::tempdir().unwrap();
    let options = NodeOptions {
        data: directory.path().to_path_buf(),
        listen: "127.0.0.1:0".to_string(),
        node_id: Some(NodeId(1)),
        credentials: Arc::default(),
        tls_required: false,
        auth_token: None,
        journal: JournalOptions::default(),
    };
    let (starts, starting) = prepare(options, 1);
    let starts = ShardStarts::new(starts);
    let running = start_shards(&RuntimeOptions::default(), move |runtime| {
        let start = starts.take(runtime.shard_index());
        run_shard(runtime, start)
    })
    .unwrap();
    let node = block_on(|_| starting.wait()).unwrap().unwrap();
    // What grows once: queues, and the buffers of frames that stay in memory, a frame each.
    make(&node, 0..200);
    (200..240).for_each(|number| make(&node, number..number + 1));
    // Frames, snapshots and segments that are under way at either moment count too: the least of some rounds has none.
    let bytes = (0..ROUNDS).map(|round| {
        let first = 240 + round * TIMELINES;
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        make(&node, first..first + TIMELINES);
        (LIVE_BYTES.load(Ordering::Relaxed) - before) / i64::from(TIMELINES)
    });
    let bytes = bytes.min().expect("there are rounds");
    println!("{bytes} bytes per timeline");
    assert!(bytes <= BYTES_PER_TIMELINE, "{bytes} bytes per timeline");
    drop(running);
}
