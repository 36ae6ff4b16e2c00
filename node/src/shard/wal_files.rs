//! WAL as files under Postgres' names: what `restore_command` fetches.
//!
//! Only committed bytes are given, and they never change: a segment that is asked for again has the same bytes and
//! perhaps more of them behind. What is not committed reads as zeroes, which end recovery there.

use std::fmt::Write;

use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::types::{Lsn, PostgresTimeline, TimelineKey};

use crate::shard::Shard;
use crate::shard::request::{ManagementError, WAL_READ_BYTES_MAX, WalFilePiece};

/// A file of Postgres' WAL directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileName {
    Segment { timeline: PostgresTimeline, begin: Lsn },
    History { timeline: PostgresTimeline },
}

/// Reads one piece of a file; one shorter than [`WAL_READ_BYTES_MAX`] is the last.
pub(super) async fn read(
    shard: &Shard,
    key: TimelineKey,
    piece: &WalFilePiece,
) -> Result<Vec<u8>, ManagementError> {
    let timeline = shard.timeline(key)?;
    let segment_bytes = timeline.segment_size_bytes();
    let unknown = || ManagementError::NotFound(format!("{} is not here", piece.name));
    let name = parse(&piece.name, segment_bytes).ok_or_else(|| {
        let expected = "expected the name of a WAL segment or of a .history file";
        ManagementError::Invalid(format!("{:?}: {expected}", piece.name))
    })?;
    let history = timeline.with_acceptor(|acceptor| acceptor.state().postgres_history.clone());
    let (file_timeline, begin) = match name {
        FileName::History { timeline } => {
            let text = history_file(&history, timeline).ok_or_else(unknown)?;
            let from = usize::try_from(piece.offset_bytes).unwrap_or(usize::MAX).min(text.len());
            return Ok(text.as_bytes()[from..].to_vec());
        }
        FileName::Segment { timeline, begin } => (timeline, begin),
    };
    let committed = timeline.positions().commit_lsn;
    // A segment in which one Postgres timeline leaves another exists under both names, up to its own end in each.
    let end = end_of(&history, file_timeline, committed).min(begin + segment_bytes);
    let first_name = history.timeline_at(begin);
    let holds_some = end > begin.max(timeline.first_readable_lsn());
    if !holds_some || file_timeline < first_name || begin < timeline.first_readable_lsn() {
        return Err(unknown());
    }
    let from = begin + piece.offset_bytes.min(segment_bytes);
    let piece_end = (from + WAL_READ_BYTES_MAX as u64).min(begin + segment_bytes);
    let mut bytes = Vec::with_capacity((piece_end - from) as usize);
    while from + (bytes.len() as u64) < piece_end.min(end) {
        let position = from + bytes.len() as u64;
        let wanted = (piece_end.min(end) - position) as usize;
        let wal = timeline.read_wal(position, wanted).await;
        let wal = wal.map_err(|error| ManagementError::Unavailable(error.to_string()))?;
        if wal.is_empty() {
            // Committed bytes are durable before they are called committed here.
            return Err(ManagementError::Unavailable(format!("no WAL at {position}")));
        }
        bytes.extend_from_slice(&wal);
    }
    bytes.resize((piece_end - from) as usize, 0);
    Ok(bytes)
}

/// Where the WAL of a Postgres timeline ends: where the next one leaves it, or at the committed end.
fn end_of(history: &PostgresHistory, timeline: PostgresTimeline, committed: Lsn) -> Lsn {
    let known = history.timeline_at(committed);
    if timeline > known {
        return Lsn::INVALID;
    }
    let next = history.0.iter().find(|switch| switch.timeline > timeline);
    next.map_or(committed, |switch| switch.lsn.min(committed))
}

/// `TTTTTTTTXXXXXXXXYYYYYYYY` or `TTTTTTTT.history` (PostgreSQL src/include/access/xlog_internal.h).
fn parse(name: &str, segment_bytes: u64) -> Option<FileName> {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let timeline_of = |digits: &str| number(digits).map(PostgresTimeline);
    if let Some(digits) = name.strip_suffix(".history") {
        let whole = digits.len() == 8 && is_hex(digits);
        let timeline = whole.then(|| timeline_of(digits)).flatten()?;
        return Some(FileName::History { timeline });
    }
    if name.len() != 24 || !is_hex(name) {
        return None;
    }
    let (high, low) = (number(&name[8..16])?, number(&name[16..])?);
    let segments_per_file_id = (1 << 32) / segment_bytes;
    if u64::from(low) >= segments_per_file_id {
        return None;
    }
    let begin = Lsn((u64::from(high) << 32) + u64::from(low) * segment_bytes);
    // The very last segments of the 64-bit space hold no WAL that arithmetic could end.
    begin.0.checked_add(2 * segment_bytes)?;
    Some(FileName::Segment { timeline: timeline_of(&name[..8])?, begin })
}

/// The history file of a Postgres timeline: its ancestors, one per line (PostgreSQL src/backend/access/transam/timeline.c).
pub(crate) fn history_file(
    history: &PostgresHistory,
    timeline: PostgresTimeline,
) -> Option<String> {
    let index = history.0.iter().position(|switch| switch.timeline == timeline)?;
    let mut text = String::new();
    for pair in history.0[..=index].windows(2) {
        let (parent, child) = (pair[0], pair[1]);
        writeln!(text, "{}\t{}\tno reason given", parent.timeline.0, child.lsn)
            .expect("writing to a string does not fail");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use firn_core::consensus::postgres_history::PostgresSwitch;

    use super::*;

    fn history(switches: &[(u32, u64)]) -> PostgresHistory {
        let switch = |(timeline, lsn): &(u32, u64)| PostgresSwitch {
            timeline: PostgresTimeline(*timeline),
            lsn: Lsn(*lsn),
        };
        PostgresHistory(switches.iter().map(switch).collect())
    }

    #[test]
    fn names_of_segments_and_history_files() {
        let segment = |timeline, begin| {
            Some(FileName::Segment { timeline: PostgresTimeline(timeline), begin: Lsn(begin) })
        };
        assert_eq!(parse("000000010000000000000002", 16 << 20), segment(1, 0x200_0000));
        assert_eq!(parse("0000000A00000003000000FF", 16 << 20), segment(10, 0x3_FF00_0000));
        assert_eq!(parse("000000010000000000000003", 1 << 30), segment(1, 0xC000_0000));
        assert_eq!(parse("000000010000000000000004", 1 << 30), None);
        assert_eq!(parse("FFFFFFFFFFFFFFFF000000FF", 16 << 20), None);
        assert_eq!(
            parse("00000002.history", 16 << 20),
            Some(FileName::History { timeline: PostgresTimeline(2) })
        );
        for wrong in ["", "00000002.backup", "+0000002.history", "00000001000000000000000g", "../x"]
        {
            assert_eq!(parse(wrong, 16 << 20), None, "{wrong}");
        }
    }

    #[test]
    fn a_history_file_names_the_ancestors() {
        let history = history(&[(1, 0), (2, 0x200_0100), (4, 0x300_0000)]);
        let text = |timeline| history_file(&history, PostgresTimeline(timeline));
        assert_eq!(text(1), None);
        assert_eq!(text(3), None);
        assert_eq!(text(2).unwrap(), "1\t0/2000100\tno reason given\n");
        assert_eq!(
            text(4).unwrap(),
            "1\t0/2000100\tno reason given\n2\t0/3000000\tno reason given\n"
        );
    }

    #[test]
    fn a_timeline_ends_where_the_next_leaves_it() {
        let history = history(&[(1, 0), (2, 0x200_0100)]);
        let end =
            |timeline, committed| end_of(&history, PostgresTimeline(timeline), Lsn(committed));
        assert_eq!(end(1, 0x250_0000), Lsn(0x200_0100));
        assert_eq!(end(2, 0x250_0000), Lsn(0x250_0000));
        assert_eq!(end(1, 0x150_0000), Lsn(0x150_0000));
        assert_eq!(end(3, 0x250_0000), Lsn::INVALID);
        assert_eq!(end_of(&PostgresHistory::default(), PostgresTimeline(1), Lsn(9)), Lsn(9));
    }
}
