//! The relay and WAL that is hard to follow: gone, longer than what the relay keeps, or left half written by a crash.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::process::Command;

use firn_core::types::Lsn;
use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres_install::{PostgresInstall, ServerUser};
use firn_tests::postgres_versions::{outer_postgres_versions, postgres_version, postgres_versions};
use firn_tools::clock::wait_until;

fn lsn(cluster: &TestCluster, sql: &str) -> Lsn {
    cluster.postgres.sql(sql).unwrap().parse().unwrap()
}

/// A cluster whose primary keeps hardly any WAL and archives all of it, without a relay by now.
fn cluster_that_forgets(install: PostgresInstall) -> TestCluster {
    let options = NodeOptions::default();
    let mut cluster = TestCluster::start_with(install, &options, &["--wal-segsize=1"]).unwrap();
    cluster.postgres.stop().unwrap();
    let archive = cluster.path("archive");
    fs::create_dir(&archive).unwrap();
    ServerUser::give(&archive).unwrap();
    let command = format!("cp %p {}/%f", archive.display());
    let settings = [
        ("max_wal_size", "2MB"),
        ("min_wal_size", "2MB"),
        ("max_slot_wal_keep_size", "2MB"),
        ("archive_mode", "on"),
        ("archive_command", &command),
    ];
    cluster.postgres.configure(&settings).unwrap();
    cluster.postgres.start().unwrap();
    cluster.commit("INSERT INTO t VALUES (0)").unwrap();
    cluster.relay.kill().unwrap();
    cluster
}

/// Commits WAL that no relay takes, until Postgres has removed the oldest of it. Checkpoints remove what is archived.
fn forget_wal(cluster: &TestCluster, gone: &str) {
    let local = "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 100000)";
    cluster.postgres.sql(local).unwrap();
    let removed = || {
        cluster.postgres.sql("SELECT pg_switch_wal(); CHECKPOINT")?;
        Ok((cluster.postgres.sql(gone)? == "t").then_some(()))
    };
    wait_until(LIMIT, removed).unwrap().expect("postgres keeps its WAL");
}

fn refused(cluster: &mut TestCluster) {
    cluster.relay.start().unwrap();
    let status = cluster.wait_for_relay_end().unwrap();
    let said = cluster.relay.log_tail();
    assert_eq!(status.code(), Some(4), "{said}");
    let last = said.lines().last().unwrap_or_default();
    for text in ["postgres no longer has WAL from", "from an archive", "firn timeline rebuild"] {
        assert!(last.contains(text), "{text:?} is not in:\n{said}");
    }
}

/// Does what the relay's line says: the segments that are missing come back from the archive. The limit goes too: under
/// 2 MB, Postgres may take the new slot's WAL away as fast as the relay reads it (a SELECT that sets hint bits is enough).
fn restore_from_archive(cluster: &mut TestCluster) {
    cluster.postgres.stop().unwrap();
    cluster.postgres.configure(&[("max_slot_wal_keep_size", "-1")]).unwrap();
    let pg_wal = cluster.postgres.data().join("pg_wal");
    for entry in fs::read_dir(cluster.path("archive")).unwrap() {
        let segment = entry.unwrap();
        let to = pg_wal.join(segment.file_name());
        if !to.exists() {
            fs::copy(segment.path(), &to).unwrap();
            ServerUser::give(&to).unwrap();
        }
    }
    cluster.postgres.start().unwrap();
}

#[test]
fn an_invalidated_slot_is_told_with_what_to_do_and_made_anew_when_that_was_done() {
    for install in postgres_versions().unwrap() {
        let mut cluster = cluster_that_forgets(install);
        let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'firn'";
        forget_wal(&cluster, lost);
        refused(&mut cluster);
        restore_from_archive(&mut cluster);
        cluster.relay.start().unwrap();
        cluster.wait_for_relay_line("making it anew").unwrap();
        cluster.commit("INSERT INTO t VALUES (100001)").unwrap();
        assert_eq!(cluster.postgres.sql("SELECT count(*) FROM t").unwrap(), "100002");
        assert_eq!(cluster.postgres.sql(lost).unwrap(), "f");
    }
}

#[test]
fn a_dropped_slot_is_told_with_what_to_do() {
    let mut cluster = cluster_that_forgets(postgres_version().unwrap());
    let start = lsn(&cluster, "SELECT restart_lsn FROM pg_replication_slots");
    let dropped = || {
        let drop =
            "SELECT pg_drop_replication_slot('firn') FROM pg_replication_slots WHERE NOT active";
        cluster.postgres.sql(drop)?;
        let left = cluster.postgres.sql("SELECT count(*) FROM pg_replication_slots")?;
        Ok((left == "0").then_some(()))
    };
    wait_until(LIMIT, dropped).unwrap().unwrap();
    let segment = format!("pg_walfile_name('{start}')");
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = {segment})");
    forget_wal(&cluster, &gone);
    refused(&mut cluster);
}

#[test]
fn a_record_longer_than_what_the_relay_keeps_is_committed() {
    let mut cluster =
        TestCluster::start(postgres_version().unwrap(), &NodeOptions::default()).unwrap();
    let before = lsn(&cluster, "SELECT pg_current_wal_lsn()");
    let big = "SELECT pg_logical_emit_message(true, 'big', repeat('x', 100 << 20))";
    cluster.commit(big).unwrap();
    let after = lsn(&cluster, "SELECT pg_current_wal_lsn()");
    assert!(after - before > 100 << 20, "{before} to {after}");
    cluster.commit("INSERT INTO t VALUES (1)").unwrap();
}

/// Stops a backend in the middle of writing a long record, when the relay has got a part of it already, and kills the
/// server. Where the record begins, or none when the backend was done before it was stopped.
fn crash_inside_a_record(cluster: &mut TestCluster) -> Option<Lsn> {
    let start = lsn(cluster, "SELECT pg_current_wal_insert_lsn()");
    let big = "SELECT length(pg_logical_emit_message(false, 'big', repeat('x', 48 << 20))::text)";
    let session = format!("SET application_name = 'writer'; {big}");
    let mut writer = cluster.begin_commit(&session).unwrap();
    // In one statement, so that no start of a client falls between seeing the reservation and stopping its writer.
    let stop = format!(
        "DO $$ DECLARE writer int; BEGIN
           LOOP EXIT WHEN pg_current_wal_insert_lsn() - '{start}' > 24 << 20; END LOOP;
           SELECT pid INTO writer FROM pg_stat_activity WHERE application_name = 'writer';
           EXECUTE format('COPY (SELECT 1) TO PROGRAM ''kill -STOP %s; cat >&2''', writer);
         END $$"
    );
    cluster.postgres.sql(&stop).unwrap();
    let reserved = lsn(cluster, "SELECT pg_current_wal_insert_lsn()");
    let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'writer'";
    let pid = cluster.postgres.sql(pid).unwrap();
    let signal = |signal: &str| Command::new("kill").args([signal, &pid]).status().unwrap();
    let sent = || {
        let sent = lsn(cluster, "SELECT coalesce(max(sent_lsn), '0/0') FROM pg_stat_replication");
        let flushed = lsn(cluster, "SELECT pg_current_wal_flush_lsn()");
        if sent == flushed && sent > start + (64 << 10) {
            return Ok(Some(sent));
        }
        // It may have been stopped before it filled a buffer, or with the lock that everyone needs who flushes.
        signal("-CONT");
        signal("-STOP");
        Ok(None)
    };
    let sent = wait_until(LIMIT, sent).unwrap().expect("no part of the record was sent");
    cluster.postgres.kill().unwrap();
    writer.kill().unwrap();
    (sent < reserved).then_some(start)
}

#[test]
fn half_a_record_gives_way_to_what_postgres_writes_after_its_crash() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t VALUES (1)").unwrap();
        let mut start = None;
        for _ in 0..5 {
            start = crash_inside_a_record(&mut cluster);
            cluster.postgres.start().unwrap();
            if start.is_some() {
                break;
            }
        }
        let start = start.expect("no crash fell into a record");
        cluster.commit("INSERT INTO t VALUES (2)").unwrap();
        // Nodes and timeline are in the environment.
        let records = cluster.run_firn(&["wal", "dump", "--start", &start.to_string()]).unwrap();
        assert!(records.contains("OVERWRITE_CONTRECORD"), "{}", first_lines(&records));

        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();
        let rebuilt = cluster.rebuild("base", "rebuilt").unwrap();
        assert_eq!(rebuilt.sql("SELECT count(*), max(id) FROM t").unwrap(), "2|2");
    }
}

fn first_lines(text: &str) -> String {
    text.lines().take(20).collect::<Vec<_>>().join("\n")
}
