//! Why bytes are not the WAL that was expected at their position.

use thiserror::Error;

use super::WalVersion;
use crate::postgres::bytes::Misfit;
use crate::types::Lsn;

/// Why bytes are not valid WAL. At the tail of a log most of these mean "end of WAL", not corruption.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WalError {
    /// The segment size is not one that Postgres allows.
    #[error("WAL segment size {found} bytes: expected a power of two from 1 MiB to 1 GiB")]
    SegmentSize {
        /// What was given or found in a segment's header.
        found: u32,
    },
    /// The position is too near the end of the 64-bit space to be real.
    #[error("WAL position {lsn} is out of range")]
    PositionOutOfRange {
        /// The position.
        lsn: Lsn,
    },
    /// A field of a page header is wrong.
    #[error("WAL page {page}: {field} is {found:#x}, expected {expected:#x}")]
    PageHeader {
        /// Start of the page.
        page: Lsn,
        /// Name of the field.
        field: &'static str,
        /// What the page says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// The page's magic number is not one of Postgres 14-18.
    #[error("WAL page {page}: magic {found:#06x} is not of Postgres 14 to 18")]
    UnknownMagic {
        /// Start of the page.
        page: Lsn,
        /// The magic number.
        found: u16,
    },
    /// The page lacks the continuation of a record that began before it.
    #[error("WAL page {page}: no continuation of the record at {record}")]
    MissingContinuation {
        /// Start of the page.
        page: Lsn,
        /// Start of the record.
        record: Lsn,
    },
    /// A record's length is zero: nothing was written here yet.
    #[error("no WAL record at {record}: its length is zero")]
    ZeroLength {
        /// Where a record was expected.
        record: Lsn,
    },
    /// A record's length is impossible.
    #[error("WAL record at {record}: length {found} bytes, expected {min} to {max}")]
    RecordLength {
        /// Start of the record.
        record: Lsn,
        /// What its header says.
        found: u32,
        /// The least possible.
        min: u32,
        /// The most possible.
        max: u32,
    },
    /// The record does not follow the record before it.
    #[error("WAL record at {record}: previous record {found}, expected {expected}")]
    PreviousRecord {
        /// Start of the record.
        record: Lsn,
        /// What its header says.
        found: Lsn,
        /// Start of the record before it; for the first record seen, any earlier position.
        expected: Lsn,
    },
    /// The record names a resource manager that cannot exist.
    #[error("WAL record at {record}: resource manager {found} does not exist")]
    ResourceManager {
        /// Start of the record.
        record: Lsn,
        /// Its number.
        found: u8,
    },
    /// The record's bytes do not have the CRC that its header says.
    #[error("WAL record at {record}: CRC {found:#010x}, expected {expected:#010x}")]
    Crc {
        /// Start of the record.
        record: Lsn,
        /// CRC-32C of its bytes.
        found: u32,
        /// What its header says.
        expected: u32,
    },
    /// Neither the caller nor a page header said which Postgres wrote the record.
    #[error("WAL record at {record}: the version of Postgres is not known")]
    VersionUnknown {
        /// Start of the record.
        record: Lsn,
    },
    /// The pages are of another version than the caller said.
    #[error("WAL record at {record}: pages are of Postgres {found}, expected {expected}")]
    Version {
        /// Start of the record.
        record: Lsn,
        /// What the pages say.
        found: WalVersion,
        /// What the caller said.
        expected: WalVersion,
    },
    /// The record's CRC is right, but its parts contradict each other.
    #[error("WAL record at {record}: {misfit}")]
    Malformed {
        /// Start of the record.
        record: Lsn,
        /// What does not fit.
        misfit: Misfit,
    },
}
