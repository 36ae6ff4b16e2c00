//! What an operator sees of a relay: how it reaches Postgres, its metrics, its warnings, its exit status.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use firn_tests::cluster::{LIMIT, RELAY_NAME, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres_install::ServerUser;
use firn_tests::local::process::{Process, free_port};
use firn_tests::local::relay::RelayProcess;
use firn_tests::postgres_versions::postgres_version;
use firn_tools::clock::wait_until;

fn cluster() -> TestCluster {
    TestCluster::start(postgres_version().unwrap(), &NodeOptions::default()).unwrap()
}

fn relay(cluster: &TestCluster, conninfo: &str, log: &str) -> RelayProcess {
    let acceptors = cluster.acceptors.clone();
    RelayProcess::new("the relay", conninfo, cluster.key, acceptors, &cluster.path(log))
}

#[test]
fn postgres_is_reached_through_unix_sockets() {
    let mut cluster = cluster();
    cluster.postgres.stop().unwrap();
    let sockets = cluster.path("sockets");
    fs::create_dir(&sockets).unwrap();
    ServerUser::give(&sockets).unwrap();
    let directory = sockets.display().to_string();
    let name = format!("@firn-{}", free_port().unwrap());
    let both = format!("{directory}, {name}");
    cluster.postgres.start_with(&[("unix_socket_directories", &both)]).unwrap();
    let port = cluster.postgres.port();
    let uri = format!("postgresql://postgres@/postgres?host={directory}&port={port}");
    for (id, conninfo) in [
        format!("host={directory} port={port} user=postgres sslmode=require"),
        format!("host={name} port={port} user=postgres"),
        uri,
    ]
    .iter()
    .enumerate()
    {
        cluster.relay.kill().unwrap();
        cluster.relay = relay(&cluster, conninfo, &format!("unix-{id}.log"));
        cluster.relay.start().unwrap();
        cluster.commit(&format!("INSERT INTO t VALUES ({id})")).unwrap();
        let client =
            "SELECT client_addr IS NULL FROM pg_stat_replication WHERE state = 'streaming'";
        assert_eq!(cluster.postgres.sql(client).unwrap(), "t", "{conninfo}");
    }
    let nowhere = cluster.path("nowhere");
    cluster.relay =
        relay(&cluster, &format!("host={} user=postgres", nowhere.display()), "nowhere.log");
    cluster.relay.start().unwrap();
    let socket = format!("postgres at {}/.s.PGSQL.5432", nowhere.display());
    cluster.wait_for_relay_line(&socket).unwrap();
    cluster.wait_for_relay_line("trying again").unwrap();
}

/// Everything at `/metrics` of a loopback port.
fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

/// The value of a series.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in:\n{metrics}")).parse().unwrap()
}

#[test]
fn every_stage_of_a_commit_is_measured() {
    let mut cluster = cluster();
    cluster.relay.kill().unwrap();
    let port = free_port().unwrap();
    cluster.relay = cluster
        .relay_from(&cluster.postgres, "measured.log")
        .with_argument("--http")
        .with_argument(&format!("127.0.0.1:{port}"));
    cluster.relay.start().unwrap();
    for id in 0..20 {
        cluster.commit(&format!("INSERT INTO t VALUES ({id})")).unwrap();
    }
    // Gauges are set once a second.
    let streaming = "firn_relay_acceptors_streaming{shard=\"0\"}";
    let all = wait_until(LIMIT, || Ok((value(&metrics(port), streaming) == 3.0).then_some(())));
    all.unwrap().expect("three acceptors take WAL");
    let metrics = metrics(port);
    for stage in ["send", "quorum", "report", "total"] {
        let series = format!("firn_relay_stage_seconds_count{{shard=\"0\",stage=\"{stage}\"}}");
        assert!(value(&metrics, &series) >= 20.0, "{metrics}");
    }
    let end = cluster.postgres.sql("SELECT pg_current_wal_flush_lsn()").unwrap();
    let end = end.parse::<firn_core::types::Lsn>().unwrap().0 as f64;
    assert_eq!(value(&metrics, "firn_relay_leading{shard=\"0\"}"), 1.0);
    assert!(value(&metrics, "firn_relay_committed_lsn{shard=\"0\"}") <= end);
    assert!(value(&metrics, "firn_relay_wal_bytes_total{shard=\"0\"}") > 0.0);
    assert!(metrics.lines().count() < 200, "cardinality has a bound");

    let mut second = cluster.relay_from(&cluster.postgres, "port-in-use.log");
    second = second.with_argument("--http").with_argument(&format!("127.0.0.1:{port}"));
    second.start().unwrap();
    let status = wait_until(LIMIT, || second.ended()).unwrap().unwrap();
    assert_eq!(status.code(), Some(1), "{}", second.log_tail());
    assert!(second.log_tail().contains("in use"), "{}", second.log_tail());
}

#[test]
fn the_newer_of_two_relays_wins_and_the_other_says_so_by_its_exit_status() {
    let mut cluster = cluster();
    let mut second = cluster.relay_from(&cluster.postgres, "second.log");
    second.start().unwrap();
    let status = cluster.wait_for_relay_end().unwrap();
    let said = cluster.relay.log_tail();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.lines().last().unwrap_or_default().contains("superseded"), "{said}");
    cluster.commit("INSERT INTO t VALUES (1)").unwrap();
    assert!(second.is_running().unwrap());
}

/// It learns of the fence only when its Postgres is back: it must not take the timeline over then.
#[test]
fn a_relay_that_waited_for_postgres_during_a_fence_stops_too() {
    let mut cluster = cluster();
    cluster.commit("INSERT INTO t VALUES (1)").unwrap();
    cluster.postgres.kill().unwrap();
    cluster.wait_for_relay_line("trying again").unwrap();
    cluster.run_firn(&["timeline", "fence"]).unwrap();
    cluster.postgres.start().unwrap();
    let status = cluster.wait_for_relay_end().unwrap();
    assert_eq!(status.code(), Some(3), "{}", cluster.relay.log_tail());
}

#[test]
fn what_is_not_understood_has_a_line_and_a_status_of_its_own() {
    let cluster = cluster();
    for (conninfo, line) in [
        (
            "host=127.0.0.1 user=postgres port=none",
            "firn-node: --postgres: connection string: port is",
        ),
        ("nonsense", "firn-node: --postgres: connection string: no \"=\""),
        ("user=postgres requirepeer=me", "option \"requirepeer\" is not supported"),
    ] {
        let output = relay(&cluster, conninfo, "bad.log").command().unwrap().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(line) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_walsender_that_bears_the_relays_name_is_warned_of() {
    let mut cluster = cluster();
    let spoofed = cluster.path("spoofed");
    fs::create_dir(&spoofed).unwrap();
    let mut command = cluster.postgres.install.command_as_we_are("pg_receivewal");
    let conninfo = format!("{} application_name={RELAY_NAME}", cluster.postgres.conninfo());
    command.arg("-D").arg(&spoofed).args(["-d", &conninfo]);
    let log = cluster.path("pg_receivewal.log");
    let mut receiver = Process::start("pg_receivewal", &mut command, &log).unwrap();
    let both = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' \
                AND application_name = 'firn'";
    let streaming = || Ok((cluster.postgres.sql(both)? == "2").then_some(()));
    wait_until(LIMIT, streaming).unwrap().expect("pg_receivewal does not stream");
    cluster.relay.kill().unwrap();
    cluster.relay.start().unwrap();
    let warning =
        "another standby is connected as \"firn\" and satisfies synchronous_standby_names";
    cluster.wait_for_relay_line(warning).unwrap();
    receiver.kill().unwrap();
}

#[test]
fn commits_wait_for_the_quorum_under_remote_apply_and_a_cancelled_wait_is_a_warning() {
    let mut cluster = cluster();
    cluster.commit("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1)").unwrap();
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[1].kill().unwrap();
    let waiting = "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (2)";
    let session = cluster.begin_commit(waiting).unwrap();
    cluster.wait_for_waiting_commits(1).unwrap();
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    cluster.postgres.sql(cancel).unwrap();
    // COMMIT came back, and says that it is in doubt.
    let in_doubt = cluster.finish_commit(session).unwrap_err().to_string();
    assert!(
        in_doubt.contains("WARNING:  canceling wait for synchronous replication"),
        "{in_doubt}"
    );
    assert!(in_doubt.contains("might not have been replicated"), "{in_doubt}");
}
