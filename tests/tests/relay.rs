//! The relay between a real Postgres and three real nodes.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use firn_tests::cluster::{LIMIT, RELAY_NAME, TestCluster};
use firn_tests::gateway::Gateway;
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres::{PostgresServer, run};
use firn_tests::local::postgres_install::PostgresInstall;
use firn_tests::local::relay::RelayProcess;
use firn_tests::postgres_versions::{outer_postgres_versions, postgres_version, postgres_versions};
use firn_tests::readers::ReceiveWal;
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

fn cluster() -> TestCluster {
    cluster_of(postgres_version().unwrap())
}

fn cluster_of(install: PostgresInstall) -> TestCluster {
    TestCluster::start(install, &NodeOptions::default()).unwrap()
}

fn insert(cluster: &mut TestCluster, id: u32) {
    cluster.commit(&format!("INSERT INTO t VALUES ({id})")).unwrap();
}

fn count(cluster: &TestCluster) -> u32 {
    cluster.postgres.sql("SELECT count(*) FROM t").unwrap().parse().unwrap()
}

#[test]
fn commits_of_every_version_wait_for_a_quorum() {
    for install in postgres_versions().unwrap() {
        let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
        insert(&mut cluster, 1);
        cluster.nodes[0].kill().unwrap();
        insert(&mut cluster, 2);
        cluster.nodes[1].kill().unwrap();
        let waiting = cluster.begin_commit("INSERT INTO t VALUES (3)").unwrap();
        cluster.wait_for_waiting_commits(1).unwrap();
        cluster.nodes[0].start().unwrap();
        cluster.finish_commit(waiting).unwrap();
        assert_eq!(count(&cluster), 3);
    }
}

#[test]
fn small_segments_are_followed_too() {
    let install = postgres_version().unwrap();
    let options = NodeOptions::default();
    let mut cluster = TestCluster::start_with(install, &options, &["--wal-segsize=1"]).unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 50000)").unwrap();
    cluster.commit("SELECT pg_switch_wal()").unwrap();
    insert(&mut cluster, 0);
    assert_eq!(count(&cluster), 50_001);
}

#[test]
fn a_killed_relay_and_a_killed_primary_come_back() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        insert(&mut cluster, 1);
        cluster.relay.kill().unwrap();
        let waiting = cluster.begin_commit("INSERT INTO t VALUES (2)").unwrap();
        cluster.wait_for_waiting_commits(1).unwrap();
        cluster.relay.start().unwrap();
        cluster.finish_commit(waiting).unwrap();
        for id in 3..6 {
            // Leaves half a record behind as often as not.
            let big = "INSERT INTO t SELECT generate_series(1000000, 1200000); ROLLBACK";
            let mut working = cluster.begin_commit(&format!("BEGIN; {big}")).unwrap();
            cluster.postgres.kill().unwrap();
            working.kill().unwrap();
            cluster.postgres.start().unwrap();
            insert(&mut cluster, id);
        }
        assert_eq!(count(&cluster), 5);
    }
}

#[test]
fn a_node_that_was_away_catches_up() {
    let mut cluster = cluster();
    cluster.nodes[2].kill().unwrap();
    // More than the relay keeps: the rest comes from another node.
    for _ in 0..3 {
        cluster.commit("CREATE TABLE filler AS SELECT generate_series(1, 500000) AS i").unwrap();
        cluster.commit("DROP TABLE filler").unwrap();
    }
    cluster.nodes[2].start().unwrap();
    insert(&mut cluster, 1);
    cluster.nodes[0].kill().unwrap();
    insert(&mut cluster, 2);
    assert_eq!(count(&cluster), 2);
}

/// A copy of the primary's directory as it is on disk now; the primary must be stopped.
fn copy_of_primary(cluster: &TestCluster, name: &str) -> PostgresServer {
    let to = cluster.path(name);
    run(Command::new("cp").arg("-a").arg(cluster.postgres.data()).arg(&to)).unwrap();
    PostgresServer::adopt(cluster.postgres.install.clone(), &to).unwrap()
}

fn refused(cluster: &TestCluster, postgres: &PostgresServer, log: &str, reason: &str) {
    let mut relay = cluster.relay_from(postgres, log);
    relay.start().unwrap();
    let status = wait_until(LIMIT, || relay.ended()).unwrap();
    let said = fs::read_to_string(relay.log()).unwrap();
    assert!(said.contains(reason), "{said}");
    assert_eq!(status.and_then(|status| status.code()), Some(4), "{said}");
}

/// A cluster, and a server with its primary's disk as it was 1,000 committed rows ago.
fn cluster_and_older_primary() -> (TestCluster, PostgresServer) {
    let mut cluster = cluster();
    cluster.postgres.stop().unwrap();
    let mut old = copy_of_primary(&cluster, "old");
    cluster.postgres.start().unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();
    old.start().unwrap();
    (cluster, old)
}

/// Makes it write other WAL than the cluster has, and more.
fn diverge(old: &PostgresServer) {
    old.sql("SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 5000)")
        .unwrap();
}

#[test]
fn a_rolled_back_disk_is_refused_whether_behind_or_different() {
    let (mut cluster, old) = cluster_and_older_primary();
    refused(&cluster, &old, "behind.log", "this primary is behind");
    diverge(&old);
    refused(&cluster, &old, "different.log", "not the one whose WAL the quorum holds");
    insert(&mut cluster, 0);
    assert_eq!(count(&cluster), 1001, "nothing was changed");
    cluster.relay.check_running().unwrap();
}

/// The stream must come from the server that was compared: here another one takes its place while the relay waits for
/// the slot.
#[test]
fn a_primary_that_was_rolled_back_after_its_comparison_is_not_streamed_from() {
    let (mut cluster, old) = cluster_and_older_primary();
    diverge(&old);
    cluster.relay.kill().unwrap();

    // Somebody has the slot, so that the relay compares and then waits.
    let free = || Ok((cluster.postgres.sql(SLOT_IS_ACTIVE)? == "f").then_some(()));
    wait_until(LIMIT, free).unwrap().expect("the killed relay's slot is given back");
    let (install, received) = (&cluster.postgres.install, cluster.path("received"));
    let conninfo = cluster.postgres.conninfo();
    let _other = ReceiveWal::start(install, &conninfo, &received, &["--slot", RELAY_NAME]).unwrap();
    let taken = || Ok((cluster.postgres.sql(SLOT_IS_ACTIVE)? == "t").then_some(()));
    wait_until(LIMIT, taken).unwrap().expect("pg_receivewal has the slot");
    let gateway = Gateway::start(cluster.postgres.port()).unwrap();
    let own_port = format!("port={}", cluster.postgres.port());
    let conninfo = conninfo.replace(&own_port, &format!("port={}", gateway.port()));
    let conninfo = format!("{conninfo} application_name={RELAY_NAME}");
    let acceptors = cluster.acceptors.clone();
    let log = cluster.path("exchanged.log");
    let mut relay = RelayProcess::new("the relay", &conninfo, cluster.key, acceptors, &log);
    relay.start().unwrap();
    let waits = || {
        let said = fs::read_to_string(cluster.postgres.log())?;
        Ok(said.contains("is active for PID").then_some(()))
    };
    wait_until(LIMIT, waits).unwrap().expect("the relay waits for the slot");
    gateway.exchange(old.port());

    let status = wait_until(LIMIT, || relay.ended()).unwrap();
    let said = fs::read_to_string(relay.log()).unwrap();
    assert!(said.contains("not the one whose WAL the quorum holds"), "{said}");
    assert_eq!(status.and_then(|status| status.code()), Some(4), "{said}");
}

const SLOT_IS_ACTIVE: &str = "SELECT active FROM pg_replication_slots WHERE slot_name = 'firn'";

/// A standby of the cluster's primary that has replayed everything.
fn standby(cluster: &TestCluster) -> PostgresServer {
    let data = cluster.path("standby");
    cluster.postgres.base_backup(&data).unwrap();
    fs::write(data.join("standby.signal"), "").unwrap();
    let mut standby = PostgresServer::adopt(cluster.postgres.install.clone(), &data).unwrap();
    let conninfo = format!("{} application_name=standby", cluster.postgres.conninfo());
    standby.configure(&[("primary_conninfo", &conninfo)]).unwrap();
    standby.start().unwrap();
    catch_up(cluster, &standby);
    standby
}

/// Waits until a standby has replayed all that the primary has written.
fn catch_up(cluster: &TestCluster, standby: &PostgresServer) {
    let end = cluster.postgres.sql("SELECT pg_current_wal_lsn()").unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    let caught_up = || Ok((standby.sql(&replayed)? == "t").then_some(()));
    wait_until(LIMIT, caught_up).unwrap().unwrap();
}

#[test]
fn a_promoted_standby_is_followed_when_nothing_committed_is_missing() {
    for install in postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        insert(&mut cluster, 1);
        let promoted = standby(&cluster);
        cluster.fail_over(promoted).unwrap();
        insert(&mut cluster, 2);
        cluster.relay.kill().unwrap();
        cluster.relay.start().unwrap();
        insert(&mut cluster, 3);
        assert_eq!(count(&cluster), 3);
        for node in &cluster.nodes {
            let client = NodeClient::new(&node.url().unwrap(), None);
            // One of them may be behind the quorum.
            let history = wait_until(LIMIT, || client.wal_file(cluster.key, "00000002.history"));
            let history = history.unwrap().expect("every node is told of the switch");
            let history = String::from_utf8(history).unwrap();
            assert!(history.starts_with("1\t"), "{history}");
        }
    }
}

#[test]
fn wal_that_no_quorum_has_gives_way_to_a_promoted_standby() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        insert(&mut cluster, 1);
        let promoted = standby(&cluster);
        cluster.nodes[1].kill().unwrap();
        cluster.nodes[2].kill().unwrap();
        catch_up(&cluster, &promoted);
        promoted.sql("SELECT pg_promote()").unwrap();
        let mut lost = cluster.begin_commit("INSERT INTO t VALUES (99)").unwrap();
        cluster.wait_for_waiting_commits(1).unwrap();
        let end = cluster.postgres.sql("SELECT pg_current_wal_flush_lsn()").unwrap();
        let client = NodeClient::new(&cluster.nodes[0].url().unwrap(), None);
        let end = end.parse().unwrap();
        let has_it = || Ok((client.timeline(cluster.key)?.flush_lsn >= end).then_some(()));
        wait_until(LIMIT, has_it).unwrap().unwrap();
        cluster.relay.kill().unwrap();
        cluster.postgres.kill().unwrap();
        lost.kill().unwrap();

        cluster.nodes[1].start().unwrap();
        cluster.nodes[2].start().unwrap();
        // The relay must be elected by the one that has the WAL; the vote that shows that nobody else has it comes later.
        cluster.nodes[2].pause().unwrap();
        cluster.relay = cluster.relay_from(&promoted, "promoted.log");
        cluster.postgres = promoted;
        cluster.relay.start().unwrap();
        cluster.wait_for_relay_line("elected").unwrap();
        cluster.nodes[2].resume().unwrap();
        insert(&mut cluster, 2);
        cluster.wait_for_relay_line("cutting WAL that no quorum has").unwrap();
        assert_eq!(count(&cluster), 2, "the unacknowledged row is gone");
    }
}

#[test]
fn a_standby_that_was_promoted_too_early_is_refused() {
    let mut cluster = cluster();
    let promoted = standby(&cluster);
    promoted.sql("SELECT pg_promote()").unwrap();
    insert(&mut cluster, 1);
    refused(&cluster, &promoted, "early.log", "this primary left Postgres timeline 1 for 2");
    insert(&mut cluster, 2);
}

#[test]
fn a_primary_without_fsync_is_refused() {
    let cluster = cluster();
    let sibling = cluster.path("sibling");
    let install = cluster.postgres.install.clone();
    let mut server = PostgresServer::create(install, &sibling, &[("fsync", "off")]).unwrap();
    server.start().unwrap();
    refused(&cluster, &server, "fsync.log", "postgres runs with fsync=off");
}

#[test]
fn settings_that_do_not_wait_for_the_relay_are_warned_of() {
    let mut cluster = cluster();
    for (names, warning) in [
        ("", "synchronous_standby_names is empty"),
        ("other", "does not name the relay"),
        ("firn, other", "can be satisfied without the relay, by other"),
    ] {
        cluster.relay.kill().unwrap();
        cluster
            .postgres
            .sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))
            .unwrap();
        cluster.postgres.sql("SELECT pg_reload_conf()").unwrap();
        cluster.relay.start().unwrap();
        cluster.wait_for_relay_line(warning).unwrap();
    }
}

/// Runs openssl in a directory.
fn openssl(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let output = command.args(arguments).current_dir(directory).output();
    let output = output.expect("this test needs openssl: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Gives the primary a certificate for `localhost`, and a role that must use TLS and SCRAM.
fn require_tls(cluster: &mut TestCluster) {
    let data = cluster.postgres.data().to_path_buf();
    fs::write(data.join("san"), "subjectAltName=DNS:localhost").unwrap();
    let new_ca =
        "req -new -x509 -days 9 -nodes -newkey rsa:2048 -subj /CN=ca -keyout ca.key -out ca.crt";
    let new_request =
        "req -new -nodes -newkey rsa:2048 -subj /CN=localhost -keyout server.key -out server.csr";
    let signed = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -sha384 -extfile san -out server.crt";
    for line in [new_ca, new_request, signed] {
        openssl(&data, &line.split(' ').collect::<Vec<_>>());
    }
    cluster.commit("CREATE ROLE secured LOGIN REPLICATION PASSWORD 'secret word'").unwrap();
    cluster.relay.kill().unwrap();
    cluster.postgres.stop_immediately().unwrap();
    let rules = "hostssl all,replication secured 127.0.0.1/32 scram-sha-256\n\
        host all,replication secured 127.0.0.1/32 reject\n\
        host all all 127.0.0.1/32 trust\n\
        host replication all 127.0.0.1/32 trust\n";
    fs::write(data.join("pg_hba.conf"), rules).unwrap();
    cluster.postgres.configure(&[("ssl", "on")]).unwrap();
    // The server takes its key only from its own user and closed to others.
    fs::set_permissions(data.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
    cluster.postgres = PostgresServer::adopt(cluster.postgres.install.clone(), &data).unwrap();
    cluster.postgres.start().unwrap();
}

#[test]
fn scram_bound_to_verified_tls() {
    let mut cluster = cluster();
    require_tls(&mut cluster);
    let root = cluster.postgres.data().join("ca.crt");
    let conninfo = |host: &str, password: &str| {
        format!(
            "host={host} hostaddr=127.0.0.1 port={} user=secured dbname=postgres password='{password}' \
             sslmode=verify-full sslrootcert={} channel_binding=require",
            cluster.postgres.port(),
            root.display()
        )
    };
    let relay = |conninfo: &str, log: &str| {
        let log = cluster.path(log);
        RelayProcess::new("relay", conninfo, cluster.key, cluster.acceptors.clone(), &log)
    };
    let wrong_name = relay(&conninfo("elsewhere", "secret word"), "name.log");
    let wrong_password = relay(&conninfo("localhost", "guess"), "password.log");
    let right = relay(&conninfo("localhost", "secret word"), "right.log");
    cluster.relay = wrong_name;
    cluster.relay.start().unwrap();
    cluster.wait_for_relay_line("not valid for name").unwrap();
    cluster.relay = wrong_password;
    cluster.relay.start().unwrap();
    cluster.wait_for_relay_line("password authentication failed").unwrap();
    cluster.relay = right;
    cluster.relay.start().unwrap();
    insert(&mut cluster, 1);
    let sql = "SELECT ssl, state FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(cluster.postgres.sql(sql).unwrap(), "t|streaming");
}
