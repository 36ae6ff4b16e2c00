use std::ops::Range;

use super::*;
use crate::consensus::change::{Change, Create};
use crate::consensus::membership::Membership;
use crate::journal::FRAME_BYTES_MAX;
use crate::journal::entry::PreviousEnd;
use crate::journal::frame::FrameForm;
use crate::journal::segment::SEGMENT_BYTES_MIN;
use crate::journal::snapshot::{self, ListedSegment, Position, SnapshotHead};
use crate::types::*;

const JOURNAL: JournalNumber = JournalNumber(0);

/// What a disk holds, and the writer of the life that runs on it.
#[derive(Clone, Default)]
struct Disk {
    files: Vec<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
    life_id: Id,
    place: u64,
    file: usize,
    offset: usize,
    sequence: u64,
    crc: u32,
    /// What the next frame says is durable; `None`: all before it.
    durable_through: Option<u64>,
    random: u8,
}

impl Disk {
    /// Opens the journal: recovers, begins a life with a segment of its own.
    fn start() -> Disk {
        let mut disk = Disk::default();
        disk.restart();
        disk
    }

    fn restart(&mut self) -> Recovered {
        let recovered = self.recover().unwrap();
        let previous = PreviousEnd { end: recovered.end, corrupt: recovered.corruption.is_some() };
        self.life_id = self.id();
        self.sequence = recovered.last_sequence;
        self.crc = recovered.last_crc;
        self.place = recovered.next_place - 1;
        self.open_segment();
        self.frame(&[Entry::PreviousEnd(previous)]);
        recovered
    }

    fn id(&mut self) -> Id {
        self.random += 1;
        Id([self.random; 16])
    }

    fn open_segment(&mut self) {
        self.files.push(vec![0; SEGMENT_BYTES_MIN as usize]);
        self.reuse(self.files.len() - 1);
    }

    /// Begins a new use of a file: only its header is overwritten.
    fn reuse(&mut self, file: usize) {
        self.place += 1;
        let use_id = self.id();
        let header = SegmentHeader {
            segment_bytes: SEGMENT_BYTES_MIN,
            journal: JOURNAL,
            place: self.place,
            first_sequence: self.sequence + 1,
            life_id: self.life_id,
            use_id,
        };
        self.files[file][..80].copy_from_slice(&header.encode());
        self.file = file;
        self.offset = FRAMES_OFFSET_BYTES as usize;
    }

    fn header(&self, file: usize) -> SegmentHeader {
        match SegmentHeader::decode(&self.files[file]).unwrap() {
            HeaderBlock::Valid(header) => header,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a frame and says where.
    fn frame(&mut self, entries: &[Entry<'_>]) -> (usize, Range<usize>) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut form = FrameForm::new(FRAME_BYTES_MAX);
        entries.iter().for_each(|entry| form.push(&mut buffer, entry));
        let durable_through = self.durable_through.unwrap_or(self.sequence);
        self.sequence += 1;
        let use_crc = UseCrc::new(&self.header(self.file));
        let finished = form.finish(&mut buffer, use_crc, self.sequence, durable_through, self.crc);
        self.crc = finished.crc;
        let range = self.offset..self.offset + finished.frame_bytes;
        self.files[self.file][range.clone()].copy_from_slice(&buffer[..finished.frame_bytes]);
        self.offset = range.end;
        (self.file, range)
    }

    fn next_segment(&mut self) {
        self.frame(&[Entry::End]);
        self.open_segment();
    }

    fn zero(&mut self, (file, range): (usize, Range<usize>)) {
        self.files[file][range].fill(0);
    }

    fn flip(&mut self, (file, range): (usize, Range<usize>)) {
        self.files[file][range.start + 60] ^= 0x10;
    }

    fn snapshot(&mut self, recovered: &Recovered, listed: Vec<ListedSegment>) {
        let head = SnapshotHead {
            journal: JOURNAL,
            covers_through: self.sequence,
            position: Some(Position {
                life_id: self.life_id,
                place: self.place,
                offset_bytes: self.offset as u64,
                crc: self.crc,
            }),
            segments: listed,
        };
        self.snapshot = Some(snapshot::encode(head, &recovered.state).0);
    }

    fn recover(&self) -> Result<Recovered, RecoveryError> {
        let files = self.files.iter().enumerate();
        let input = RecoveryInput {
            journal: JOURNAL,
            segments: files
                .map(|(file, bytes)| SegmentFile {
                    file: file as u32,
                    block: SegmentHeader::decode(bytes).unwrap(),
                })
                .collect(),
            snapshot: self.snapshot.as_ref().map(|bytes| Snapshot::decode(bytes).unwrap()),
            other_journals: BTreeMap::new(),
        };
        let mut recovery = Recovery::new(input)?;
        while let Some(file) = recovery.wanted() {
            recovery.segment(&self.files[file as usize])?;
        }
        Ok(recovery.finish())
    }
}

fn key() -> TimelineKey {
    TimelineKey::default()
}

fn create() -> Entry<'static> {
    let create = Create {
        membership: Membership::default(),
        postgres_version: PostgresVersion(0),
        system_id: SystemId(0),
        segment_size_bytes: 16 << 20,
        start_lsn: Lsn(0x1000),
        commit_lsn: Lsn(0x1000),
    };
    Entry::Change(key(), Change::Create(create))
}

fn vote(term: u64) -> Entry<'static> {
    Entry::Change(key(), Change::Vote { term: Term(term) })
}

fn term(recovered: &Recovered) -> u64 {
    recovered.state.timelines[&key()].state.term.0
}

#[test]
fn an_empty_directory_is_a_new_journal() {
    let recovered = Disk::default().recover().unwrap();
    assert_eq!((recovered.last_sequence, recovered.next_place, recovered.end), (0, 1, None));
    assert!(recovered.corruption.is_none());
}

#[test]
fn frames_of_several_segments_and_lives_are_replayed() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.next_segment();
    disk.frame(&[vote(2)]);
    disk.next_segment();
    disk.restart();
    disk.frame(&[vote(3)]);
    let recovered = disk.recover().unwrap();
    assert_eq!(term(&recovered), 3);
    assert_eq!(recovered.last_sequence, 7);
    assert_eq!(recovered.next_place, 5);
    assert_eq!(recovered.corruption, None);
    assert_eq!(recovered.void_frames, 0);
}

#[test]
fn a_torn_last_frame_is_cut() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let torn = disk.frame(&[vote(2)]);
    for sector in 0..8 {
        let mut disk = disk.clone();
        let start = torn.1.start + sector * 512;
        disk.zero((torn.0, start..torn.1.end));
        let recovered = disk.recover().unwrap();
        assert_eq!(recovered.corruption, None);
        // Padding is zero: a frame that lost only padding is whole.
        assert_eq!(term(&recovered), if sector == 0 { 1 } else { 2 });
    }
}

/// Marks "out-of-order completion with a hole" and "valid frame behind a cut".
#[test]
fn a_hole_in_flight_is_cut_and_what_is_behind_stays_void() {
    marks::reset();
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.durable_through = Some(2);
    let hole = disk.frame(&[vote(2)]);
    let saved = disk.files[hole.0][hole.1.clone()].to_vec();
    disk.frame(&[vote(3)]);
    disk.zero(hole.clone());
    let recovered = disk.recover().unwrap();
    assert_eq!((term(&recovered), recovered.void_frames), (1, 1));
    assert_eq!(marks::count("journal.hole_in_flight"), 1);

    // The next life goes on in a new segment. Even when the lost write shows up after all, it stays void.
    disk.durable_through = None;
    disk.restart();
    disk.frame(&[vote(7)]);
    disk.files[hole.0][hole.1].copy_from_slice(&saved);
    let recovered = disk.recover().unwrap();
    assert_eq!(term(&recovered), 7);
    assert_eq!(recovered.corruption, None);
    assert_eq!(marks::count("journal.valid_frame_behind_cut"), 1);
}

/// Mark "rot with and without witness".
#[test]
fn rot_is_corruption_when_a_witness_knows_better() {
    marks::reset();
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let last = disk.frame(&[vote(2)]);
    let mut unsealed = disk.clone();
    unsealed.flip(last.clone());
    let recovered = unsealed.recover().unwrap();
    assert_eq!((term(&recovered), recovered.corruption), (1, None), "taken for a torn tail");
    assert_eq!(marks::count("journal.rot_with_witness"), 0);

    disk.frame(&[Entry::Seal]);
    disk.flip(last.clone());
    let recovered = disk.recover().unwrap();
    let lost = Corruption::Frame { place: 1, offset_bytes: last.1.start as u64, sequence: 3 };
    assert_eq!(recovered.corruption, Some(lost));
    assert_eq!(term(&recovered), 1);
    assert_eq!(marks::count("journal.rot_with_witness"), 1);

    // The loss is remembered: the next life's first frame says so.
    disk.restart();
    let recovered = disk.recover().unwrap();
    assert_eq!(recovered.corruption, None, "found once, recorded, and void since");
    assert!(recovered.state.is_suspect(key()));
}

#[test]
fn a_witness_in_a_later_segment_counts() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let lost = disk.frame(&[vote(2)]);
    disk.frame(&[Entry::End]);
    disk.durable_through = Some(2);
    disk.open_segment();
    disk.frame(&[vote(3)]);
    let mut in_flight = disk.clone();
    in_flight.zero(lost.clone());
    // Everything after frame 2 was in flight: End is a witness only of what it says.
    let (file, end) = (lost.0, lost.1.end..lost.1.end + 4096);
    in_flight.zero((file, end.clone()));
    assert_eq!(in_flight.recover().unwrap().corruption, None);

    disk.durable_through = Some(3);
    disk.frame(&[Entry::Seal]);
    disk.zero(lost);
    disk.zero((file, end));
    assert!(matches!(
        disk.recover().unwrap().corruption,
        Some(Corruption::Frame { sequence: 3, .. })
    ));
}

/// Mark "stale use of a recycled segment".
#[test]
fn frames_of_an_earlier_use_never_pass() {
    marks::reset();
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.frame(&[vote(2)]);
    disk.frame(&[vote(3)]);
    let first_use = disk.recover().unwrap();
    disk.next_segment();
    disk.snapshot(
        &first_use,
        vec![ListedSegment {
            segment: SegmentPlace { journal: JOURNAL, place: 2 },
            end_offset_bytes: disk.offset as u64,
            use_id: disk.header(1).use_id,
        }],
    );
    disk.frame(&[vote(4)]);
    disk.frame(&[Entry::End]);
    disk.reuse(0);
    disk.frame(&[vote(5)]);
    // Behind the new use's only frame lie the old use's, at the right offsets.
    let recovered = disk.recover().unwrap();
    assert_eq!(term(&recovered), 5);
    assert_eq!(recovered.corruption, None);
    assert_eq!(recovered.void_frames, 0);
    assert_eq!(recovered.replay_place, 2);
    assert!(marks::count("journal.stale_use") >= 1);
}

#[test]
fn tenant_bytes_that_look_like_a_frame_are_none() {
    let mut other = Disk::start();
    other.random = 100;
    other.restart();
    let (file, range) = other.frame(&[vote(1000)]);
    let fake = other.files[file][range].to_vec();
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let mut offset = disk.offset;
    while offset < disk.files[0].len() {
        disk.files[0][offset..offset + 4096].copy_from_slice(&fake);
        offset += 4096;
    }
    let recovered = disk.recover().unwrap();
    assert_eq!((term(&recovered), recovered.void_frames, recovered.corruption), (1, 0, None));
}

/// Mark "crash during recovery".
#[test]
fn recovery_can_crash_and_be_repeated() {
    marks::reset();
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    for attempt in 0..3 {
        let before = disk.files.len();
        disk.restart();
        // The header was written, the first frame was not.
        let frame = (before, FRAMES_OFFSET_BYTES as usize..FRAMES_OFFSET_BYTES as usize + 4096);
        disk.zero(frame);
        let recovered = disk.recover().unwrap();
        assert_eq!((term(&recovered), recovered.last_sequence), (1, 2), "attempt {attempt}");
        assert_eq!(recovered.corruption, None);
    }
    disk.restart();
    disk.frame(&[vote(9)]);
    assert_eq!(term(&disk.recover().unwrap()), 9);
    assert!(marks::count("journal.void_life") >= 3);
}

#[test]
fn a_life_whose_first_frame_rots_is_not_forgotten() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.restart();
    disk.frame(&[vote(2)]);
    disk.frame(&[Entry::Seal]);
    let first = (1, FRAMES_OFFSET_BYTES as usize..FRAMES_OFFSET_BYTES as usize + 4096);
    disk.flip(first);
    let recovered = disk.recover().unwrap();
    let lost = Corruption::Frame { place: 2, offset_bytes: FRAMES_OFFSET_BYTES, sequence: 3 };
    assert_eq!(recovered.corruption, Some(lost));
    assert_eq!(term(&recovered), 1);
    // Also when a further life vouches for it.
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.restart();
    disk.restart();
    disk.flip((1, FRAMES_OFFSET_BYTES as usize..FRAMES_OFFSET_BYTES as usize + 4096));
    assert!(disk.recover().unwrap().corruption.is_some());
}

#[test]
fn a_lost_frame_of_an_older_life_is_corruption() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let lost = disk.frame(&[vote(2)]);
    disk.restart();
    disk.frame(&[vote(5)]);
    disk.flip(lost);
    let recovered = disk.recover().unwrap();
    assert!(matches!(recovered.corruption, Some(Corruption::Frame { sequence: 3, .. })));
    assert_eq!(term(&recovered), 1);
}

#[test]
fn a_rotten_header_is_corruption_and_never_an_empty_file() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.restart();
    disk.frame(&[vote(2)]);
    disk.files[1][40] ^= 1;
    let recovered = disk.recover().unwrap();
    assert!(matches!(recovered.corruption, Some(Corruption::Header { file: 1, .. })));
    assert_eq!(recovered.damaged_files, [1]);
    assert_eq!(term(&recovered), 1);
}

#[test]
fn replay_begins_behind_the_snapshot() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let at_snapshot = disk.recover().unwrap();
    let listed = vec![ListedSegment {
        segment: SegmentPlace { journal: JOURNAL, place: 1 },
        end_offset_bytes: disk.offset as u64,
        use_id: disk.header(0).use_id,
    }];
    disk.snapshot(&at_snapshot, listed);
    disk.frame(&[vote(2)]);
    disk.next_segment();
    disk.frame(&[vote(3)]);
    let recovered = disk.recover().unwrap();
    assert_eq!((term(&recovered), recovered.replayed_frames), (3, 3));
    disk.restart();
    disk.frame(&[vote(4)]);
    let recovered = disk.recover().unwrap();
    assert_eq!((term(&recovered), recovered.replay_place), (4, 1));

    disk.files[0].fill(0);
    let error = disk.recover().unwrap_err();
    assert!(matches!(error, RecoveryError::MissingSegment { place: 1, .. }), "{error}");
}

#[test]
fn replay_goes_on_behind_a_snapshot_taken_at_a_segments_end() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.frame(&[Entry::End]);
    let at_end = disk.recover().unwrap();
    let listed = vec![ListedSegment {
        segment: SegmentPlace { journal: JOURNAL, place: 1 },
        end_offset_bytes: disk.offset as u64,
        use_id: disk.header(0).use_id,
    }];
    disk.offset = SEGMENT_BYTES_MIN as usize;
    disk.snapshot(&at_end, listed);
    assert_eq!(term(&disk.recover().unwrap()), 1);
    let mut cut = disk.clone();
    cut.restart();
    cut.frame(&[vote(3)]);
    assert_eq!(term(&cut.recover().unwrap()), 3);
    disk.open_segment();
    disk.frame(&[vote(2)]);
    assert_eq!(term(&disk.recover().unwrap()), 2);
    disk.restart();
    disk.frame(&[vote(4)]);
    let recovered = disk.recover().unwrap();
    assert_eq!((term(&recovered), recovered.corruption), (4, None));
}

#[test]
fn a_journal_whose_snapshot_is_gone_is_not_a_new_one() {
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    disk.next_segment();
    disk.files[0].fill(0);
    for frames in 0..3 {
        assert!(disk.recover().unwrap().corruption.is_some(), "after {frames} frames");
        disk.frame(&[Entry::Seal]);
    }
}

#[test]
fn files_that_cannot_belong_together_are_refused() {
    let mut disk = Disk::start();
    disk.files.push(disk.files[0].clone());
    assert_eq!(disk.recover().unwrap_err(), RecoveryError::SamePlace { place: 1 });
    let header = SegmentHeader { journal: JournalNumber(4), ..disk.header(0) };
    disk.files[1][..80].copy_from_slice(&header.encode());
    let found = JournalNumber(4);
    assert_eq!(
        disk.recover().unwrap_err(),
        RecoveryError::OtherJournal { expected: JOURNAL, found }
    );
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    fn busy_disk() -> Disk {
        let mut disk = Disk::start();
        disk.frame(&[create(), vote(1)]);
        for term in 2..6 {
            disk.frame(&[vote(term)]);
        }
        disk.next_segment();
        disk.frame(&[vote(6)]);
        disk.restart();
        disk.frame(&[vote(7)]);
        disk
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Damage of any kind never panics, and what is recovered is a prefix of what was written.
        #[test]
        fn damaged_bytes_never_panic(
            damage in prop::collection::vec((0usize..3, 0usize..(40 << 10), any::<u8>()), 1..12)
        ) {
            let mut disk = busy_disk();
            for (file, at, value) in damage {
                disk.files[file][at] = value;
            }
            if let Ok(recovered) = disk.recover() {
                prop_assert!(recovered.last_sequence <= 10);
            }
        }

        #[test]
        fn random_files_never_panic(file in prop::collection::vec(any::<u8>(), 0..9000)) {
            let mut disk = busy_disk();
            let keep = file.len().min(4096);
            disk.files[2][4096..4096 + file.len()].copy_from_slice(&file);
            let _ = disk.recover();
            disk.files[1][..keep].copy_from_slice(&file[..keep]);
            let _ = disk.recover();
            let _ = Snapshot::decode(&file);
            let _ = crate::journal::layout::Layout::decode(&file);
            let header = disk.header(0);
            let _ = crate::journal::inspect::items(&header, &file).count();
        }
    }
}

/// Each deliberate bug of recovery and format makes one of the tests here fail.
#[test]
fn mutants_are_caught() {
    for (mutant, test) in [
        (Mutant::ForgetVote, frames_of_several_segments_and_lives_are_replayed as fn()),
        (Mutant::DropFrameIds, tenant_bytes_that_look_like_a_frame_are_none as fn()),
    ] {
        mutant::switch(Some(mutant));
        let caught = std::panic::catch_unwind(test).is_err();
        mutant::switch(None);
        assert!(caught, "{mutant:?} was not noticed");
    }
}

#[test]
fn a_dump_names_every_entry_and_gap() {
    use crate::journal::inspect::{Item, items, repair_report};
    let mut disk = Disk::start();
    disk.frame(&[create(), vote(1)]);
    let lost = disk.frame(&[vote(2)]);
    disk.frame(&[Entry::Seal]);
    disk.flip(lost);
    let header = disk.header(0);
    let found: Vec<_> = items(&header, &disk.files[0])
        .map(|item| match item {
            Item::Frame { header, entries, .. } => (header.sequence, entries.join("; ")),
            Item::Gap { offset_bytes, bytes } => (0, format!("{bytes} bytes at {offset_bytes}")),
        })
        .collect();
    let zeros = "0".repeat(32);
    let expected = [
        (1, "previous end nothing before".to_string()),
        (
            2,
            format!(
                "create {zeros}/{zeros} generation 0 start 0/1000 commit 0/1000 WAL segments of 16777216 bytes; \
                 vote {zeros}/{zeros} 1"
            ),
        ),
        (0, "4096 bytes at 12288".to_string()),
        (4, "seal".to_string()),
        (0, "45056 bytes at 20480".to_string()),
    ];
    assert_eq!(found, expected);
    let report = repair_report(&disk.recover().unwrap());
    assert_eq!(report.suspect_timelines, [key()]);
    assert!(report.lost_frames && report.finding.unwrap().contains("frame 3 is missing"));
}
