use super::*;
use crate::consensus::change::Create;
use crate::consensus::membership::{Member, Membership};
use crate::consensus::postgres_history::{PostgresHistory, PostgresSwitch};
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::journal::segment::JournalNumber;
use crate::journal::wal_place::SegmentPlace;
use crate::types::*;

fn key() -> TimelineKey {
    TimelineKey { tenant_id: TenantId(Id([0x11; 16])), timeline_id: TimelineId(Id([0x22; 16])) }
}

fn membership() -> Membership {
    let member =
        |id: u64, host: &str| Member { id: NodeId(id), host: host.to_string(), pg_port: 5454 };
    Membership {
        generation: Generation(3),
        members: vec![member(1, "a"), member(2, "node-b.example")],
        new_members: Some(vec![member(4, "")]),
    }
}

fn history() -> TermHistory {
    TermHistory(vec![
        TermStart { term: Term(1), lsn: Lsn(0x1000) },
        TermStart { term: Term(4), lsn: Lsn(0x2000) },
    ])
}

fn ring() -> WalPlace {
    WalPlace::Ring(SegmentPlace { journal: JournalNumber(7), place: 9 })
}

fn piece() -> FilePiece {
    FilePiece {
        postgres_timeline: PostgresTimeline(1),
        begin: Lsn(0x1000),
        end: Lsn(0x1010),
        crc: 0xAABB_CCDD,
    }
}

/// One of every kind.
fn samples() -> Vec<Entry<'static>> {
    let create = Create {
        membership: membership(),
        postgres_version: PostgresVersion(170_006),
        system_id: SystemId(0x0102_0304_0506_0708),
        segment_size_bytes: 16 << 20,
        start_lsn: Lsn(0x1000),
        commit_lsn: Lsn(0x1000),
    };
    let append = Change::Append {
        term: Term(4),
        begin: Lsn(0x1000),
        end: Lsn(0x1005),
        commit_lsn: Lsn(0xFF0),
        record_end: Lsn(0xFF8),
        wal: b"hello",
    };
    let elected = Change::Elected { term: Term(4), history: history(), truncate_to: Lsn(0x2000) };
    let position = Change::Position { commit_lsn: Lsn(0x1000), peer_horizon_lsn: Lsn(0x800) };
    let cluster =
        Change::Cluster { postgres_version: PostgresVersion(150_019), system_id: SystemId(77) };
    let switches = PostgresHistory(vec![
        PostgresSwitch { timeline: PostgresTimeline(1), lsn: Lsn(0x1000) },
        PostgresSwitch { timeline: PostgresTimeline(3), lsn: Lsn(0x2000) },
    ]);
    let end = LifeEnd { place: 3, offset_bytes: 8192, sequence: 17 };
    vec![
        Entry::Change(key(), append),
        Entry::Change(key(), Change::Vote { term: Term(5) }),
        Entry::Change(key(), Change::Term { term: Term(6) }),
        Entry::Change(key(), elected),
        Entry::Change(key(), position),
        Entry::Change(key(), Change::Membership(membership())),
        Entry::Change(key(), Change::Create(create)),
        Entry::Change(key(), Change::Delete),
        Entry::Change(key(), cluster),
        Entry::Moved(key(), Moved { term: Term(4), source: ring(), target: piece() }),
        Entry::Forwarded(
            key(),
            Forwarded { term: Term(4), source: ring(), begin: Lsn(0x1000), wal: b"tail" },
        ),
        Entry::Trimmed(key(), Lsn(0x900)),
        Entry::LayerEdit(key(), LayerEdit { replaces_all: true, edit: b"opaque" }),
        Entry::Reseeded(key()),
        Entry::Snapshot(SnapshotName { covers_through: 40, file_bytes: 8192, crc: 0x1234_5678 }),
        Entry::PreviousEnd(PreviousEnd { end: Some(end), corrupt: true }),
        Entry::PreviousEnd(PreviousEnd { end: None, corrupt: false }),
        Entry::Seal,
        Entry::End,
        Entry::Change(key(), Change::PostgresHistory(switches)),
    ]
}

fn encoded(entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = vec![0xFF; entry.encoded_bytes()];
    entry.encode(&mut bytes);
    bytes
}

#[test]
fn every_kind_comes_back() {
    for entry in samples() {
        entry.check().unwrap();
        let mut bytes = encoded(&entry);
        let exact = bytes.len();
        bytes.extend_from_slice(&[1, 2, 3]);
        let (found, rest) = EntryBytes::split(&bytes).unwrap();
        assert_eq!(rest, &bytes[exact..]);
        assert_eq!(found.decode().unwrap(), entry);
    }
}

#[test]
fn append_is_laid_out_as_drawn() {
    let bytes = encoded(&samples()[0]);
    let mut drawn = Vec::new();
    drawn.extend_from_slice(&96u32.to_le_bytes()); // entry_bytes
    drawn.extend_from_slice(&0x3C1E_CEB5u32.to_le_bytes()); // crc
    drawn.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // kind
    drawn.extend_from_slice(&[0x11; 16]); // tenant_id
    drawn.extend_from_slice(&[0x22; 16]); // timeline_id
    for field in [4u64, 0x1000, 0x1005, 0xFF0, 0xFF8] {
        drawn.extend_from_slice(&field.to_le_bytes());
    }
    drawn.extend_from_slice(b"hello\0\0\0");
    assert_eq!(bytes, drawn);
}

/// Kind, length, CRC of the bytes of each.
#[test]
fn bytes_of_every_kind_are_golden() {
    let golden = [
        (1, 96, 0x3C1E_CEB5),
        (2, 56, 0x3F1E_113C),
        (3, 56, 0xF873_8B51),
        (4, 104, 0x7F92_F7B1),
        (5, 64, 0x0113_053E),
        (6, 112, 0x5E79_E0C8),
        (7, 144, 0x26A7_54A6),
        (8, 48, 0xD4BB_0784),
        (9, 64, 0xBD8D_1880),
        (16, 120, 0xCE3D_D5A8),
        (17, 104, 0x06B4_0EBC),
        (18, 56, 0xB66C_995C),
        (24, 64, 0x1C0D_8C5C),
        (25, 48, 0xE844_5AA2),
        (32, 72, 0xD801_2EF0),
        (33, 80, 0x5FAB_EEAA),
        (33, 80, 0x0F63_3CC9),
        (34, 48, 0x3A58_196A),
        (35, 48, 0xE798_0C41),
        (10, 80, 0x1067_47E1),
    ];
    let found: Vec<_> = samples()
        .iter()
        .map(|entry| {
            let bytes = encoded(entry);
            (bytes[8], bytes.len(), u32::from_le_bytes(bytes[4..8].try_into().unwrap()))
        })
        .collect();
    assert_eq!(found, golden);
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    for entry in samples() {
        let bytes = encoded(&entry);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(EntryBytes::split(&bad).is_err(), "{} bit {bit}", entry.name());
        }
    }
}

#[test]
fn hostile_bytes_with_a_right_crc_are_errors_at_worst() {
    for entry in samples() {
        let bytes = encoded(&entry);
        for at in 8..bytes.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = bytes.clone();
                bad[at] = value;
                let crc = entry_crc(&bad);
                bad[4..8].copy_from_slice(&crc.to_le_bytes());
                let (split, _) = EntryBytes::split(&bad).unwrap();
                let _ = split.decode();
            }
        }
    }
}

#[test]
fn too_much_is_refused_before_it_is_encoded() {
    let wal = vec![0; crate::journal::ENTRY_BYTES_MAX];
    let append = Change::Append {
        term: Term(1),
        begin: Lsn(0),
        end: Lsn(wal.len() as u64),
        commit_lsn: Lsn(0),
        record_end: Lsn(0),
        wal: &wal,
    };
    assert!(matches!(Entry::Change(key(), append).check(), Err(EntryError::Long { .. })));
    let mut crowd = membership();
    crowd.members = vec![crowd.members[0].clone(); MEMBERS_MAX + 1];
    let error = Entry::Change(key(), Change::Membership(crowd)).check().unwrap_err();
    assert_eq!(error.to_string(), "journal entry: members is 33, expected at most 32");
}
