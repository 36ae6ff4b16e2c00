use super::*;
use crate::consensus::membership::Membership;
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::journal::segment::JournalNumber;
use crate::journal::wal_place::FilePiece;
use crate::types::*;

const A: u64 = 0x10_0000;

fn key() -> TimelineKey {
    TimelineKey { tenant_id: TenantId(Id([1; 16])), timeline_id: TimelineId(Id([2; 16])) }
}

fn at(place: u64) -> SegmentPlace {
    SegmentPlace { journal: JournalNumber(0), place }
}

fn create(generation: u32) -> Entry<'static> {
    let membership =
        Membership { generation: Generation(generation), members: vec![], new_members: None };
    Entry::Change(
        key(),
        Change::Create(Create {
            membership,
            postgres_version: PostgresVersion(0),
            system_id: SystemId(0),
            segment_size_bytes: 16 << 20,
            start_lsn: Lsn(A),
            commit_lsn: Lsn(A),
        }),
    )
}

fn elected(term: u64, truncate_to: u64) -> Entry<'static> {
    let history = (1..=term)
        .map(|number| TermStart {
            term: Term(number),
            lsn: Lsn(if number == 1 { A } else { truncate_to }),
        })
        .collect();
    let change = Change::Elected {
        term: Term(term),
        history: TermHistory(history),
        truncate_to: Lsn(truncate_to),
    };
    Entry::Change(key(), change)
}

fn append(term: u64, begin: u64, wal: &[u8]) -> Entry<'_> {
    let change = Change::Append {
        term: Term(term),
        begin: Lsn(begin),
        end: Lsn(begin + wal.len() as u64),
        commit_lsn: Lsn(A),
        record_end: Lsn(begin),
        wal,
    };
    Entry::Change(key(), change)
}

fn piece(begin: u64, end: u64, crc: u32) -> FilePiece {
    FilePiece { postgres_timeline: PostgresTimeline(1), begin: Lsn(begin), end: Lsn(end), crc }
}

fn moved(place: u64, target: FilePiece) -> Entry<'static> {
    Entry::Moved(key(), Moved { term: Term(1), source: WalPlace::Ring(at(place)), target })
}

fn state(entries: &[(u64, Entry<'_>)]) -> ShardState {
    let mut state = ShardState::default();
    for (place, entry) in entries {
        state.apply(entry, at(*place)).unwrap();
    }
    state
}

fn ranges(state: &ShardState) -> Vec<(u64, u64, WalPlace)> {
    let wal = &state.timelines[&key()].wal;
    wal.iter().map(|(range, place)| (range.start.0 - A, range.end.0 - A, *place)).collect()
}

#[test]
fn appends_of_one_segment_are_one_range() {
    let state = state(&[
        (1, create(1)),
        (1, elected(1, A)),
        (1, append(1, A, &[0; 10])),
        (1, append(1, A + 10, &[0; 10])),
        (2, append(1, A + 20, &[0; 10])),
    ]);
    let expected = [(0, 20, WalPlace::Ring(at(1))), (20, 30, WalPlace::Ring(at(2)))];
    assert_eq!(ranges(&state), expected);
    assert_eq!(state.segments(), BTreeSet::from([at(1), at(2)]));
}

#[test]
fn an_election_cuts_the_log() {
    let state = state(&[
        (1, create(1)),
        (1, elected(1, A)),
        (1, append(1, A, &[0; 20])),
        (2, append(1, A + 20, &[0; 10])),
        (2, elected(2, A + 15)),
        (3, append(2, A + 15, &[1; 10])),
    ]);
    let expected = [(0, 15, WalPlace::Ring(at(1))), (15, 25, WalPlace::Ring(at(3)))];
    assert_eq!(ranges(&state), expected);
}

/// The mark "truncate then move": the copy was made, then the tail was cut and rewritten, then the entry came.
#[test]
fn a_move_takes_only_what_still_lies_at_its_source() {
    marks::reset();
    let file = piece(A, A + 20, 1);
    let state = state(&[
        (1, create(1)),
        (1, elected(1, A)),
        (1, append(1, A, &[0; 20])),
        (2, elected(2, A + 15)),
        (2, append(2, A + 15, &[1; 10])),
        (2, moved(1, file)),
    ]);
    let expected = [(0, 15, WalPlace::File(file)), (15, 25, WalPlace::Ring(at(2)))];
    assert_eq!(ranges(&state), expected);
    assert_eq!(marks::count("journal.moved_after_truncate"), 1);
}

#[test]
fn a_piece_can_be_checked_anew_before_its_cut_off_part_is_overwritten() {
    let whole = piece(A, A + 20, 1);
    let live = piece(A, A + 15, 2);
    let recheck = Moved { term: Term(2), source: WalPlace::File(whole), target: live };
    let state = state(&[
        (1, create(1)),
        (1, elected(1, A)),
        (1, append(1, A, &[0; 20])),
        (2, moved(1, whole)),
        (2, elected(2, A + 15)),
        (2, Entry::Moved(key(), recheck)),
    ]);
    assert_eq!(ranges(&state), [(0, 15, WalPlace::File(live))]);
}

#[test]
fn a_tail_goes_forward_in_the_ring() {
    let forwarded =
        Forwarded { term: Term(1), source: WalPlace::Ring(at(1)), begin: Lsn(A), wal: &[0; 20] };
    let state = state(&[
        (1, create(1)),
        (1, elected(1, A)),
        (1, append(1, A, &[0; 20])),
        (1, Entry::Trimmed(key(), Lsn(A + 5))),
        (4, Entry::Forwarded(key(), forwarded)),
    ]);
    assert_eq!(ranges(&state), [(5, 20, WalPlace::Ring(at(4)))]);
}

#[test]
fn a_tombstone_refuses_old_generations() {
    let mut state = state(&[(1, create(3)), (1, Entry::Change(key(), Change::Delete))]);
    assert_eq!(state.tombstones[&key()], Generation(3));
    let error = state.apply(&create(3), at(1)).unwrap_err();
    assert!(matches!(error, StateError::Exists { expected: Generation(3), .. }));
    state.apply(&create(4), at(1)).unwrap();
    assert!(state.tombstones.is_empty());
    assert!(matches!(state.apply(&create(5), at(1)), Err(StateError::Exists { .. })));
    // Work that was under way for a deleted timeline changes nothing.
    state.apply(&Entry::Change(key(), Change::Delete), at(1)).unwrap();
    state.apply(&moved(1, piece(A, A + 1, 0)), at(1)).unwrap();
    let vote = Entry::Change(key(), Change::Vote { term: Term(9) });
    assert!(matches!(state.apply(&vote, at(1)), Err(StateError::Unknown { .. })));
}

#[test]
fn entries_that_contradict_the_ones_before_are_refused_and_change_nothing() {
    let wal = [0; 20];
    let mut state = state(&[(1, create(1)), (1, elected(2, A)), (1, append(2, A, &wal))]);
    let before = state.clone();
    let below_commit = elected(3, A - 1);
    let past_the_end = elected(3, A + 21);
    let gap = append(2, A + 21, &wal);
    let stale_term = append(1, A + 20, &wal);
    let old_vote = Entry::Change(key(), Change::Vote { term: Term(2) });
    for entry in [below_commit, past_the_end, gap, stale_term, old_vote] {
        let error = state.apply(&entry, at(2)).unwrap_err();
        assert!(matches!(error, StateError::Change { .. }), "{error}");
        assert_eq!(state, before, "{error}");
    }
}

#[test]
fn lost_frames_make_every_timeline_suspect_until_it_is_seeded_again() {
    let mut state = state(&[(1, create(1))]);
    let previous = super::super::entry::PreviousEnd { end: None, corrupt: true };
    assert!(!state.is_suspect(key()));
    state.apply(&Entry::PreviousEnd(previous), at(2)).unwrap();
    assert!(state.is_suspect(key()));
    assert!(state.is_suspect(TimelineKey::default()), "it may have been in the lost frames");
    state.apply(&Entry::Reseeded(key()), at(2)).unwrap();
    assert!(!state.is_suspect(key()));
}

#[test]
fn layer_edits_gather_until_a_manifest_has_them() {
    let edit = |replaces_all, edit: &'static [u8]| {
        Entry::LayerEdit(key(), LayerEdit { replaces_all, edit })
    };
    let mut state = state(&[(1, create(1)), (1, edit(false, b"a")), (1, edit(false, b"bc"))]);
    assert_eq!(state.timelines[&key()].layer_edits_bytes(), 3);
    state.apply(&edit(true, b"d"), at(1)).unwrap();
    assert_eq!(state.timelines[&key()].layer_edits, [b"d"[..].into()]);
}
