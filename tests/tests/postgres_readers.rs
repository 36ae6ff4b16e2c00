//! Stock readers on a node: `pg_receivewal`, hot standbys, archive recovery; across restarts of nodes and switches of
//! Postgres' timeline.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::path::Path;

use firn_core::journal::wal_file::wal_file_name;
use firn_core::types::PostgresTimeline;
use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres::{PostgresServer, run};
use firn_tests::local::postgres_install::PostgresInstall;
use firn_tests::local::process::Process;
use firn_tests::postgres_versions::{outer_postgres_versions, postgres_version, postgres_versions};
use firn_tests::readers::{RawReader, ReceiveWal, catch_up, conninfo, segments, standby, wait_for};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

/// Small segments, so that a little WAL fills many of them.
const SEGMENT_BYTES: usize = 1 << 20;

/// A cluster whose primary keeps its WAL and logs what logical decoding needs.
fn cluster_of(install: PostgresInstall) -> TestCluster {
    let options = NodeOptions::default();
    let mut cluster = TestCluster::start_with(install, &options, &["--wal-segsize=1"]).unwrap();
    let settings = [("wal_level", "logical"), ("wal_keep_size", "1GB")];
    cluster.postgres.configure(&settings).unwrap();
    cluster.postgres.stop().unwrap();
    cluster.postgres.start().unwrap();
    cluster.commit("SELECT 1").unwrap();
    cluster
}

fn insert(cluster: &mut TestCluster, ids: std::ops::Range<u32>) {
    let (first, last) = (ids.start, ids.end - 1);
    cluster.commit(&format!("INSERT INTO t SELECT generate_series({first}, {last})")).unwrap();
}

/// The name of the segment that the primary writes, which it then leaves for the next one.
fn finish_segment(cluster: &mut TestCluster) -> String {
    let name = cluster.postgres.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").unwrap();
    cluster.commit("SELECT pg_switch_wal()").unwrap();
    name
}

/// The next server to write: a standby that has everything is promoted, and a relay follows it.
fn fail_over(cluster: &mut TestCluster, mut promoted: PostgresServer) {
    catch_up(&cluster.postgres, &mut promoted).unwrap();
    cluster.fail_over(promoted).unwrap();
}

/// The files in `received` that are complete are those of a server's `pg_wal`, byte for byte; how many.
fn compare(received: &Path, server: &Path, timeline: &str) -> usize {
    let (received, written) = (segments(received).unwrap(), segments(server).unwrap());
    let complete =
        received.iter().filter(|(name, _)| name.len() == 24 && name.starts_with(timeline));
    let mut compared = 0;
    for (name, bytes) in complete {
        assert_eq!(bytes.len(), SEGMENT_BYTES, "{name}");
        let same = written.get(name).is_some_and(|written| written == bytes);
        assert!(same, "{name} differs or is not in {:?}", written.keys());
        compared += 1;
    }
    compared
}

/// `pg_receivewal`, a hot standby with a slot and logical decoding on it, through kills of their node and a promotion.
fn stock_readers(major: u32) {
    for install in postgres_versions().unwrap().into_iter().filter(|found| found.major == major) {
        let mut cluster = cluster_of(install.clone());
        let received = cluster.path("received");
        let source = conninfo(&cluster, &cluster.nodes[0]).unwrap();
        let mut receiver = ReceiveWal::start(&install, &source, &received, &[]).unwrap();
        let slot = [("primary_slot_name", "reader"), ("hot_standby_feedback", "on")];
        let mut reader = standby(&cluster, "reader", &cluster.nodes[0], &slot).unwrap();
        let mut promoted = standby(&cluster, "promoted", &cluster.nodes[1], &[]).unwrap();
        reader.start().unwrap();
        promoted.start().unwrap();
        insert(&mut cluster, 0..20_000);
        let first = finish_segment(&mut cluster);
        insert(&mut cluster, 20_000..20_001);
        receiver.wait_for_segment(&first).unwrap();
        // Logical slots on standbys came with 16.
        if major >= 16 {
            decode(&mut cluster, &mut reader);
        }
        for (number, node) in [0, 1, 0].into_iter().enumerate() {
            cluster.nodes[node].kill().unwrap();
            let first = 30_000 + number as u32 * 10_000;
            insert(&mut cluster, first..first + 10_000);
            cluster.nodes[node].start().unwrap();
            catch_up(&cluster.postgres, &mut reader).unwrap();
        }
        let second = finish_segment(&mut cluster);
        insert(&mut cluster, 20_001..20_002);
        receiver.wait_for_segment(&second).unwrap();
        wait_for(&mut reader, "SELECT count(*) FROM t WHERE id >= 0", "50002").unwrap();
        let old = cluster.postgres.data().join("pg_wal");

        fail_over(&mut cluster, promoted);
        insert(&mut cluster, 20_002..20_003);
        wait_for(&mut reader, "SELECT count(*) FROM t WHERE id >= 0", "50003").unwrap();
        wait_for(&mut reader, "SELECT received_tli FROM pg_stat_wal_receiver", "2").unwrap();
        let third = finish_segment(&mut cluster);
        assert!(third.starts_with("00000002"), "{third}");
        cluster.nodes[0].kill().unwrap();
        cluster.nodes[0].start().unwrap();
        insert(&mut cluster, 70_000..90_000);
        let fourth = finish_segment(&mut cluster);
        insert(&mut cluster, 20_003..20_004);
        receiver.wait_for_segment(&third).unwrap();
        receiver.wait_for_segment(&fourth).unwrap();
        wait_for(&mut reader, "SELECT count(*) FROM t WHERE id >= 0", "70004").unwrap();
        receiver.stop().unwrap();

        assert!(compare(&received, &old, "00000001") >= 3);
        assert!(compare(&received, &cluster.postgres.data().join("pg_wal"), "00000002") >= 2);
        let history = fs::read_to_string(received.join("00000002.history")).unwrap();
        assert!(history.starts_with("1\t"), "{history}");
    }
}

/// A logical slot on a standby decodes what the primary commits.
fn decode(cluster: &mut TestCluster, reader: &mut PostgresServer) {
    let create = "SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')";
    let log = cluster.path("create-slot.log");
    let mut creating = Process::start("psql", &mut reader.psql(create), &log).unwrap();
    // The slot begins with the next list of running transactions that the standby replays.
    let ended = wait_until(LIMIT, || {
        cluster.commit("SELECT pg_log_standby_snapshot()")?;
        creating.ended()
    });
    assert!(ended.unwrap().unwrap().success(), "{}", fs::read_to_string(&log).unwrap());
    cluster.commit("INSERT INTO t VALUES (-777)").unwrap();
    catch_up(&cluster.postgres, reader).unwrap();
    let changes = "SELECT string_agg(data, ' ') FROM \
        pg_logical_slot_get_changes('decoded', NULL, NULL, 'include-xids', '0')";
    let decoded = reader.sql(changes).unwrap();
    assert_eq!(decoded, "BEGIN table public.t: INSERT: id[integer]:-777 COMMIT");
    reader.sql("SELECT pg_drop_replication_slot('decoded')").unwrap();
}

#[test]
fn stock_readers_of_15() {
    stock_readers(15);
}

#[test]
fn stock_readers_of_16() {
    stock_readers(16);
}

#[test]
fn stock_readers_of_17() {
    stock_readers(17);
}

#[test]
fn stock_readers_of_18() {
    stock_readers(18);
}

#[test]
fn a_node_that_caught_up_from_its_peers_knows_the_switch() {
    let install = postgres_version().unwrap();
    let mut cluster = cluster_of(install.clone());
    let received = cluster.path("received");
    let source = conninfo(&cluster, &cluster.nodes[2]).unwrap();
    let mut receiver = ReceiveWal::start(&install, &source, &received, &[]).unwrap();
    insert(&mut cluster, 0..10);
    let first = finish_segment(&mut cluster);
    insert(&mut cluster, 10..20);
    receiver.wait_for_segment(&first).unwrap();
    let mut promoted = standby(&cluster, "promoted", &cluster.nodes[1], &[]).unwrap();
    promoted.start().unwrap();
    let old = cluster.postgres.data().join("pg_wal");
    cluster.nodes[2].kill().unwrap();
    fail_over(&mut cluster, promoted);
    insert(&mut cluster, 20..20_000);
    let second = finish_segment(&mut cluster);
    insert(&mut cluster, 20_000..20_001);
    catch_up_nodes(&cluster, 2);
    cluster.relay.kill().unwrap();

    cluster.nodes[2].start().unwrap();
    receiver.wait_for_segment(&second).unwrap();
    receiver.stop().unwrap();
    assert!(second.starts_with("00000002"), "{second}");
    assert!(compare(&received, &old, "00000001") > 0);
    assert!(compare(&received, &cluster.postgres.data().join("pg_wal"), "00000002") > 0);
}

#[test]
fn readers_that_do_not_read_delay_nobody() {
    const STALLED: usize = 20;
    let mut cluster = cluster_of(postgres_version().unwrap());
    let client = NodeClient::new(&cluster.nodes[0].url().unwrap(), None);
    let begin = client.timeline(cluster.key).unwrap().local_start_lsn;
    let begin = begin.segment_start(SEGMENT_BYTES as u64);
    let address = cluster.nodes[0].pg_address().unwrap();
    let start = || RawReader::start(&address, cluster.key, begin).unwrap();
    let mut stalled: Vec<RawReader> = (0..STALLED).map(|_| start()).collect();
    let mut reading = start();

    // Far more than sockets hold. A commit that waited for one of them would not come back.
    for _ in 0..3 {
        cluster.commit("CREATE TABLE filler AS SELECT generate_series(1, 300000) AS i").unwrap();
        cluster.commit("DROP TABLE filler").unwrap();
    }
    insert(&mut cluster, 0..1);
    catch_up_nodes(&cluster, 3);
    let end = client.timeline(cluster.key).unwrap().commit_lsn;
    let wal = reading.read_to(end).unwrap();
    let written = segments(&cluster.postgres.data().join("pg_wal")).unwrap();
    let check = |wal: &[u8]| {
        for (number, bytes) in wal.chunks(SEGMENT_BYTES).enumerate().skip(1) {
            let position = begin + (number * SEGMENT_BYTES) as u64;
            let name = wal_file_name(PostgresTimeline(1), position, SEGMENT_BYTES as u32);
            assert!(written[&name].starts_with(bytes), "{name}");
        }
    };
    check(&wal);
    // The node sends on until sockets are full, and tells of the one that read everything.
    let stand = || {
        let readers = client.timeline(cluster.key)?.walsenders;
        let behind = readers.iter().filter(|reader| reader.sent_lsn < end).count();
        Ok((behind == STALLED).then_some(()))
    };
    wait_until(LIMIT, stand).unwrap().expect("those that do not read are behind, nobody else");
    // Who reads again gets everything, from where it stopped.
    let late = stalled.pop().unwrap().read_to(end).unwrap();
    check(&late);
}

#[test]
fn archive_recovery_takes_everything_from_the_nodes() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        let base = standby(&cluster, "recovered", &cluster.nodes[0], &[]).unwrap();
        fs::remove_file(base.data().join("standby.signal")).unwrap();
        fs::write(base.data().join("recovery.signal"), "").unwrap();
        let mut promoted = standby(&cluster, "promoted", &cluster.nodes[1], &[]).unwrap();
        promoted.start().unwrap();
        insert(&mut cluster, 0..40_000);
        fail_over(&mut cluster, promoted);
        insert(&mut cluster, 40_000..50_000);
        catch_up_nodes(&cluster, 3);

        let firn = cluster.firn(&["wal", "fetch"]).unwrap();
        let variables = firn.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let variables = variables
            .map(|(name, value)| format!("{}={}", name.to_str().unwrap(), value.to_str().unwrap()));
        let variables: Vec<String> = variables.collect();
        let program = firn.get_program().to_str().unwrap().to_string();
        let restore = format!("{} {program} wal fetch %f %p", variables.join(" "));
        let mut recovered = base;
        recovered.configure(&[("restore_command", &restore), ("primary_conninfo", "")]).unwrap();
        recovered.start_with(&[("synchronous_standby_names", "")]).unwrap();
        wait_for(&mut recovered, "SELECT pg_is_in_recovery()", "f").unwrap();
        assert_eq!(recovered.sql("SELECT count(*) FROM t").unwrap(), "50000");
        let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
        recovered.sql("CHECKPOINT").unwrap();
        assert_eq!(recovered.sql(timeline).unwrap(), "3", "it went through timeline 2");
    }
}

/// The first nodes have and know as committed what the primary has flushed.
fn catch_up_nodes(cluster: &TestCluster, count: usize) {
    let end = cluster.postgres.sql("SELECT pg_current_wal_flush_lsn()").unwrap().parse().unwrap();
    for node in &cluster.nodes[..count] {
        let client = NodeClient::new(&node.url().unwrap(), None);
        let has_it = || Ok((client.timeline(cluster.key)?.commit_lsn >= end).then_some(()));
        wait_until(LIMIT, has_it).unwrap().unwrap();
    }
}

#[test]
fn exit_statuses_of_wal_fetch_are_what_postgres_expects() {
    let install = outer_postgres_versions().unwrap().remove(0);
    let mut cluster = cluster_of(install);
    insert(&mut cluster, 0..10);
    let to = cluster.path("fetched");
    let fetch = |cluster: &TestCluster, file: &str| {
        let mut firn = cluster.firn(&["wal", "fetch", file, to.to_str().unwrap()]).unwrap();
        firn.output().unwrap().status.code()
    };
    let name = cluster.postgres.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").unwrap();
    assert_eq!(fetch(&cluster, &name), Some(0));
    assert_eq!(fs::metadata(&to).unwrap().len() as usize, SEGMENT_BYTES);
    assert_eq!(fetch(&cluster, "00000001000000FF00000001"), Some(1), "far past the end");
    assert_eq!(fetch(&cluster, "00000002.history"), Some(1), "no such timeline");
    cluster.nodes[0].kill().unwrap();
    assert_eq!(fetch(&cluster, &name), Some(0));
    assert_eq!(fetch(&cluster, "00000002.history"), Some(1));
    cluster.nodes[1].kill().unwrap();
    // What one of three does not have, the two others may: Postgres must stop, not take it for the end.
    assert_eq!(fetch(&cluster, "00000002.history"), Some(200));
}

#[test]
fn slots_of_stock_clients() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = cluster_of(install.clone());
        let source = conninfo(&cluster, &cluster.nodes[0]).unwrap();
        let slot = |action: &str| {
            let mut command = install.command("pg_receivewal").unwrap();
            run(command.args(["-d", &source, "--slot", "archive", action]))
        };
        slot("--create-slot").unwrap();
        let again = slot("--create-slot").unwrap_err().to_string();
        assert!(again.contains("already exists"), "{again}");
        // The other nodes hear from where it needs WAL.
        let status = |node: usize| {
            NodeClient::new(&cluster.nodes[node].url().unwrap(), None).timeline(cluster.key)
        };
        let own = status(0).unwrap();
        assert_eq!(own.hold_lsn, Some(own.slots[0].restart_lsn));
        let heard = || Ok((status(1)?.hold_lsn == own.hold_lsn).then_some(()));
        wait_until(LIMIT, heard).unwrap().expect("the hold is exchanged");
        insert(&mut cluster, 0..20_000);
        let first = finish_segment(&mut cluster);
        insert(&mut cluster, 20_000..20_001);
        let received = cluster.path("received");
        let arguments = ["--slot", "archive"];
        let mut receiver = ReceiveWal::start(&install, &source, &received, &arguments).unwrap();
        // The slot's position is before what was committed since: nothing is missing.
        receiver.wait_for_segment(&first).unwrap();
        receiver.stop().unwrap();
        assert!(compare(&received, &cluster.postgres.data().join("pg_wal"), "00000001") > 1);
        slot("--drop-slot").unwrap();
        assert!(slot("--drop-slot").unwrap_err().to_string().contains("does not exist"));
        let client = NodeClient::new(&cluster.nodes[1].url().unwrap(), None);
        let forgotten = || Ok(client.timeline(cluster.key)?.hold_lsn.is_none().then_some(()));
        wait_until(LIMIT, forgotten).unwrap().expect("that it is gone is exchanged");
    }
}
