//! Redo against Postgres' own images: WAL of a real server, replayed record by record.
//!
//! With `wal_consistency_checking=all` Postgres puts into each record the pages as they are after it. [`replay`] starts
//! from the data directory as it was before, replays every record and compares each block that carries such an image,
//! both masked as Postgres masks ([`mask`]); after the last record every page is compared with the stopped server's
//! files. A difference is counted and the page replaced by the image, so that one fault shows once.
//!
//! What is no page is compared too: counters at every checkpoint ([`counters`]), what records say in `pg_waldump`'s words
//! ([`waldump`]), and files of the stopped server ([`state`]). A record type that no server wrote fails the run unless it
//! is named with the reason.
//!
//! Read [`pass`] first, then [`replay`] and [`report`].

pub mod compare;
pub mod counters;
pub mod data_directory;
pub mod mask;
pub mod odd_records;
pub mod pass;
pub mod regression;
pub mod replay;
pub mod report;
pub mod samples;
pub mod state;
pub mod state_files;
pub mod store;
pub mod waldump;
pub mod workload;
