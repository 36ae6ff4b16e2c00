//! The budget that the journal's door document names: device writes, system calls and allocations per append.
//!
//! What runs beside (segments being prepared, snapshots) only adds: a window of appends within the budget proves it.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::journal::segment::JournalNumber;
use firn_core::types::*;
use firn_node::journal::{Journal, JournalOptions, Ticket};
use firn_node::runtime::{Runtime, RuntimeOptions, TaskClass, block_on, check_start};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
struct Counting;

// SAFETY: every call goes to `System` unchanged; counting touches thread-local numbers without destructors only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + layout.size() as u64);
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

/// Rounds of a window.
const ROUNDS: u64 = 200;
/// Windows that may miss the budget because of what runs beside.
const WINDOWS: usize = 40;

const START: Lsn = Lsn(0x100_0000);

/// What a window took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    allocations: u64,
    allocated_bytes: u64,
    device_writes: u64,
    enters: u64,
}

impl Cost {
    fn now(runtime: &Runtime, journal: &Journal) -> Cost {
        // First: the histogram's copy allocates.
        let device_writes = journal.latencies().1.snapshot().len();
        Cost {
            allocations: ALLOCATIONS.get(),
            allocated_bytes: BYTES.get(),
            device_writes,
            enters: runtime.ring_enters(),
        }
    }

    fn since(self, before: Cost, copy: Cost) -> Cost {
        Cost {
            allocations: self.allocations - before.allocations - copy.allocations,
            allocated_bytes: self.allocated_bytes - before.allocated_bytes - copy.allocated_bytes,
            device_writes: self.device_writes - before.device_writes,
            enters: self.enters - before.enters,
        }
    }
}

struct Timeline {
    key: TimelineKey,
    end: Lsn,
}

impl Timeline {
    async fn create(journal: &Journal, number: u8) -> Timeline {
        let tenant_id = TenantId(Id([number; 16]));
        let key = TimelineKey { tenant_id, timeline_id: TimelineId(Id([1; 16])) };
        let membership =
            Membership { generation: Generation(1), members: vec![], new_members: None };
        let create = Create {
            membership,
            postgres_version: PostgresVersion(170_006),
            system_id: SystemId(1),
            segment_size_bytes: 16 << 20,
            start_lsn: START,
            commit_lsn: START,
        };
        journal.append(key, Change::Create(create)).unwrap();
        let history = TermHistory(vec![TermStart { term: Term(1), lsn: START }]);
        let elected = Change::Elected { term: Term(1), history, truncate_to: START };
        let ticket = journal.append(key, elected).unwrap();
        journal.witnessed(&ticket).await.unwrap();
        Timeline { key, end: START }
    }

    fn append(&mut self, journal: &Journal, wal: &[u8]) -> Ticket {
        let (begin, end) = (self.end, self.end + wal.len() as u64);
        self.end = end;
        let change =
            Change::Append { term: Term(1), begin, end, commit_lsn: begin, record_end: end, wal };
        journal.append(self.key, change).unwrap()
    }
}

/// A directory in memory where that takes direct I/O: the budget is the same, and the test is soon over.
fn directory() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    let usable = |directory: &tempfile::TempDir| {
        check_start(&RuntimeOptions::default(), directory.path()).is_ok()
    };
    in_memory.ok().filter(usable).unwrap_or_else(|| tempfile::tempdir().unwrap())
}

async fn open(runtime: &Runtime, data: &Path) -> Journal {
    let options = JournalOptions::default();
    Journal::open(runtime, data, JournalNumber(0), options).await.unwrap().0
}

/// Runs windows of rounds, each round so many appends to each of the timelines, until one window is within the budget.
fn expect_within(timelines: u8, appends: usize, wal_bytes: usize, within: fn(Cost) -> bool) {
    let directory = directory();
    let data = directory.path().to_path_buf();
    let costs = block_on(move |runtime| async move {
        // As in a node, where something always waits for its time: a first timer would allocate.
        let own = runtime.clone();
        let later = async move { own.sleep(Duration::from_secs(3600)).await };
        let _later = runtime.spawn(TaskClass::Background, later);
        let journal = open(&runtime, &data).await;
        let mut all = Vec::new();
        for number in 1..=timelines {
            all.push(Timeline::create(&journal, number).await);
        }
        let wal = vec![7; wal_bytes];
        let mut tickets = Vec::with_capacity(all.len() * appends);
        let mut costs = Vec::with_capacity(WINDOWS);
        for _ in 0..WINDOWS {
            let before_copy = (ALLOCATIONS.get(), BYTES.get());
            let before = Cost::now(&runtime, &journal);
            let copy = Cost {
                allocations: before.allocations - before_copy.0,
                allocated_bytes: before.allocated_bytes - before_copy.1,
                device_writes: 0,
                enters: 0,
            };
            for _ in 0..ROUNDS {
                journal.ready(all[0].key).await.unwrap();
                for timeline in &mut all {
                    tickets.extend((0..appends).map(|_| timeline.append(&journal, &wal)));
                }
                for ticket in tickets.drain(..) {
                    journal.durable(&ticket).await.unwrap();
                }
            }
            let cost = Cost::now(&runtime, &journal).since(before, copy);
            costs.push(cost);
            if within(cost) {
                break;
            }
        }
        journal.close().await;
        costs
    });
    let costs = costs.unwrap();
    assert!(costs.last().is_some_and(|cost| within(*cost)), "{ROUNDS} rounds took {costs:#?}");
}

#[test]
fn one_append_at_a_time() {
    expect_within(1, 1, 8192, |cost| {
        println!("{cost:?}");
        cost.allocations == 0 && cost.device_writes <= ROUNDS && cost.enters <= ROUNDS + ROUNDS / 10
    });
}

/// What comes together goes together: one write for all timelines.
#[test]
fn one_append_of_each_of_many_timelines() {
    expect_within(64, 1, 512, |cost| {
        println!("{cost:?}");
        cost.allocations == 0 && cost.device_writes <= 2 * ROUNDS
    });
}

/// Behind its share of a frame a timeline's entries cost a second copy.
#[test]
fn a_timeline_over_its_share() {
    expect_within(1, 40, 16 << 10, |cost| {
        println!("{cost:?}");
        cost.allocations <= 2 * 40 * ROUNDS
    });
}
