//! The budget of the runtime's hot paths: no allocation per read, write, receive or send. (Enters are counted in the
//! runtime's own tests.)
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use firn_node::runtime::{ALIGNMENT_BYTES, Buffer, OpenOptions, TaskClass, block_on};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
struct Counting;

// SAFETY: every call goes to `System` unchanged; counting touches a thread-local number without a destructor only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `System.dealloc`, which made the block.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Rounds counted, after as many that fill what grows once: slab, queues.
const ROUNDS: u64 = 200;

#[test]
fn reads_and_writes_allocate_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let allocations = block_on(|runtime| async move {
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        let mut buffer = Buffer::zeroed(ALIGNMENT_BYTES);
        let mut before = 0;
        for round in 0..2 * ROUNDS {
            if round == ROUNDS {
                before = ALLOCATIONS.get();
            }
            let (result, returned) = file.write_durable_at(buffer, 0).await;
            result.unwrap();
            let (result, returned) = file.read_at(returned, 0).await;
            result.unwrap();
            buffer = returned;
        }
        ALLOCATIONS.get() - before
    });
    assert_eq!(allocations.unwrap(), 0, "in {ROUNDS} writes and reads");
}

#[test]
fn receives_and_sends_allocate_nothing() {
    let allocations = block_on(|runtime| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let client = runtime.connect(&listener.local_addr().to_string()).await.unwrap();
        let server = listener.accept().await.unwrap();
        let echo = async move {
            let mut buffer = Vec::with_capacity(64);
            while let (Ok(1..), received) = server.recv(buffer).await {
                buffer = server.send_all(received).await.1;
                buffer.clear();
            }
        };
        let echo = runtime.spawn(TaskClass::Latency, echo);
        let mut buffer = Vec::with_capacity(64);
        let mut before = 0;
        for round in 0..2 * ROUNDS {
            if round == ROUNDS {
                before = ALLOCATIONS.get();
            }
            buffer.clear();
            buffer.push(round as u8);
            let (result, mut returned) = client.send_all(buffer).await;
            result.unwrap();
            returned.clear();
            let (result, received) = client.recv(returned).await;
            assert_eq!(result.unwrap(), 1);
            buffer = received;
        }
        let allocations = ALLOCATIONS.get() - before;
        drop(client);
        echo.await;
        allocations
    });
    assert_eq!(allocations.unwrap(), 0, "in {ROUNDS} sends and receives by two tasks");
}
