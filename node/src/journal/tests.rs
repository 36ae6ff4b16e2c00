//! The journal on the real ring and a real file system. What crashes and faults do is in the simulated tests.

mod crash;
mod faults;
mod model;
mod seeds;
mod workload;

use std::path::Path;

use firn_core::marks;
use firn_core::types::Term;

use super::*;
use crate::runtime::block_on;
use workload::{START, Timeline, create, key, wal};

const NUMBER: JournalNumber = JournalNumber(0);

async fn open(runtime: &Runtime, data: &Path) -> Journal {
    let opened = Journal::open(runtime, data, NUMBER, JournalOptions::small()).await;
    let (journal, report) = opened.unwrap();
    assert_eq!(report.corruption, None);
    journal
}

fn with_runtime<F: Future<Output = ()> + 'static>(
    test: impl FnOnce(Runtime, std::path::PathBuf) -> F + 'static,
) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_path_buf();
    block_on(move |runtime| test(runtime, data)).unwrap();
    drop(directory);
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    with_runtime(|runtime, data| async move {
        let journal = open(&runtime, &data).await;
        let mut first = Timeline::create(&journal, 1).await;
        let mut second = Timeline::create(&journal, 2).await;
        for _ in 0..20 {
            first.append(&journal, 3000).await;
            second.append(&journal, 100).await;
        }
        let vote = journal.append(first.key, Change::Vote { term: Term(7) }).unwrap();
        journal.witnessed(&vote).await.unwrap();
        let before = journal.state().clone();
        first.verify(&journal).await;
        journal.close().await;

        let journal = open(&runtime, &data).await;
        assert_eq!(*journal.state(), before);
        first.verify(&journal).await;
        second.verify(&journal).await;
        journal.close().await;
    });
}

#[test]
fn the_ring_turns_and_moved_wal_stays_readable() {
    with_runtime(|runtime, data| async move {
        marks::reset();
        let journal = open(&runtime, &data).await;
        let mut bulk = Timeline::create(&journal, 1).await;
        let mut small = Timeline::create(&journal, 2).await;
        let mut idle = Timeline::create(&journal, 3).await;
        idle.append(&journal, 1000).await;
        // Twice the ring: 8 segments of 256 KiB.
        for round in 0..400 {
            bulk.append(&journal, 10_000).await;
            if round % 10 == 0 {
                small.append(&journal, 300).await;
            }
        }
        for timeline in [&bulk, &small, &idle] {
            timeline.verify(&journal).await;
        }
        for mark in ["recycled_segment", "moved_to_file", "forwarded_tail"] {
            assert!(marks::count(&format!("journal.{mark}")) > 0, "{mark}");
        }
        let status = journal.status();
        assert!(status.moved_files > 0 && status.segments_used <= 8, "{status:?}");
        let before = journal.state().clone();
        journal.close().await;
        let journal = open(&runtime, &data).await;
        assert_eq!(*journal.state(), before);
        for timeline in [&bulk, &small, &idle] {
            timeline.verify(&journal).await;
        }
        journal.close().await;
    });
}

#[test]
fn wal_that_nobody_holds_is_forgotten() {
    with_runtime(|runtime, data| async move {
        let journal = open(&runtime, &data).await;
        let mut timeline = Timeline::create(&journal, 1).await;
        for _ in 0..400 {
            timeline.append(&journal, 10_000).await;
            journal.set_hold(timeline.key, "reader", Some(timeline.end));
        }
        let segment = workload::SEGMENT_SIZE_BYTES;
        let kept_from = timeline.end.segment_start(u64::from(segment));
        let error = journal.read_wal(timeline.key, START, 100).await.unwrap_err();
        assert!(matches!(error, JournalError::NoWal { .. }), "{error}");
        let bytes = journal.read_wal(timeline.key, kept_from, 100).await.unwrap();
        assert_eq!(bytes, wal(timeline.key, kept_from, 100, 1));
        journal.close().await;
    });
}

#[test]
fn what_cannot_be_is_refused_before_it_is_queued() {
    with_runtime(|runtime, data| async move {
        let journal = open(&runtime, &data).await;
        let vote = || Change::Vote { term: Term(1) };
        let unknown = journal.append(key(9), vote()).unwrap_err();
        assert_eq!(unknown, JournalError::UnknownTimeline(key(9)));
        journal.append(key(1), create(2)).unwrap();
        let exists = journal.append(key(1), create(3)).unwrap_err();
        assert_eq!(exists, JournalError::TimelineExists(key(1)));
        let ticket = journal.append(key(1), Change::Delete).unwrap();
        assert!(journal.append(key(1), vote()).is_err(), "deleted as soon as queued");
        journal.durable(&ticket).await.unwrap();
        assert!(journal.append(key(1), create(2)).is_err(), "buried in that generation");
        journal.append(key(1), create(3)).unwrap();
        let large = vec![0; JournalOptions::small().entry_bytes_max()];
        assert!(matches!(
            journal.append(key(1), workload::append_change(START, &large, 1)),
            Err(JournalError::Entry(_))
        ));
        journal.close().await;
    });
}

#[test]
fn sizes_that_do_not_fit_together_are_refused_at_open() {
    with_runtime(|runtime, data| async move {
        let small = JournalOptions::small;
        let longest = small().entry_bytes_max();
        for (options, expected) in [
            (
                JournalOptions { append_bytes_max: 128 << 10, ..small() },
                "append_bytes_max is 131072",
            ),
            (JournalOptions { append_bytes_max: longest, ..small() }, "append_bytes_max is 12288"),
            (JournalOptions { queue_bytes_max: 8 << 20, ..small() }, "queue_bytes_max is 8388608"),
            (JournalOptions { segments_max: 5, ..small() }, "segments_max is 5, expected 6 to"),
            (JournalOptions { segment_bytes: 64 << 10, ..small() }, "segment_bytes is 65536"),
            (JournalOptions { segment_bytes: 2 << 30, ..small() }, "segment_bytes is 2147483648"),
            (JournalOptions { frame_bytes_max: 5000, ..small() }, "a multiple of 4096"),
            (JournalOptions { frame_bytes_max: 4096, ..small() }, "frame_bytes_max is 4096"),
        ] {
            let error = Journal::open(&runtime, &data, NUMBER, options).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!runtime.exists(data.join("shard-000")).await.unwrap(), "nothing was made");
        }
    });
}

/// In the smallest ring whose options pass, the longest append and the fullest queue get through, turn after turn.
#[test]
fn the_longest_append_fits_into_the_smallest_ring() {
    with_runtime(|runtime, data| async move {
        let options = JournalOptions {
            segment_bytes: 96 << 10,
            segments_max: 6,
            frame_bytes_max: 32 << 10,
            queue_bytes_max: 60 << 10,
            append_bytes_max: 12_192,
            ..JournalOptions::small()
        };
        let (journal, _) = Journal::open(&runtime, &data, NUMBER, options).await.unwrap();
        let mut timeline = Timeline::create(&journal, 1).await;
        for _ in 0..100 {
            timeline.append(&journal, 12_192).await;
        }
        timeline.verify(&journal).await;
        journal.close().await;
    });
}

#[test]
fn a_bulk_stream_does_not_hold_up_another_timeline() {
    with_runtime(|runtime, data| async move {
        let journal = open(&runtime, &data).await;
        let mut bulk = Timeline::create(&journal, 1).await;
        let small = Timeline::create(&journal, 2).await;
        // Far more than the frames in flight hold, queued at once.
        let mut last = None;
        for _ in 0..6 {
            last = Some(bulk.queue(&journal, 10_000));
        }
        let vote = journal.append(small.key, Change::Vote { term: Term(5) }).unwrap();
        journal.durable(&vote).await.unwrap();
        let (vote, last) = (vote.sequence().unwrap(), last.unwrap());
        journal.durable(&last).await.unwrap();
        assert!(vote < last.sequence().unwrap(), "the vote came in an earlier frame");
        journal.close().await;
    });
}

#[test]
fn a_layout_is_made_once_and_changed_with_the_number_of_shards() {
    with_runtime(|runtime, data| async move {
        marks::reset();
        let layout = open_layout(&runtime, &data, 1).await.unwrap();
        assert_eq!(layout.journals, [JournalNumber(0)]);
        let journal = open(&runtime, &data).await;
        let mut timelines = Vec::new();
        for number in 1..6 {
            let mut timeline = Timeline::create(&journal, number).await;
            timeline.append(&journal, 5000).await;
            timelines.push(timeline);
        }
        journal.close().await;

        let layout = open_layout(&runtime, &data, 2).await.unwrap();
        assert_eq!(layout.journals, [JournalNumber(1), JournalNumber(2)]);
        assert_eq!(marks::count("journal.layout_switched"), 1);
        assert_eq!(open_layout(&runtime, &data, 2).await.unwrap(), layout);
        for turn in 0..2 {
            let mut journals = Vec::new();
            for number in &layout.journals {
                let opened = Journal::open(&runtime, &data, *number, JournalOptions::small()).await;
                journals.push(opened.unwrap().0);
            }
            for timeline in &mut timelines {
                let shard = firn_core::journal::layout::shard_of(timeline.key.tenant_id, 2);
                let journal = &journals[shard as usize];
                timeline.verify(journal).await;
                timeline.append(journal, 2000).await;
                timeline.verify(journal).await;
            }
            for journal in journals {
                // The old epoch's segments are emptied in the background.
                while journal.state().segments().iter().any(|at| at.journal == NUMBER) {
                    runtime.sleep(std::time::Duration::from_millis(5)).await;
                }
                let vote = Change::Vote { term: Term(10 + turn) };
                for timeline in &timelines {
                    let _ = journal.append(timeline.key, vote.clone());
                }
                journal.close().await;
            }
        }
        open_layout(&runtime, &data, 2).await.unwrap();
        assert!(!runtime.exists(data.join("shard-000")).await.unwrap(), "cleaned up");
    });
}

#[test]
fn a_newer_format_or_a_lost_layout_is_refused() {
    with_runtime(|runtime, data| async move {
        open_layout(&runtime, &data, 1).await.unwrap();
        open(&runtime, &data).await.close().await;
        runtime.remove_file(data.join("layout")).await.unwrap();
        let error = open_layout(&runtime, &data, 1).await.unwrap_err();
        assert!(error.to_string().contains("missing, but there are journals"), "{error}");
        let mut bytes = firn_core::journal::layout::Layout::first(1).encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(data.join("layout"), bytes).unwrap();
        let error = open_layout(&runtime, &data, 1).await.unwrap_err();
        assert!(error.to_string().contains("format version 2"), "{error}");
    });
}
