//! Records that no SQL alone makes a server write, and state that is to be there when it stops: two-phase files,
//! tablespaces, origins. Every stage goes on from the one before.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use firn_core::types::Lsn;

use super::data_directory::segments;
use super::pass::Pass;
use super::replay::SEGMENT_BYTES;
use crate::local::postgres::PostgresServer;
use crate::local::postgres_install::ServerUser;

/// WAL's page size.
const PAGE_BYTES: u64 = 8192;

/// All stages.
pub fn run(server: &mut PostgresServer, pass: Pass) -> Result<()> {
    if pass.wal_level == "logical" {
        map_rewritten_rows(server)?;
    }
    change_parameters(server, pass)?;
    leave_state(server)?;
    crash_in_a_record(server)?;
    promote(server)?;
    server.sql("INSERT INTO odd.t SELECT g, 'the end' FROM generate_series(1, 100) g").map(|_| ())
}

/// Heap2/REWRITE: a catalog is rewritten that a logical slot may still read.
fn map_rewritten_rows(server: &PostgresServer) -> Result<()> {
    server.sql("SELECT pg_create_logical_replication_slot('odd', 'pgoutput')")?;
    server.sql(
        "CREATE TABLE rewritten (a int); ALTER TABLE rewritten ADD b int; DROP TABLE rewritten",
    )?;
    server.sql("VACUUM FULL pg_attribute")?;
    server.sql("VACUUM FULL pg_class")?;
    server.sql("SELECT pg_drop_replication_slot('odd')").map(|_| ())
}

/// XLOG/PARAMETER_CHANGE with every setting changed and changed back, commit timestamps dropped and begun anew, hints
/// logged, and Gist/ASSIGN_LSN: at `wal_level=minimal` an index of a new table has no WAL but needs LSNs. The table is
/// dropped in its own transaction, so that no page without WAL stays.
fn change_parameters(server: &mut PostgresServer, pass: Pass) -> Result<()> {
    let restart = |server: &mut PostgresServer, settings: &[(&str, &str)]| {
        server.stop()?;
        server.configure(settings)?;
        server.start()
    };
    server.sql(
        "CREATE SCHEMA odd;
         CREATE TABLE odd.t (id int, t text) WITH (autovacuum_enabled = off);
         INSERT INTO odd.t SELECT g, md5(g::text) FROM generate_series(1, 3000) g",
    )?;
    let minimal = [
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_connections", "90"),
        ("max_worker_processes", "9"),
        ("max_prepared_transactions", "21"),
        ("max_locks_per_transaction", "65"),
        ("wal_log_hints", "on"),
        ("track_commit_timestamp", "off"),
    ];
    restart(server, &minimal)?;
    server.sql(
        "BEGIN;
         CREATE TABLE odd.g (p point);
         CREATE INDEX ON odd.g USING gist (p);
         INSERT INTO odd.g SELECT point(g * 7919 % 1009, g) FROM generate_series(1, 3000) g;
         DROP TABLE odd.g;
         COMMIT",
    )?;
    server.sql("DELETE FROM odd.t WHERE id % 7 = 0; SELECT count(*) FROM odd.t")?;
    server.sql("VACUUM (FREEZE) odd.t")?;
    let before = [
        ("wal_level", pass.wal_level),
        ("max_wal_senders", "10"),
        ("max_connections", "100"),
        ("max_worker_processes", "8"),
        ("max_prepared_transactions", "20"),
        ("max_locks_per_transaction", "64"),
        ("wal_log_hints", "off"),
        ("track_commit_timestamp", "on"),
    ];
    restart(server, &before)?;
    server.sql("UPDATE odd.t SET t = 'x' WHERE id % 5 = 0; SELECT count(*) FROM odd.t")?;
    server.sql("VACUUM (FREEZE) odd.t").map(|_| ())
}

/// State that the stopped server still has.
fn leave_state(server: &PostgresServer) -> Result<()> {
    let space = server.data().with_extension("tablespace");
    fs::create_dir(&space)?;
    ServerUser::give(&space)?;
    for statement in [
        "CREATE TABLESPACE odd_inside LOCATION ''",
        &format!("CREATE TABLESPACE odd_outside LOCATION '{}'", space.display()),
        "CREATE TABLESPACE odd_dropped LOCATION ''",
        "DROP TABLESPACE odd_dropped",
        "CREATE TABLE odd.inside TABLESPACE odd_inside AS SELECT g FROM generate_series(1, 900) g",
        "CREATE TABLE odd.outside TABLESPACE odd_outside AS SELECT g FROM generate_series(1, 900) g",
        "CREATE DATABASE odd_copied STRATEGY file_copy",
        "CREATE DATABASE odd_logged STRATEGY wal_log",
        "CREATE DATABASE odd_moved",
        "ALTER DATABASE odd_moved SET TABLESPACE odd_inside",
        "CREATE DATABASE odd_outside TABLESPACE odd_outside STRATEGY wal_log",
        "SELECT pg_replication_origin_create('odd_' || g) FROM generate_series(1, 5) g",
        "SELECT pg_replication_origin_advance('odd_1', '0/2000'), pg_replication_origin_advance('odd_2', '1/3000')",
        "SELECT pg_replication_origin_advance('odd_1', '0/1000')",
        "SELECT pg_replication_origin_advance('odd_3', '0/4000')",
        "SELECT pg_replication_origin_drop('odd_3')",
        "SELECT pg_replication_origin_session_setup('odd_4');
         BEGIN;
         SELECT pg_replication_origin_xact_setup('0/5000', '2024-04-04 04:04:04+00');
         INSERT INTO odd.t VALUES (-1, 'from elsewhere');
         COMMIT",
        "SELECT pg_replication_origin_session_setup('odd_5');
         BEGIN;
         SELECT pg_replication_origin_xact_setup('0/6000', '2024-04-04 04:04:04+00');
         INSERT INTO odd.t VALUES (-2, 'from elsewhere');
         PREPARE TRANSACTION 'odd_from_elsewhere'",
        "BEGIN;
         INSERT INTO odd.t VALUES (-3, 'prepared');
         SAVEPOINT s;
         CREATE TABLE odd.prepared AS SELECT g FROM generate_series(1, 500) g;
         PREPARE TRANSACTION 'odd_1'",
        "BEGIN; DELETE FROM odd.t WHERE id < 50; PREPARE TRANSACTION 'odd_2'",
        "CHECKPOINT",
        "BEGIN; INSERT INTO odd.t VALUES (-4, 'prepared late'); PREPARE TRANSACTION 'odd_3'",
    ] {
        server.sql(statement)?;
    }
    Ok(())
}

/// XLOG/OVERWRITE_CONTRECORD: the server is killed when the first pages of a long record are on disk and the rest is not.
fn crash_in_a_record(server: &mut PostgresServer) -> Result<()> {
    const MESSAGE_BYTES: u64 = 200_000;
    let begin: Lsn = server.sql("SELECT pg_current_wal_insert_lsn()")?.parse()?;
    server.sql(&format!(
        "SELECT pg_logical_emit_message(false, 'odd', repeat('x', {MESSAGE_BYTES}))"
    ))?;
    // A commit that nothing but the transaction status depends on has the WAL flushed.
    server.sql("SELECT pg_logical_emit_message(true, 'odd', 'flush')")?;
    server.kill()?;
    let cut = (begin.0 + MESSAGE_BYTES / 2).next_multiple_of(PAGE_BYTES);
    let cut_segment = cut / u64::from(SEGMENT_BYTES);
    let files = segments(&server.data().join("pg_wal"), SEGMENT_BYTES)?;
    for (&number, path) in files.range(cut_segment..) {
        let kept = if number == cut_segment { cut % u64::from(SEGMENT_BYTES) } else { 0 };
        zero_from(path, kept).with_context(|| format!("cannot cut {}", path.display()))?;
    }
    server.start()
}

fn zero_from(path: &PathBuf, kept: u64) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(kept))?;
    file.write_all(&vec![0; (u64::from(SEGMENT_BYTES) - kept) as usize])
}

/// XLOG/END_OF_RECOVERY: the server goes on as a standby of nobody and is promoted.
fn promote(server: &mut PostgresServer) -> Result<()> {
    server.stop()?;
    let signal = server.data().join("standby.signal");
    fs::write(&signal, "")?;
    ServerUser::give(&signal)?;
    server.start()?;
    server.sql("SELECT pg_promote()").map(|_| ())
}
