//! What people ask of a journal that no process writes: every frame and entry, and what a corruption affects.
//!
//! Pure, over the bytes of whole files; `firn journal` reads the files.

use super::entry::Entry;
use super::frame::{Frame, FrameHeader, UseCrc};
use super::recovery::Recovered;
use super::segment::{FRAMES_OFFSET_BYTES, SegmentHeader};
use crate::consensus::change::Change;
use crate::types::TimelineKey;

/// Something in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A valid frame.
    Frame {
        /// Where it begins.
        offset_bytes: u64,
        /// Its header.
        header: FrameHeader,
        /// A line for each entry.
        entries: Vec<String>,
    },
    /// Bytes without a valid frame of this use: never written, of an earlier use, torn or rotten.
    Gap {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// The frames and gaps of a segment, in order.
pub fn items<'a>(header: &SegmentHeader, bytes: &'a [u8]) -> Items<'a> {
    Items { bytes, use_crc: UseCrc::new(header), at: FRAMES_OFFSET_BYTES as usize }
}

/// Iterator over a segment.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    bytes: &'a [u8],
    use_crc: UseCrc,
    at: usize,
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let begin = self.at;
        while let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) {
            let Ok(frame) = Frame::parse(rest, self.use_crc) else {
                self.at += super::BLOCK_BYTES;
                continue;
            };
            if self.at > begin {
                break;
            }
            self.at += frame.header.frame_bytes as usize;
            let entries = frame.entries().map(|entry| match entry {
                Ok((_, entry)) => describe(&entry),
                Err(error) => error.to_string(),
            });
            return Some(Item::Frame {
                offset_bytes: begin as u64,
                header: frame.header,
                entries: entries.collect(),
            });
        }
        let end = self.at.min(self.bytes.len());
        let bytes = end.saturating_sub(begin) as u64;
        (bytes > 0).then_some(Item::Gap { offset_bytes: begin as u64, bytes })
    }
}

/// One line about an entry.
pub fn describe(entry: &Entry<'_>) -> String {
    let name = entry.name();
    let fields = match entry {
        Entry::Change(_, change) => describe_change(change),
        Entry::Moved(_, moved) => format!(
            " term {} [{}, {}) from {:?} to Postgres timeline {}, crc {:08x}",
            moved.term,
            moved.target.begin,
            moved.target.end,
            moved.source,
            moved.target.postgres_timeline.0,
            moved.target.crc
        ),
        Entry::Forwarded(_, forwarded) => format!(
            " term {} [{}, {}) from {:?}",
            forwarded.term,
            forwarded.begin,
            forwarded.begin + forwarded.wal.len() as u64,
            forwarded.source
        ),
        Entry::Trimmed(_, below) => format!(" below {below}"),
        Entry::LayerEdit(_, edit) => {
            format!(" {} bytes, replaces all {}", edit.edit.len(), edit.replaces_all)
        }
        Entry::Snapshot(snapshot) => format!(
            " through {}, {} bytes, crc {:08x}",
            snapshot.covers_through, snapshot.file_bytes, snapshot.crc
        ),
        Entry::PreviousEnd(previous) => match previous.end {
            None => " nothing before".to_string(),
            Some(end) => format!(
                " place {} offset {} sequence {} corrupt {}",
                end.place, end.offset_bytes, end.sequence, previous.corrupt
            ),
        },
        Entry::Reseeded(_) | Entry::Seal | Entry::End => String::new(),
    };
    match entry.key() {
        Some(key) => format!("{name} {key}{fields}"),
        None => format!("{name}{fields}"),
    }
}

fn describe_change(change: &Change<'_>) -> String {
    match change {
        Change::Create(create) => format!(
            " generation {} start {} commit {} WAL segments of {} bytes",
            create.membership.generation,
            create.start_lsn,
            create.commit_lsn,
            create.segment_size_bytes
        ),
        Change::Delete => String::new(),
        Change::Vote { term } | Change::Term { term } => format!(" {term}"),
        Change::Elected { term, history, truncate_to } => {
            format!(" term {term}, {} terms, cut at {truncate_to}", history.0.len())
        }
        Change::Append { term, begin, end, commit_lsn, record_end, .. } => {
            format!(" term {term} [{begin}, {end}) commit {commit_lsn} record end {record_end}")
        }
        Change::Position { commit_lsn, peer_horizon_lsn } => {
            format!(" commit {commit_lsn} peer horizon {peer_horizon_lsn}")
        }
        Change::Membership(membership) => {
            format!(" generation {}, {} members", membership.generation, membership.members.len())
        }
        Change::PostgresHistory(history) => format!(" {} timelines", history.0.len()),
        Change::Cluster { postgres_version, system_id } => {
            format!(" system id {} version {}", system_id.0, postgres_version.0)
        }
    }
}

/// What a corruption means for a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// What was found, for people; `None`: nothing is wrong.
    pub finding: Option<String>,
    /// Timelines that vote and append again only when they were re-seeded.
    pub suspect_timelines: Vec<TimelineKey>,
    /// Timelines that are not known here may have been in what was lost: creating them anew is refused as well.
    pub lost_frames: bool,
}

/// What to repair after a recovery.
pub fn repair_report(recovered: &Recovered) -> RepairReport {
    let state = &recovered.state;
    let corrupt = recovered.corruption.is_some();
    let suspect = |key: &&TimelineKey| corrupt || state.is_suspect(**key);
    RepairReport {
        finding: recovered.corruption.as_ref().map(ToString::to_string),
        suspect_timelines: state.timelines.keys().filter(suspect).copied().collect(),
        lost_frames: corrupt || state.lost_frames,
    }
}
