//! Postgres' own formats, 14 to 18: WAL, data pages, and redo of one onto the other.
//!
//! All of it is bytes in, bytes out; WAL and pages come from networks and disks and are hostile. Read [`wal`] first
//! (what a record is), then [`page`] (line pointers and tuples), then [`redo`] (what a record does to a page).

pub mod bytes;
pub mod page;
mod prefetch;
pub mod redo;
pub mod wal;
