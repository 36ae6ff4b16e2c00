//! Redo against Postgres' own images: WAL of a real server, replayed record by record.
//!
//! With `wal_consistency_checking=all` Postgres puts into each record the pages as they are after it. [`replay`] starts
//! from the data directory as it was before, replays every record and compares each block that carries such an image,
//! both masked as Postgres masks ([`mask`]); after the last record every page is compared with the stopped server's
//! files. A difference is counted and the page replaced by the image, so that one fault shows once.
//!
//! Read [`replay`] first, then [`report`].

pub mod compare;
pub mod data_directory;
pub mod mask;
pub mod replay;
pub mod report;
pub mod samples;
pub mod store;
pub mod workload;
