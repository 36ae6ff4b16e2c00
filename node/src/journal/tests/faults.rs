//! Faults at a chosen moment, each with what must come of it. `seeds.rs` meets them, and every rare branch, by chance.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::journal::layout::{Layout, shard_of};
use firn_core::journal::recovery::Corruption;
use firn_core::journal::segment::JournalNumber;
use firn_core::marks;
use futures_util::FutureExt;

use super::super::{Journal, JournalError, JournalOptions, open_layout};
use super::crash::{Ledger, open, start};
use super::workload::{START, Timeline, create, elected, key, verify_from};
use crate::runtime::sim::{DiskFaults, MachineId, Simulation};
use crate::runtime::{OpenOptions, Runtime};

const AT_MOST: Duration = Duration::from_secs(60);

fn machine(seed: u64) -> (Simulation, MachineId) {
    marks::reset();
    let simulation = Simulation::new(seed);
    let machine = simulation.add_machine("node");
    (simulation, machine)
}

/// Works until the mark was hit so often, and dies at that very step.
fn die_at(mark: &'static str, seed: u64, times: u64) {
    let (simulation, machine) = machine(seed);
    let ledger = Ledger::new(4);
    for _ in 0..times {
        start(&simulation, machine, &ledger);
        let before = marks::count(mark);
        assert!(simulation.run_until(AT_MOST, || marks::count(mark) > before), "{mark}");
        simulation.kill(machine);
    }
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || ledger.is_open()));
    assert_eq!(ledger.report().unwrap().corruption, None);
    let steps = ledger.steps();
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > steps + 100), "it goes on");
}

#[test]
fn crash_during_a_snapshot_leaves_the_one_before() {
    let mut torn = 0;
    for seed in 0..4 {
        die_at("journal.snapshot_being_written", seed, 6);
        torn += marks::count("journal.torn_snapshot");
    }
    assert!(torn > 0, "torn snapshots were passed over");
}

#[test]
fn crash_during_recovery_is_repeated() {
    for seed in 0..4 {
        let (simulation, machine) = machine(seed);
        let ledger = Ledger::new(4);
        start(&simulation, machine, &ledger);
        simulation.run_for(Duration::from_millis(30));
        simulation.kill(machine);
        for deaths in 0..6 {
            start(&simulation, machine, &ledger);
            let before = marks::count("journal.recovering");
            simulation.run_until(AT_MOST, || marks::count("journal.recovering") > before);
            simulation.run_for(Duration::from_micros(simulation.random_below(200 * (deaths + 1))));
            simulation.kill(machine);
        }
        start(&simulation, machine, &ledger);
        assert!(simulation.run_until(AT_MOST, || ledger.is_open()));
    }
}

#[test]
fn crash_between_a_moved_write_and_its_entry_moves_again() {
    for seed in 0..4 {
        die_at("journal.moved_to_file", seed, 4);
        die_at("journal.moving", seed, 4);
    }
}

#[test]
fn a_failed_flush_poisons_until_a_restart() {
    let (simulation, machine) = machine(7);
    let ledger = Ledger::new(4);
    start(&simulation, machine, &ledger);
    simulation.run_for(Duration::from_millis(20));
    simulation.set_disk(machine, DiskFaults { flush_error: 1_000_000, ..DiskFaults::default() });
    assert!(simulation.run_until(AT_MOST, || ledger.poisoned() == 4), "everybody is refused");
    assert!(marks::count("journal.poisoned") > 0);
    let steps = ledger.steps();
    simulation.set_disk(machine, DiskFaults::default());
    simulation.run_for(Duration::from_millis(20));
    assert_eq!(ledger.steps(), steps, "nothing is retried");
    simulation.kill(machine);
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > steps));
}

#[test]
fn a_full_disk_refuses_wal_and_still_answers_votes() {
    let (simulation, machine) = machine(8);
    let ledger = Ledger::new(3);
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > 50));
    let capacity_bytes = simulation.disk_used_bytes(machine) + 100_000;
    simulation.set_disk(machine, DiskFaults { capacity_bytes, ..DiskFaults::default() });
    assert!(simulation.run_until(AT_MOST, || ledger.full() > 3 && ledger.votes() > 20));
    assert!(marks::count("journal.stuck") > 0);
    assert_eq!(ledger.poisoned(), 0);
    // Dying on a full disk loses nothing, and space brings everything back.
    simulation.kill(machine);
    simulation.set_disk(machine, DiskFaults::default());
    start(&simulation, machine, &ledger);
    let steps = ledger.steps();
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > steps + 300));
}

/// Files that are written, and named by entries that are not durable yet, are not taken for unused ones.
#[test]
fn a_move_that_a_full_disk_stops_half_way_keeps_its_files() {
    let mut stuck = 0;
    for seed in 0..8 {
        let (simulation, machine) = machine(seed);
        let ledger = Ledger::new(4);
        start(&simulation, machine, &ledger);
        for _ in 0..6 {
            let moved = marks::count("journal.moved_to_file");
            assert!(
                simulation.run_until(AT_MOST, || marks::count("journal.moved_to_file") > moved)
            );
            let capacity_bytes = simulation.disk_used_bytes(machine);
            simulation.set_disk(machine, DiskFaults { capacity_bytes, ..DiskFaults::default() });
            simulation.run_for(Duration::from_millis(50));
            stuck += marks::count("journal.stuck");
            // What was moved is read back from its file.
            simulation.kill(machine);
            simulation.set_disk(machine, DiskFaults::default());
            start(&simulation, machine, &ledger);
            assert!(simulation.run_until(AT_MOST, || ledger.is_open()));
            assert_eq!(ledger.report().unwrap().corruption, None);
            let steps = ledger.steps();
            assert!(simulation.run_until(AT_MOST, || ledger.steps() > steps + 50));
        }
    }
    assert!(stuck > 0, "moves were stopped");
}

#[test]
fn space_that_comes_back_ends_the_refusals() {
    let (simulation, machine) = machine(9);
    let ledger = Ledger::new(3);
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > 50));
    let capacity_bytes = simulation.disk_used_bytes(machine) + 100_000;
    simulation.set_disk(machine, DiskFaults { capacity_bytes, ..DiskFaults::default() });
    assert!(simulation.run_until(AT_MOST, || ledger.full() > 3));
    simulation.set_disk(machine, DiskFaults::default());
    let steps = ledger.steps();
    assert!(simulation.run_until(AT_MOST, || ledger.steps() > steps + 1000));
}

/// The segment file whose life goes on: the one with the highest place.
fn newest_segment(simulation: &Simulation, machine: MachineId) -> String {
    let path = |number: u32| format!("/data/shard-000/journal/SEGMENT-{number:06}");
    let place = |number: u32| {
        let bytes = simulation.file_contents(machine, path(number)).ok()?;
        bytes.get(32..40).map(|place| u64::from_le_bytes(place.try_into().unwrap()))
    };
    let newest = (0..20).max_by_key(|number| place(*number)).unwrap();
    path(newest)
}

/// Appends so much and ends in order.
async fn append_and_end(runtime: Runtime, count: u32, seal: bool) {
    let ledger = Ledger::new(0);
    let journal = open(&runtime, &ledger, JournalOptions::small()).await;
    let mut timeline = Timeline::create(&journal, 1).await;
    for _ in 0..count {
        timeline.append(&journal, 500).await;
    }
    if seal {
        runtime.sleep(Duration::from_millis(5)).await;
    }
    journal.close().await;
}

#[test]
fn rot_with_a_witness_makes_timelines_suspect_until_they_are_seeded_again() {
    let (simulation, machine) = machine(10);
    simulation.run_program(machine, AT_MOST, |runtime| append_and_end(runtime, 5, true));
    let path = newest_segment(&simulation, machine);
    // Header, previous end, create and elected, seals, appends: rot in the first append's frame.
    let contents = simulation.file_contents(machine, &path).unwrap();
    let append = contents.chunks(4096).position(|block| block[0..4] == *b"FRAM" && block[56] == 1);
    let offset = append.unwrap() as u64 * 4096 + 100;
    simulation.flip_bit(machine, &path, offset, 3).unwrap();
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        let corruption = ledger.report().unwrap().corruption;
        assert!(matches!(corruption, Some(Corruption::Frame { .. })), "{corruption:?}");
        let vote = firn_core::consensus::change::Change::Vote { term: firn_core::types::Term(9) };
        let refused = journal.append(key(1), vote.clone()).unwrap_err();
        assert_eq!(refused, JournalError::Suspect(key(1)));
        assert_eq!(journal.append(key(2), create(1)).unwrap_err(), JournalError::Suspect(key(2)));
        journal.close().await;
        // Remembered across restarts.
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        assert_eq!(ledger.report().unwrap().corruption, None);
        assert!(journal.is_suspect(key(1)));
        let end = firn_core::types::Lsn(START.0);
        verify_from(&journal, key(1), START, end).await;
        let ticket = journal.reseeded(key(1)).unwrap();
        journal.witnessed(&ticket).await.unwrap();
        let ticket = journal.append(key(1), vote).unwrap();
        journal.witnessed(&ticket).await.unwrap();
        journal.close().await;
    });
    assert!(marks::count("journal.rot_with_witness") > 0);
}

#[test]
fn rot_in_the_last_unwitnessed_frame_is_taken_for_a_torn_tail() {
    let (simulation, machine) = machine(11);
    simulation.run_program(machine, AT_MOST, |runtime| append_and_end(runtime, 5, false));
    let path = newest_segment(&simulation, machine);
    let contents = simulation.file_contents(machine, &path).unwrap();
    let last = contents.chunks(4096).rposition(|block| block[0..4] == *b"FRAM").unwrap();
    simulation.flip_bit(machine, &path, last as u64 * 4096 + 100, 3).unwrap();
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        assert_eq!(ledger.report().unwrap().corruption, None);
        journal.close().await;
    });
    assert_eq!(marks::count("journal.rot_with_witness"), 0);
}

#[test]
fn a_reader_keeps_its_segment_from_being_recycled() {
    let (simulation, machine) = machine(12);
    let slow_reads = DiskFaults { read_us: (900_000, 1_000_000), ..DiskFaults::default() };
    let other = simulation.clone();
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let options = JournalOptions { forward_bytes_max: 64 << 10, ..JournalOptions::small() };
        let journal = open(&runtime, &ledger, options).await;
        let mut old = Timeline::create(&journal, 1).await;
        old.append(&journal, 4000).await;
        let mut bulk = Timeline::create(&journal, 2).await;
        for _ in 0..40 {
            bulk.append(&journal, 10_000).await;
        }
        // The read begins, then the ring turns under it; moves need no device read of theirs within its time.
        let reader = journal.clone();
        let reading = reader.read_wal(old.key, START, 4000);
        let mut reading = std::pin::pin!(reading);
        other.set_disk(machine, slow_reads);
        let began = futures_util::poll!(reading.as_mut());
        assert!(began.is_pending(), "the frame is no longer in memory");
        other.set_disk(machine, DiskFaults::default());
        journal.set_hold(bulk.key, "nobody", Some(bulk.end));
        for _ in 0..400 {
            bulk.append(&journal, 10_000).await;
            journal.set_hold(bulk.key, "nobody", Some(bulk.end));
        }
        assert!(marks::count("journal.reader_on_segment_to_recycle") > 0);
        let bytes = reading.await.unwrap();
        assert_eq!(bytes, super::workload::wal(old.key, START, 4000, 1));
        journal.close().await;
    });
}

#[test]
fn a_disk_that_cannot_be_read_refuses_the_start_and_harms_nothing() {
    let (simulation, machine) = machine(14);
    let ledger = Ledger::new(4);
    start(&simulation, machine, &ledger);
    simulation.run_for(Duration::from_millis(30));
    simulation.kill(machine);
    simulation.set_disk(machine, DiskFaults { read_error: 1_000_000, ..DiskFaults::default() });
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let options = JournalOptions::small();
        let opened = Journal::open(&runtime, "/data", JournalNumber(0), options).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.starts_with("read /data/shard-000/journal/"), "{error}");
        assert!(error.contains("Input/output error") && !error.contains('\n'), "{error}");
    });
    simulation.set_disk(machine, DiskFaults::default());
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || ledger.is_open()));
    assert_eq!(ledger.report().unwrap().corruption, None);
}

#[test]
fn a_failed_read_of_wal_is_an_error_of_that_read_only() {
    let (simulation, machine) = machine(15);
    let other = simulation.clone();
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        let mut old = Timeline::create(&journal, 1).await;
        old.append(&journal, 4000).await;
        let mut bulk = Timeline::create(&journal, 2).await;
        // Until the old WAL lies in a file, and its end in the ring only.
        for round in 0..400 {
            bulk.append(&journal, 10_000).await;
            if round == 380 {
                old.append(&journal, 4000).await;
            }
        }
        other.set_disk(machine, DiskFaults { read_error: 1_000_000, ..DiskFaults::default() });
        for at in [START, START + 4000] {
            let error = journal.read_wal(old.key, at, 4000).await.unwrap_err();
            assert!(matches!(error, JournalError::Read(_)), "{error}");
        }
        // Appends and acknowledgements need no read.
        old.append(&journal, 4000).await;
        other.set_disk(machine, DiskFaults::default());
        old.verify(&journal).await;
        bulk.verify(&journal).await;
        assert_eq!(journal.status().poison, None);
        journal.close().await;
    });
}

/// Mark "truncate then move", live: the log is cut and rewritten while its bytes are on their way to a file.
#[test]
fn a_log_cut_while_it_is_moved_keeps_the_new_bytes() {
    let (simulation, machine) = machine(13);
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        let mut tail = Timeline::create(&journal, 1).await;
        for _ in 0..4 {
            tail.append_uncommitted(&journal, 8_000).await;
        }
        let cut = START + 10_000;
        let mut bulk = Timeline::create(&journal, 2).await;
        let rewritten = super::workload::wal(tail.key, cut, 5_000, 2);
        let cutter = {
            let (runtime, journal, wal) = (runtime.clone(), journal.clone(), rewritten.clone());
            let key = tail.key;
            async move {
                while marks::count("journal.moving") == 0 {
                    runtime.yield_now().await;
                }
                // The copy is on its way to the file, the entry that says so is not queued yet.
                journal.append(key, elected(2, cut)).unwrap();
                journal.ready(key).await.unwrap();
                let change = super::workload::append_committed(cut, &wal, 2, START);
                let ticket = journal.append(key, change).unwrap();
                journal.durable(&ticket).await.unwrap();
            }
        };
        let cutter = runtime.spawn(crate::runtime::TaskClass::Latency, cutter);
        while marks::count("journal.moving") == 0 {
            bulk.append(&journal, 10_000).await;
        }
        cutter.await;
        // Until the rewritten bytes have gone to the file as well.
        for _ in 0..150 {
            bulk.append(&journal, 10_000).await;
        }
        for _ in 0..2 {
            verify_from(&journal, tail.key, START, cut).await;
            assert_eq!(journal.read_wal(tail.key, cut, 9_000).await.unwrap(), rewritten);
        }
        assert!(marks::count("journal.moved_after_truncate") > 0);
        journal.close().await;
    });
}

/// A reader that looked its WAL up before the end of a piece was cut off reads it right while that end is overwritten.
#[test]
fn a_piece_that_changes_under_a_read_is_looked_up_again() {
    let (simulation, machine) = machine(16);
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        let mut tail = Timeline::create(&journal, 1).await;
        let mut bulk = Timeline::create(&journal, 2).await;
        for _ in 0..4 {
            tail.append_uncommitted(&journal, 8_000).await;
        }
        let all = journal.read_wal(tail.key, START, 32_000).await.unwrap();
        let done = Rc::new(Cell::new(false));
        let kept = Rc::new(Cell::new(32_000));
        let readers = (0..8).map(|_| {
            let (journal, key, all) = (journal.clone(), tail.key, all.clone());
            let (runtime, done, kept) = (runtime.clone(), done.clone(), kept.clone());
            runtime.clone().spawn(crate::runtime::TaskClass::Latency, async move {
                while !done.get() {
                    let found = journal.read_wal(key, START, 1_000).await.unwrap();
                    assert!(kept.get() >= 1_000 && all.starts_with(&found));
                    runtime.yield_now().await;
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        for term in 2..30 {
            // Until all of it lies in files; then its end gives way to other bytes, which go there too.
            for _ in 0..150 {
                bulk.append(&journal, 10_000).await;
            }
            let cut = START + (kept.get() - 1_000);
            kept.set(kept.get() - 1_000);
            journal.append(tail.key, elected(term, cut)).unwrap();
            journal.ready(tail.key).await.unwrap();
            let wal = super::workload::wal(tail.key, cut, 5_000, term);
            let change = super::workload::append_committed(cut, &wal, term, START);
            let ticket = journal.append(tail.key, change).unwrap();
            journal.durable(&ticket).await.unwrap();
            if marks::count("journal.file_changed_under_read") > 0 {
                break;
            }
        }
        done.set(true);
        for reader in readers {
            reader.await;
        }
        assert!(marks::count("journal.file_changed_under_read") > 0);
        journal.close().await;
    });
}

/// Mark "bulk waits": whoever fills the ring waits while others are taken.
#[test]
fn who_fills_the_ring_waits_before_others_do() {
    let (simulation, machine) = machine(14);
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        let mut small = Timeline::create(&journal, 1).await;
        let mut bulk = Timeline::create(&journal, 2).await;
        let mut waits = 0;
        for _ in 0..1_000 {
            let before = marks::count("journal.bulk_waits");
            let is_ready = journal.ready(bulk.key).now_or_never().is_some();
            if marks::count("journal.bulk_waits") > before {
                assert!(!is_ready);
                waits += 1;
                journal.ready(small.key).now_or_never().expect("there is room for it").unwrap();
                small.queue(&journal, 100);
            }
            journal.ready(bulk.key).await.unwrap();
            bulk.queue(&journal, 10_000);
        }
        assert!(waits > 0, "the bulk stream is faster than segments are freed");
        small.append(&journal, 100).await;
        bulk.append(&journal, 100).await;
        small.verify(&journal).await;
        bulk.verify(&journal).await;
        journal.close().await;
    });
}

#[test]
fn crash_during_a_change_of_shards_leaves_the_old_or_the_new() {
    for (seed, mark) in [
        (20, "journal.layout_about_to_switch"),
        (21, "journal.layout_switched"),
        (22, "journal.recovering"),
    ] {
        let (simulation, machine) = machine(seed);
        simulation.run_program(machine, AT_MOST, |runtime| async move {
            runtime.create_dir_all("/data").await.unwrap();
            runtime.sync_dir("/").await.unwrap();
            let layout = open_layout(&runtime, "/data".as_ref(), 1).await.unwrap();
            let journals = open_all(&runtime, &layout).await;
            for number in 1..6 {
                Timeline::create(&journals[0], number).await.append(&journals[0], 3000).await;
            }
            for journal in journals {
                journal.close().await;
            }
        });
        for delay_us in [0, 30, 60, 90, 150, 300, 600] {
            marks::reset();
            simulation.start(machine, 1, |runtime| async move {
                open_layout(&runtime, "/data".as_ref(), 3).await.unwrap();
            });
            simulation.run_until(AT_MOST, || marks::count(mark) > 0);
            simulation.run_for(Duration::from_micros(delay_us));
            simulation.kill(machine);
            let shards = if delay_us % 60 == 0 { 3 } else { 1 };
            simulation.run_program(machine, AT_MOST, move |runtime| async move {
                let layout = open_layout(&runtime, "/data".as_ref(), shards).await.unwrap();
                let journals = open_all(&runtime, &layout).await;
                for number in 1..6 {
                    let shard = shard_of(key(number).tenant_id, shards) as usize;
                    verify_from(&journals[shard], key(number), START, START + 3000).await;
                }
                for journal in journals {
                    journal.close().await;
                }
            });
        }
    }
}

async fn open_all(runtime: &Runtime, layout: &Layout) -> Vec<Journal> {
    let mut journals = Vec::new();
    for number in &layout.journals {
        let opened = Journal::open(runtime, "/data", *number, JournalOptions::small()).await;
        journals.push(opened.unwrap().0);
    }
    journals
}

#[test]
fn a_missing_segment_or_file_that_the_snapshot_lists_is_an_error() {
    let (simulation, machine) = machine(30);
    let ledger = Ledger::new(4);
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(AT_MOST, || marks::count("journal.recycled_segment") > 2));
    simulation.run_for(Duration::from_millis(50));
    simulation.kill(machine);
    simulation.run_program(machine, AT_MOST, |runtime| async move {
        let ledger = Ledger::new(0);
        let journal = open(&runtime, &ledger, JournalOptions::small()).await;
        runtime.sleep(Duration::from_millis(100)).await;
        let segments = journal.state().segments();
        assert!(!segments.is_empty());
        journal.close().await;
        // A blank file in place of each segment: as a careless restore would leave it.
        for entry in runtime.list_dir("/data/shard-000/journal").await.unwrap() {
            if entry.name.starts_with("SEGMENT-") {
                let path = format!("/data/shard-000/journal/{}", entry.name);
                let options = OpenOptions::read_write().truncate();
                drop(runtime.open(&path, options).await.unwrap());
            }
        }
        let options = JournalOptions::small();
        let opened = Journal::open(&runtime, "/data", JournalNumber(0), options).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("needs the segment at place"), "{error}");
    });
}
