//! What Postgres calls resource managers and their records: the texts of `pg_waldump --stats=record`.

use super::WalVersion;

/// Numbers of the resource managers of core (PostgreSQL src/include/access/rmgrlist.h).
pub mod rmgr {
    #![allow(missing_docs, reason = "each name is Postgres' own")]
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const HASH: u8 = 12;
    pub const GIN: u8 = 13;
    pub const GIST: u8 = 14;
    pub const SEQUENCE: u8 = 15;
    pub const SPGIST: u8 = 16;
    pub const BRIN: u8 = 17;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLICATION_ORIGIN: u8 = 19;
    pub const GENERIC: u8 = 20;
    pub const LOGICAL_MESSAGE: u8 = 21;
    /// Neon's, in its Postgres 16 and 17.
    pub const NEON: u8 = 134;
}

/// A resource manager's name; none for custom ones.
pub fn resource_manager_name(resource_manager: u8) -> Option<&'static str> {
    const NAMES: [&str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];
    match resource_manager {
        rmgr::NEON => Some("neon"),
        _ => NAMES.get(usize::from(resource_manager)).copied(),
    }
}

/// What tells the records of one resource manager apart, for statistics: the operation, without the flags that
/// `pg_waldump` leaves out as well.
pub fn record_kind(resource_manager: u8, info: u8) -> u8 {
    if resource_manager == rmgr::XACT { info & 0x70 } else { info & 0xF0 }
}

/// A record's name; none for records that the resource manager does not have.
pub fn record_name(version: WalVersion, resource_manager: u8, info: u8) -> Option<&'static str> {
    let operation = record_kind(resource_manager, info);
    if (resource_manager, operation) == (rmgr::XLOG, 0xE0) && version < WalVersion::V17 {
        return None;
    }
    let names: &[(u8, &'static str)] = match resource_manager {
        rmgr::XLOG => &[
            (0x00, "CHECKPOINT_SHUTDOWN"),
            (0x10, "CHECKPOINT_ONLINE"),
            (0x20, "NOOP"),
            (0x30, "NEXTOID"),
            (0x40, "SWITCH"),
            (0x50, "BACKUP_END"),
            (0x60, "PARAMETER_CHANGE"),
            (0x70, "RESTORE_POINT"),
            (0x80, "FPW_CHANGE"),
            (0x90, "END_OF_RECOVERY"),
            (0xA0, "FPI_FOR_HINT"),
            (0xB0, "FPI"),
            (0xD0, "OVERWRITE_CONTRECORD"),
            (0xE0, "CHECKPOINT_REDO"),
        ],
        rmgr::XACT => &[
            (0x00, "COMMIT"),
            (0x10, "PREPARE"),
            (0x20, "ABORT"),
            (0x30, "COMMIT_PREPARED"),
            (0x40, "ABORT_PREPARED"),
            (0x50, "ASSIGNMENT"),
            (0x60, "INVALIDATION"),
        ],
        rmgr::SMGR => &[(0x10, "CREATE"), (0x20, "TRUNCATE")],
        rmgr::CLOG | rmgr::COMMIT_TS => &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")],
        rmgr::DBASE if version == WalVersion::V14 => &[(0x00, "CREATE"), (0x10, "DROP")],
        rmgr::DBASE => &[(0x00, "CREATE_FILE_COPY"), (0x10, "CREATE_WAL_LOG"), (0x20, "DROP")],
        rmgr::TBLSPC => &[(0x00, "CREATE"), (0x10, "DROP")],
        rmgr::MULTIXACT => &[
            (0x00, "ZERO_OFF_PAGE"),
            (0x10, "ZERO_MEM_PAGE"),
            (0x20, "CREATE_ID"),
            (0x30, "TRUNCATE_ID"),
        ],
        rmgr::RELMAP => &[(0x00, "UPDATE")],
        rmgr::STANDBY => &[(0x00, "LOCK"), (0x10, "RUNNING_XACTS"), (0x20, "INVALIDATIONS")],
        rmgr::HEAP2 if version >= WalVersion::V17 => &[
            (0x00, "REWRITE"),
            (0x10, "PRUNE_ON_ACCESS"),
            (0x20, "PRUNE_VACUUM_SCAN"),
            (0x30, "PRUNE_VACUUM_CLEANUP"),
            (0x40, "VISIBLE"),
            (0x50, "MULTI_INSERT"),
            (0xD0, "MULTI_INSERT+INIT"),
            (0x60, "LOCK_UPDATED"),
            (0x70, "NEW_CID"),
        ],
        rmgr::HEAP2 => &[
            (0x00, "REWRITE"),
            (0x10, "PRUNE"),
            (0x20, "VACUUM"),
            (0x30, "FREEZE_PAGE"),
            (0x40, "VISIBLE"),
            (0x50, "MULTI_INSERT"),
            (0xD0, "MULTI_INSERT+INIT"),
            (0x60, "LOCK_UPDATED"),
            (0x70, "NEW_CID"),
        ],
        rmgr::HEAP => &[
            (0x00, "INSERT"),
            (0x80, "INSERT+INIT"),
            (0x10, "DELETE"),
            (0x20, "UPDATE"),
            (0xA0, "UPDATE+INIT"),
            (0x30, "TRUNCATE"),
            (0x40, "HOT_UPDATE"),
            (0xC0, "HOT_UPDATE+INIT"),
            (0x50, "HEAP_CONFIRM"),
            (0x60, "LOCK"),
            (0x70, "INPLACE"),
        ],
        rmgr::BTREE => &[
            (0x00, "INSERT_LEAF"),
            (0x10, "INSERT_UPPER"),
            (0x20, "INSERT_META"),
            (0x30, "SPLIT_L"),
            (0x40, "SPLIT_R"),
            (0x50, "INSERT_POST"),
            (0x60, "DEDUP"),
            (0x70, "DELETE"),
            (0x80, "UNLINK_PAGE"),
            (0x90, "UNLINK_PAGE_META"),
            (0xA0, "NEWROOT"),
            (0xB0, "MARK_PAGE_HALFDEAD"),
            (0xC0, "VACUUM"),
            (0xD0, "REUSE_PAGE"),
            (0xE0, "META_CLEANUP"),
        ],
        rmgr::HASH => &[
            (0x00, "INIT_META_PAGE"),
            (0x10, "INIT_BITMAP_PAGE"),
            (0x20, "INSERT"),
            (0x30, "ADD_OVFL_PAGE"),
            (0x40, "SPLIT_ALLOCATE_PAGE"),
            (0x50, "SPLIT_PAGE"),
            (0x60, "SPLIT_COMPLETE"),
            (0x70, "MOVE_PAGE_CONTENTS"),
            (0x80, "SQUEEZE_PAGE"),
            (0x90, "DELETE"),
            (0xA0, "SPLIT_CLEANUP"),
            (0xB0, "UPDATE_META_PAGE"),
            (0xC0, "VACUUM_ONE_PAGE"),
        ],
        rmgr::GIN => &[
            (0x10, "CREATE_PTREE"),
            (0x20, "INSERT"),
            (0x30, "SPLIT"),
            (0x40, "VACUUM_PAGE"),
            (0x50, "DELETE_PAGE"),
            (0x60, "UPDATE_META_PAGE"),
            (0x70, "INSERT_LISTPAGE"),
            (0x80, "DELETE_LISTPAGE"),
            (0x90, "VACUUM_DATA_LEAF_PAGE"),
        ],
        rmgr::GIST => &[
            (0x00, "PAGE_UPDATE"),
            (0x10, "DELETE"),
            (0x20, "PAGE_REUSE"),
            (0x30, "PAGE_SPLIT"),
            (0x60, "PAGE_DELETE"),
            (0x70, "ASSIGN_LSN"),
        ],
        rmgr::SEQUENCE => &[(0x00, "LOG")],
        rmgr::SPGIST => &[
            (0x10, "ADD_LEAF"),
            (0x20, "MOVE_LEAFS"),
            (0x30, "ADD_NODE"),
            (0x40, "SPLIT_TUPLE"),
            (0x50, "PICKSPLIT"),
            (0x60, "VACUUM_LEAF"),
            (0x70, "VACUUM_ROOT"),
            (0x80, "VACUUM_REDIRECT"),
        ],
        rmgr::BRIN => &[
            (0x00, "CREATE_INDEX"),
            (0x10, "INSERT"),
            (0x90, "INSERT+INIT"),
            (0x20, "UPDATE"),
            (0xA0, "UPDATE+INIT"),
            (0x30, "SAMEPAGE_UPDATE"),
            (0x40, "REVMAP_EXTEND"),
            (0x50, "DESUMMARIZE"),
        ],
        rmgr::REPLICATION_ORIGIN => &[(0x00, "SET"), (0x10, "DROP")],
        rmgr::GENERIC => &[(0x00, "Generic")],
        rmgr::LOGICAL_MESSAGE => &[(0x00, "MESSAGE")],
        rmgr::NEON => &[
            (0x00, "INSERT"),
            (0x80, "INSERT+INIT"),
            (0x10, "DELETE"),
            (0x20, "UPDATE"),
            (0xA0, "UPDATE+INIT"),
            (0x30, "HOT_UPDATE"),
            (0xB0, "HOT_UPDATE+INIT"),
            (0x40, "LOCK"),
            (0x50, "MULTI_INSERT"),
            (0xD0, "MULTI_INSERT+INIT"),
        ],
        _ => &[],
    };
    names.iter().find(|(number, _)| *number == operation).map(|(_, name)| *name)
}
