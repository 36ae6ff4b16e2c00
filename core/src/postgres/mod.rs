//! Postgres' own formats: WAL, pages, control file.

pub mod wal;
