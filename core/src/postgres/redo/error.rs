//! A record that does not fit its page, or itself.

use std::fmt;

use thiserror::Error;

use crate::postgres::bytes::Misfit;
use crate::postgres::wal::names::{record_name, resource_manager_name};
use crate::postgres::wal::{BlockTag, Record, WalVersion};
use crate::types::Lsn;

/// A record's name for people, as `Heap/INSERT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordName {
    version: WalVersion,
    resource_manager: u8,
    info: u8,
}

impl RecordName {
    /// The name of `record`.
    pub fn of(record: &Record<'_>) -> RecordName {
        RecordName {
            version: record.version,
            resource_manager: record.resource_manager(),
            info: record.info(),
        }
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match resource_manager_name(self.resource_manager) {
            Some(name) => write!(f, "{name}/")?,
            None => write!(f, "custom{:03}/", self.resource_manager)?,
        }
        match record_name(self.version, self.resource_manager, self.info) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#04x}", self.info & 0xF0),
        }
    }
}

/// A record cannot be replayed: it contradicts itself or the page. The page is half changed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("redo of {record} at {lsn}{}: {misfit}", On(block))]
pub struct RedoError {
    /// Where the record starts.
    pub lsn: Lsn,
    /// Which record it is.
    pub record: RecordName,
    /// The block that it was replayed onto.
    pub block: Option<BlockTag>,
    /// What was expected.
    pub misfit: Misfit,
}

impl RedoError {
    pub(super) fn new(record: &Record<'_>, block: Option<BlockTag>, misfit: Misfit) -> RedoError {
        RedoError { lsn: record.start, record: RecordName::of(record), block, misfit }
    }
}

struct On<'a>(&'a Option<BlockTag>);

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(block) => write!(f, " on {block}"),
            None => Ok(()),
        }
    }
}
