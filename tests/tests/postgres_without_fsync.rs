//! The fsync=off mode: a directory is used once, and any end of it means another rebuild.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres::PostgresServer;
use firn_tests::local::process::{Process, free_port, log_tail};
use firn_tests::postgres_versions::{outer_postgres_versions, postgres_version};
use firn_tools::clock::wait_until;

/// A primary started by `firn postgres run`.
struct SingleUse {
    process: Process,
    conninfo: String,
}

fn run_single_use(cluster: &TestCluster, to: &str) -> SingleUse {
    let port = free_port().unwrap();
    let (base, to_path) = (cluster.path("base"), cluster.path(to));
    let port_text = port.to_string();
    let mut command = cluster
        .firn(&["postgres", "run", "--base", base.to_str().unwrap(), "--port", &port_text, "--to"])
        .unwrap();
    command.arg(to_path).args(["--", "-c", "listen_addresses=127.0.0.1"]);
    command.args(["-c", "unix_socket_directories="]);
    let log = cluster.path(&format!("{to}-run.log"));
    let mut process = Process::start("firn postgres run", &mut command, &log).unwrap();
    let accepting = || {
        process.check_running()?;
        let mut ready = cluster.postgres.install.command_as_we_are("pg_isready");
        let status = ready.args(["-q", "-h", "127.0.0.1", "-p", &port_text]).status()?;
        Ok(status.success().then_some(()))
    };
    let ready = wait_until(LIMIT, accepting).unwrap();
    assert!(ready.is_some(), "not ready:\n{}", log_tail(&log));
    SingleUse {
        process,
        conninfo: format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"),
    }
}

fn psql(cluster: &TestCluster, primary: &SingleUse, sql: &str) -> std::process::Command {
    let mut command = cluster.postgres.install.command_as_we_are("psql");
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
    command.args(["-d", &primary.conninfo, "-c", sql]);
    command
}

/// Attaches a relay to the primary, which must be taken, and commits.
fn attach_and_commit(cluster: &mut TestCluster, primary: &SingleUse, sql: &str) {
    cluster.relay = firn_tests::local::relay::RelayProcess::new(
        "the relay",
        &format!("{} application_name=firn", primary.conninfo),
        cluster.key,
        cluster.acceptors.clone(),
        &cluster.path("relay-single-use.log"),
    );
    cluster.relay.start().unwrap();
    let log = cluster.path("psql-single-use.log");
    let session = Process::start("psql", &mut psql(cluster, primary, sql), &log).unwrap();
    cluster.finish_commit(session).unwrap();
}

#[test]
fn a_directory_is_used_once_whatever_ended_it() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t VALUES (1)").unwrap();
        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();

        // A backend that is killed ends the whole server.
        let mut primary = run_single_use(&cluster, "first");
        attach_and_commit(&mut cluster, &primary, "INSERT INTO t VALUES (2)");
        let suicide =
            psql(&cluster, &primary, "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'").output();
        assert!(!suicide.unwrap().status.success());
        let ended = wait_until(LIMIT, || primary.process.ended()).unwrap();
        assert!(ended.is_some(), "the server goes on without its backend");
        cluster.relay.kill().unwrap();

        // The directory is not started again.
        let (base, first) = (cluster.path("base"), cluster.path("first"));
        let again =
            ["postgres", "run", "--base", base.to_str().unwrap(), "--to", first.to_str().unwrap()];
        let refused = cluster.run_firn(&again).unwrap_err().to_string();
        assert!(refused.contains("must not be started again"), "{refused}");

        // The next one, from another rebuild, has everything; its postmaster is killed.
        let mut primary = run_single_use(&cluster, "second");
        attach_and_commit(&mut cluster, &primary, "INSERT INTO t VALUES (3)");
        primary.process.kill().unwrap();
        cluster.relay.kill().unwrap();

        let rebuilt = cluster.rebuild("base", "third").unwrap();
        assert_eq!(rebuilt.sql("SELECT count(*), max(id) FROM t").unwrap(), "3|3");
    }
}

#[test]
fn the_relay_refuses_a_primary_that_just_set_fsync_off() {
    let install = postgres_version().unwrap();
    let mut cluster = TestCluster::start(install.clone(), &NodeOptions::default()).unwrap();
    cluster.postgres.stop().unwrap();
    cluster.relay.kill().unwrap();
    let mut without = PostgresServer::adopt(install, cluster.postgres.data()).unwrap();
    without.configure(&[("fsync", "off")]).unwrap();
    without.start().unwrap();
    cluster.relay = cluster.relay_from(&without, "relay-refused.log");
    cluster.relay.start().unwrap();
    cluster.wait_for_relay_line("fsync=off").unwrap();
}
