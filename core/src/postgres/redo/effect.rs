//! What a record touches, as values: a page store applies them, a test compares them.

use crate::postgres::wal::{BlockTag, RelationId};

/// One thing that a record touches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect<'a> {
    /// A block that the record refers to: see [`super::Redo::redo_block`].
    Block {
        /// The reference's id.
        id: u8,
        /// The block.
        tag: BlockTag,
    },
    /// Bits of the visibility map to clear without moving the map page's LSN; the record does not refer to that page.
    ClearVisibility {
        /// The heap relation.
        relation: RelationId,
        /// The heap block whose bits they are.
        heap_block: u32,
        /// [`super::visibility_map::ALL_VISIBLE`], [`super::visibility_map::ALL_FROZEN`].
        bits: u8,
    },
    /// A checkpoint's 88-byte CheckPoint structure: counters exact at a shutdown, else as minimum.
    Checkpoint {
        /// Whether the server was shut down.
        shutdown: bool,
        /// The structure as it goes into the control file.
        data: &'a [u8],
    },
    /// The next object id to give out.
    NextOid(u32),
    /// Settings that go into the control file (XLOG/PARAMETER_CHANGE).
    Parameters(Parameters),
    /// A base backup that began at this LSN is consistent from here on.
    BackupEnd {
        /// Where the backup began.
        start: crate::types::Lsn,
    },
    /// A new Postgres timeline begins.
    EndOfRecovery {
        /// The new timeline.
        timeline: u32,
        /// The one before.
        previous_timeline: u32,
    },
    /// Full-page writes were switched.
    FullPageWrites(bool),
}

/// Settings of the primary that a copy of its data directory must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: i32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}
