//! What can go wrong, for callers.

use std::io;
use std::path::{Path, PathBuf};

use firn_core::journal::FormatError;
use firn_core::journal::entry::EntryError;
use firn_core::journal::recovery::RecoveryError;
use firn_core::types::{Lsn, TimelineKey};
use thiserror::Error;

use super::options::OptionsError;

/// The first failure of a journal's write or flush. Nothing was retried; only a restart opens the journal again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{error} (while: {stage})")]
pub struct Poison {
    /// What was being done.
    pub stage: &'static str,
    /// The device's answer.
    pub error: String,
}

/// Why the journal refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// It failed once.
    #[error("journal failed and takes nothing until the node is restarted: {0}")]
    Poisoned(Poison),
    /// The ring is full of live WAL, and there is no room to move it to.
    #[error("journal is full: the disk has no room for the WAL that must be kept")]
    Full,
    /// The ring has no room at this moment; await `ready` first.
    #[error("journal has no room for WAL at this moment")]
    NotReady,
    /// More is queued than the bound allows; await `ready` first.
    #[error("journal queue holds {found} bytes, expected at most {expected}")]
    QueueFull {
        /// The bound.
        expected: usize,
        /// Bytes queued.
        found: usize,
    },
    /// The entry is out of bounds.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// No such timeline.
    #[error("timeline {0} is not in the journal")]
    UnknownTimeline(TimelineKey),
    /// The timeline is there already, or was there in as high a generation.
    #[error("timeline {0} is or was in the journal already")]
    TimelineExists(TimelineKey),
    /// Acknowledged entries of the timeline may have been lost.
    #[error(
        "timeline {0} must be re-seeded: acknowledged entries of this shard's journal were lost"
    )]
    Suspect(TimelineKey),
    /// The page store's edits are more than a manifest may leave behind.
    #[error(
        "timeline {key} has {found} bytes of layer edits, expected at most {expected}: write a manifest"
    )]
    LayerEdits {
        /// The timeline.
        key: TimelineKey,
        /// The bound.
        expected: usize,
        /// Bytes with the new edit.
        found: usize,
    },
    /// The WAL is not (or no longer, or not yet durably) here.
    #[error("timeline {key} has no WAL at {lsn}")]
    NoWal {
        /// The timeline.
        key: TimelineKey,
        /// The position.
        lsn: Lsn,
    },
    /// Bytes on the disk are not what was written.
    #[error("{path} at {offset_bytes}: {error}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the checked bytes begin.
        offset_bytes: u64,
        /// What the check says.
        error: String,
    },
    /// A read failed.
    #[error("{0}")]
    Read(String),
}

/// Why a journal does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system's answer.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// A file that only a newer program reads.
    #[error("{path}: {error}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: FormatError,
    },
    /// The files do not belong together.
    #[error("{directory}: {error}")]
    Recovery {
        /// The journal's directory.
        directory: PathBuf,
        /// What is wrong.
        error: RecoveryError,
    },
    /// The snapshot names WAL in a file that is not there.
    #[error("{path}: missing, but the journal says that it holds WAL")]
    MissingWalFile {
        /// The file.
        path: PathBuf,
    },
    /// Journals without the file that says whose they are.
    #[error("{path}: missing, but there are journals beside it")]
    MissingLayout {
        /// Where it should be.
        path: PathBuf,
    },
    /// Sizes that do not fit together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The new life's first frame did not get to the disk.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl OpenError {
    /// Puts the place to an answer of the operating system.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_path_buf();
        move |error| OpenError::Io { what, path, error }
    }
}
