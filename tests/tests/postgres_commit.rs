//! Commits of a real Postgres wait for a majority of real nodes, and survive whatever is killed.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use firn_core::types::Lsn;
use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::postgres_versions::{postgres_version, postgres_versions};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

fn volatile() -> NodeOptions {
    NodeOptions { volatile: true, ..NodeOptions::default() }
}

#[test]
fn commits_survive_kills_of_everything_on_every_version() {
    for install in postgres_versions().unwrap() {
        let mut cluster = TestCluster::start(install, &volatile()).unwrap();
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();

        cluster.nodes[2].kill().unwrap();
        cluster.commit("INSERT INTO t VALUES (1001)").unwrap();
        cluster.nodes[2].start().unwrap();
        cluster.commit("INSERT INTO t VALUES (1002)").unwrap();

        cluster.relay.kill().unwrap();
        let waiting = cluster.begin_commit("INSERT INTO t VALUES (1003)").unwrap();
        cluster.wait_for_waiting_commits(1).unwrap();
        cluster.relay.start().unwrap();
        cluster.finish_commit(waiting).unwrap();

        cluster.postgres.kill().unwrap();
        cluster.postgres.start().unwrap();
        cluster.commit("INSERT INTO t VALUES (1004)").unwrap();

        // Everything at once, and what the nodes had not flushed is gone with them.
        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();
        cluster.nodes.iter_mut().for_each(|node| node.kill().unwrap());
        cluster.nodes.iter_mut().for_each(|node| node.start().unwrap());
        let rebuilt = cluster.rebuild("base", "rebuilt").unwrap();
        assert_eq!(rebuilt.sql("SELECT count(*), max(id) FROM t").unwrap(), "1004|1004");

        cluster.relay = cluster.relay_from(&rebuilt, "relay-of-rebuilt.log");
        cluster.postgres = rebuilt;
        cluster.relay.start().unwrap();
        cluster.commit("INSERT INTO t VALUES (1005)").unwrap();
    }
}

#[test]
fn a_commit_waits_while_no_majority_is_there() {
    let install = postgres_version().unwrap();
    let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[1].kill().unwrap();
    let waiting = cluster.begin_commit("INSERT INTO t VALUES (1)").unwrap();
    cluster.wait_for_waiting_commits(1).unwrap();
    cluster.nodes[0].start().unwrap();
    cluster.finish_commit(waiting).unwrap();
}

fn flush_lsn(cluster: &TestCluster, node: &NodeProcess) -> Lsn {
    let client = NodeClient::new(&node.url().unwrap(), None);
    client.timeline(cluster.key).unwrap().flush_lsn
}

fn primary_flush_lsn(cluster: &TestCluster) -> Lsn {
    cluster.postgres.sql("SELECT pg_current_wal_flush_lsn()").unwrap().parse().unwrap()
}

/// Waits until a node has all that the primary has flushed by now.
fn wait_for_node(cluster: &TestCluster, node: &NodeProcess) {
    let end = primary_flush_lsn(cluster);
    let flushed = || Ok((flush_lsn(cluster, node) >= end).then_some(()));
    wait_until(LIMIT, flushed).unwrap().expect("the node gets everything");
}

/// A node that stands still with its sockets open is what the quorum does without; it gets all of it when it goes on.
#[test]
fn a_node_that_stands_still_holds_no_commit() {
    let mut cluster =
        TestCluster::start(postgres_version().unwrap(), &NodeOptions::default()).unwrap();
    cluster.nodes[2].pause().unwrap();
    // More than its sockets hold.
    for first in [1, 100_001, 200_001] {
        let last = first + 99_999;
        cluster.commit(&format!("INSERT INTO t SELECT generate_series({first}, {last})")).unwrap();
    }
    cluster.nodes[2].resume().unwrap();
    cluster.commit("INSERT INTO t VALUES (0)").unwrap();
    wait_for_node(&cluster, &cluster.nodes[2]);
}

/// A node whose disk takes 30 ms for each write goes on serving, and the others commit without it.
#[test]
fn a_slow_disk_holds_no_commit_and_its_node_serves() {
    let mut cluster =
        TestCluster::start(postgres_version().unwrap(), &NodeOptions::default()).unwrap();
    cluster.nodes[2].kill().unwrap();
    cluster.nodes[2].add_arguments(&["--device", "modelled:30000us"]);
    cluster.nodes[2].start().unwrap();
    wait_for_node(&cluster, &cluster.nodes[2]);
    // Were commits to wait for it, it would have each of them whenever one is back.
    let mut id = 0;
    let ahead = || {
        id += 1;
        cluster.commit(&format!("INSERT INTO t VALUES ({id})"))?;
        let committed = primary_flush_lsn(&cluster);
        Ok((flush_lsn(&cluster, &cluster.nodes[2]) < committed).then_some(()))
    };
    wait_until(LIMIT, ahead).unwrap().expect("commits come back before the slow node has them");
    wait_for_node(&cluster, &cluster.nodes[2]);
}

/// As docs/operating.md says: in doubt, and Postgres decides for it.
#[test]
fn a_commit_that_no_quorum_has_shows_after_a_restart_in_place() {
    let install = postgres_version().unwrap();
    let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[1].kill().unwrap();
    let mut waiting = cluster.begin_commit("INSERT INTO t VALUES (1)").unwrap();
    cluster.wait_for_waiting_commits(1).unwrap();
    assert_eq!(cluster.postgres.sql("SELECT count(*) FROM t").unwrap(), "0");
    cluster.postgres.kill().unwrap();
    waiting.kill().unwrap();
    cluster.postgres.start().unwrap();
    assert_eq!(cluster.postgres.sql("SELECT count(*) FROM t").unwrap(), "1");
    // The quorum gets it with what follows.
    cluster.nodes[0].start().unwrap();
    cluster.commit("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(cluster.postgres.sql("SELECT count(*) FROM t").unwrap(), "2");
}

#[test]
fn small_segments_and_switches_pass_through() {
    let install = postgres_version().unwrap();
    let mut cluster =
        TestCluster::start_with(install, &NodeOptions::default(), &["--wal-segsize=1"]).unwrap();
    cluster.postgres.base_backup(&cluster.path("base")).unwrap();
    for round in 0..5 {
        let first = round * 10_000 + 1;
        let last = first + 9_999;
        cluster.commit(&format!("INSERT INTO t SELECT generate_series({first}, {last})")).unwrap();
        cluster.commit("SELECT pg_switch_wal()").unwrap();
    }
    cluster.postgres.kill().unwrap();
    cluster.relay.kill().unwrap();
    let rebuilt = cluster.rebuild("base", "rebuilt").unwrap();
    assert_eq!(rebuilt.sql("SELECT count(*), max(id) FROM t").unwrap(), "50000|50000");
}
