use super::*;
use crate::consensus::change::{Change, Create};
use crate::consensus::membership::{Member, Membership};
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::journal::entry::{Entry, LayerEdit, Moved};
use crate::journal::wal_place::FilePiece;
use crate::types::*;

fn key(number: u8) -> TimelineKey {
    let id = Id([number; 16]);
    TimelineKey { tenant_id: TenantId(id), timeline_id: TimelineId(id) }
}

fn state() -> ShardState {
    let at = SegmentPlace { journal: JournalNumber(3), place: 8 };
    let member = Member { id: NodeId(1), host: "a".to_string(), pg_port: 1 };
    let membership =
        Membership { generation: Generation(1), members: vec![member], new_members: None };
    let create = Create {
        membership,
        postgres_version: PostgresVersion(160_009),
        system_id: SystemId(5),
        segment_size_bytes: 1 << 20,
        start_lsn: Lsn(0x1000),
        commit_lsn: Lsn(0x1000),
    };
    let history = TermHistory(vec![TermStart { term: Term(2), lsn: Lsn(0x1000) }]);
    let append = Change::Append {
        term: Term(2),
        begin: Lsn(0x1000),
        end: Lsn(0x1020),
        commit_lsn: Lsn(0x1000),
        record_end: Lsn(0x1010),
        wal: &[7; 32],
    };
    let target = FilePiece {
        postgres_timeline: PostgresTimeline(1),
        begin: Lsn(0x1000),
        end: Lsn(0x1010),
        crc: 9,
    };
    let moved = Moved { term: Term(2), source: WalPlace::Ring(at), target };
    let elected = Change::Elected { term: Term(2), history, truncate_to: Lsn(0x1000) };
    let mut state = ShardState::default();
    for entry in [
        Entry::Change(key(1), Change::Create(create.clone())),
        Entry::Change(key(1), Change::Delete),
        Entry::Change(key(2), Change::Create(create)),
        Entry::Change(key(2), elected),
        Entry::Change(key(2), append),
        Entry::Moved(key(2), moved),
        Entry::LayerEdit(key(2), LayerEdit { replaces_all: false, edit: b"edit" }),
    ] {
        state.apply(&entry, at).unwrap();
    }
    state
}

fn head() -> SnapshotHead {
    SnapshotHead {
        journal: JournalNumber(3),
        covers_through: 77,
        position: Some(Position {
            life_id: Id([0xAA; 16]),
            place: 9,
            offset_bytes: 8192,
            crc: 0x1122_3344,
        }),
        segments: vec![ListedSegment {
            segment: SegmentPlace { journal: JournalNumber(3), place: 8 },
            use_id: Id([0xBB; 16]),
            end_offset_bytes: 12288,
        }],
    }
}

#[test]
fn a_state_comes_back() {
    let (bytes, name) = encode(head(), &state());
    assert_eq!(bytes.len() as u64, name.file_bytes);
    let snapshot = Snapshot::decode(&bytes).unwrap();
    assert_eq!(snapshot, Snapshot { head: head(), state: state(), name });
    let first = SnapshotHead { position: None, segments: vec![], covers_through: 0, ..head() };
    let mut lost = ShardState { lost_frames: true, ..state() };
    std::rc::Rc::make_mut(lost.timelines.get_mut(&key(2)).unwrap()).suspect = true;
    let (bytes, _) = encode(first.clone(), &lost);
    let snapshot = Snapshot::decode(&bytes).unwrap();
    assert_eq!((snapshot.head, snapshot.state), (first, lost));
}

#[test]
fn laid_out_as_drawn() {
    let (bytes, name) = encode(head(), &state());
    let mut drawn = Vec::new();
    drawn.extend_from_slice(b"FIRNSNAP");
    drawn.extend_from_slice(&1u32.to_le_bytes()); // version
    drawn.extend_from_slice(&name.crc.to_le_bytes()); // crc
    drawn.extend_from_slice(&8192u64.to_le_bytes()); // file_bytes
    drawn.extend_from_slice(&3u32.to_le_bytes()); // journal
    drawn.extend_from_slice(&1u32.to_le_bytes()); // flags: has position
    drawn.extend_from_slice(&77u64.to_le_bytes()); // covers_through
    drawn.extend_from_slice(&[0xAA; 16]); // life_id
    drawn.extend_from_slice(&9u64.to_le_bytes()); // place
    drawn.extend_from_slice(&8192u64.to_le_bytes()); // offset_bytes
    drawn.extend_from_slice(&0x1122_3344u32.to_le_bytes()); // frame_crc
    for count in [1u32, 1, 1] {
        drawn.extend_from_slice(&count.to_le_bytes()); // segments, tombstones, timelines
    }
    assert_eq!(bytes[..HEADER_BYTES], drawn[..]);
    assert_eq!(name.crc, 0x3F6F_89D8);
}

#[test]
fn torn_or_rotten_is_not_a_snapshot() {
    let (bytes, _) = encode(head(), &state());
    for sectors in 0..bytes.len() / 512 {
        let mut torn = bytes.clone();
        torn[sectors * 512..].fill(0);
        // Padding is zero anyway: a tear within it is none.
        if torn != bytes {
            assert!(Snapshot::decode(&torn).is_err());
        }
        assert!(Snapshot::decode(&bytes[..sectors * 512]).is_err());
    }
    for bit in (0..bytes.len() * 8).step_by(7) {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn a_range_outside_its_piece_is_refused() {
    let (bytes, _) = encode(head(), &state());
    // Begin and end of the range in the raw file, then its place: kind, timeline, begin and end of the piece.
    let numbers = [0x1000u64, 0x1010, 1 | 1 << 32, 0x1000, 0x1010];
    let numbers = numbers.map(u64::to_le_bytes).concat();
    let at = bytes.windows(numbers.len()).position(|window| window == numbers).unwrap();
    for (field, value) in [(0, 0xFF8u64), (8, 0x1011), (24, 0x1008), (32, 0x1008)] {
        let mut bad = bytes.clone();
        bad[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
        let crc = file_crc(&bad);
        bad[12..16].copy_from_slice(&crc.to_le_bytes());
        let error = Snapshot::decode(&bad).unwrap_err().to_string();
        assert!(error.contains("piece"), "{error}");
    }
}

#[test]
fn hostile_bytes_with_a_right_crc_are_errors_at_worst() {
    let (bytes, _) = encode(head(), &state());
    for at in (16..HEADER_BYTES).chain(BLOCK_BYTES..BLOCK_BYTES + 500) {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut bad = bytes.clone();
            bad[at] = value;
            let crc = file_crc(&bad);
            bad[12..16].copy_from_slice(&crc.to_le_bytes());
            let _ = Snapshot::decode(&bad);
        }
    }
}
