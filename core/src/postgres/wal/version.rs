//! Which Postgres wrote the WAL: its major version is in every page header.

use std::fmt;

/// Major version of the Postgres that wrote the WAL, by the magic number of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    /// Postgres 14.
    V14,
    /// Postgres 15.
    V15,
    /// Postgres 16.
    V16,
    /// Postgres 17.
    V17,
    /// Postgres 18.
    V18,
}

impl WalVersion {
    /// Every version that is understood, oldest first.
    pub const ALL: [WalVersion; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The version whose pages begin with `magic` (XLOG_PAGE_MAGIC), if it is understood.
    pub fn from_page_magic(magic: u16) -> Option<WalVersion> {
        Self::ALL.into_iter().find(|version| version.page_magic() == magic)
    }

    /// The version of a major number, as 15.
    pub fn from_major(major: u32) -> Option<WalVersion> {
        Self::ALL.into_iter().find(|version| version.major() == major)
    }

    /// XLOG_PAGE_MAGIC; minor releases never change it.
    pub fn page_magic(self) -> u16 {
        match self {
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The major number, as 15.
    pub fn major(self) -> u32 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }
}

impl fmt::Display for WalVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.major().fmt(f)
    }
}
