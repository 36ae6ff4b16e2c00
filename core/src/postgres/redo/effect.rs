//! What a record touches, as values: a page store applies them, a test compares them.

use super::slru::Slru;
use crate::postgres::wal::{BlockTag, Fork, RelationId};
use crate::types::Lsn;

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
        start: Lsn,
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
    /// A transaction or subtransaction ended.
    TransactionEnd {
        /// The transaction.
        xid: u32,
        /// Committed, or aborted.
        committed: bool,
    },
    /// When a transaction or subtransaction committed: kept only with `track_commit_timestamp`.
    CommitTimestamp {
        /// The transaction.
        xid: u32,
        /// Microseconds since 2000-01-01.
        time_us: i64,
        /// Replication origin, 0 = none.
        origin: u16,
    },
    /// A page of a simple log is all zero from here on.
    SlruZeroPage {
        /// Which log.
        slru: Slru,
        /// The page's number.
        page: u64,
    },
    /// Whole segments of a simple log before a page (compared modulo the xid space) are no longer needed.
    SlruTruncate {
        /// Which log.
        slru: Slru,
        /// The first page to keep.
        page: u64,
        /// The oldest transaction that the log still knows.
        oldest_xid: u32,
    },
    /// Where the members of a multixact begin.
    MultiXactOffset {
        /// The multixact.
        multixact: u32,
        /// Index of its first member.
        offset: u32,
        /// It is the next multixact's entry: late minor releases write it with this record, older ones with the next.
        ahead: bool,
    },
    /// One member of a multixact.
    MultiXactMember {
        /// Index of the member.
        offset: u32,
        /// The transaction.
        xid: u32,
        /// What it did to the tuple (MultiXactStatus).
        status: u8,
    },
    /// The next multixact and member index are at least these.
    MultiXactNext {
        /// Next multixact.
        multixact: u32,
        /// Next member index.
        offset: u32,
    },
    /// Segments of both multixact logs before these are no longer needed.
    MultiXactTruncate {
        /// First multixact to keep.
        multixact: u32,
        /// First member to drop.
        members_from: u32,
        /// First member to keep.
        members_to: u32,
        /// The database that holds the oldest multixact.
        oldest_database: u32,
    },
    /// A fork exists, empty unless it exists already.
    RelationCreate {
        /// The relation.
        relation: RelationId,
        /// The fork.
        fork: Fork,
    },
    /// A relation is cut. Its visibility map is cut by [`super::visibility_map::truncate`].
    RelationTruncate {
        /// The relation.
        relation: RelationId,
        /// Blocks that are left.
        blocks: u32,
        /// Whether the main fork is cut.
        main: bool,
        /// Whether the visibility map is cut to what covers these blocks.
        visibility_map: bool,
        /// Whether the free space map is cut.
        free_space_map: bool,
    },
    /// All forks of a relation are gone.
    RelationDrop(RelationId),
    /// A database's or the shared relation map (pg_filenode.map), whole.
    RelationMap {
        /// The database, 0 for the shared map.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
        /// The file.
        data: &'a [u8],
    },
    /// A database is a copy of another's files as of this record, after dropping what may be left of it.
    DatabaseCopy {
        /// The new database.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
        /// The database that is copied.
        source_database: u32,
        /// Its tablespace.
        source_tablespace: u32,
    },
    /// A database exists, with nothing in it yet.
    DatabaseCreate {
        /// The database.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
    },
    /// A database is gone from a tablespace.
    DatabaseDrop {
        /// The database.
        database: u32,
        /// The tablespace.
        tablespace: u32,
    },
    /// A tablespace exists.
    TablespaceCreate {
        /// The tablespace.
        tablespace: u32,
        /// Where it is; empty for one inside the data directory.
        path: &'a [u8],
    },
    /// A tablespace is gone.
    TablespaceDrop {
        /// The tablespace.
        tablespace: u32,
    },
    /// State of a prepared transaction: the contents of its file without their CRC.
    TwoPhasePrepare {
        /// The transaction.
        xid: u32,
        /// The state.
        data: &'a [u8],
    },
    /// A prepared transaction has ended: its state is gone.
    TwoPhaseEnd {
        /// The transaction.
        xid: u32,
    },
    /// Transactions that run.
    RunningTransactions {
        /// The next transaction id.
        next_xid: u32,
        /// The oldest that runs.
        oldest_running_xid: u32,
        /// The latest that has ended.
        latest_completed_xid: u32,
    },
    /// Changes from a replication origin are replayed up to a position of the origin.
    OriginAdvance {
        /// The origin.
        origin: u16,
        /// The origin's position.
        remote_lsn: Lsn,
        /// Whether the position holds even if it is behind the one before.
        backward: bool,
    },
    /// A replication origin is gone.
    OriginDrop {
        /// The origin.
        origin: u16,
    },
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
