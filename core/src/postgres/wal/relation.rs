//! Which block of which file of which relation.

use std::fmt;

/// A relation's file set: tablespace, database, relation number (RelFileLocator).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId {
    /// Tablespace (1663 = pg_default, 1664 = pg_global).
    pub tablespace: u32,
    /// Database; 0 for shared relations.
    pub database: u32,
    /// Number of the relation's files (relfilenumber).
    pub number: u32,
}

impl fmt::Display for RelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// One of a relation's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The contents.
    Main,
    /// Free space map.
    FreeSpaceMap,
    /// Visibility map.
    VisibilityMap,
    /// What an unlogged relation becomes after a crash.
    Init,
}

impl Fork {
    /// The fork of Postgres' number.
    pub fn from_number(number: u8) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::FreeSpaceMap),
            2 => Some(Fork::VisibilityMap),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    /// Postgres' name, as in `pg_waldump`.
    pub fn name(self) -> &'static str {
        match self {
            Fork::Main => "main",
            Fork::FreeSpaceMap => "fsm",
            Fork::VisibilityMap => "vm",
            Fork::Init => "init",
        }
    }
}

/// One block of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockTag {
    /// The relation.
    pub relation: RelationId,
    /// The fork.
    pub fork: Fork,
    /// The block's number within the fork.
    pub block: u32,
}

impl fmt::Display for BlockTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} block {}", self.relation, self.fork.name(), self.block)
    }
}
