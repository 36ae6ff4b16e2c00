//! After a fence the old primary commits nothing; primaries that are not what the quorum holds are refused.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::process::Command;

use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres::{PostgresServer, run};
use firn_tests::local::postgres_install::PostgresInstall;
use firn_tests::postgres_versions::{outer_postgres_versions, postgres_version, postgres_versions};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

fn cluster() -> TestCluster {
    cluster_of(postgres_version().unwrap())
}

fn cluster_of(install: PostgresInstall) -> TestCluster {
    TestCluster::start(install, &NodeOptions::default()).unwrap()
}

/// Copies a stopped server's directory.
fn copy(cluster: &TestCluster, from: &PostgresServer, to: &str) {
    let to = cluster.path(to);
    run(Command::new("cp").arg("-a").arg(from.data()).arg(to)).unwrap();
}

#[test]
fn a_rebuild_stops_an_old_primary_and_its_relay_that_still_run() {
    for install in postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t VALUES (1)").unwrap();

        let rebuilt = cluster.rebuild("base", "rebuilt").unwrap();
        let in_vain = cluster.begin_commit("INSERT INTO t VALUES (2)").unwrap();
        cluster.wait_for_relay_end().unwrap();
        cluster.wait_for_waiting_commits(1).unwrap();
        assert_eq!(rebuilt.sql("SELECT id FROM t").unwrap(), "1");

        // The new primary goes on where the fence was, and the old one's relay stays out.
        let mut new_relay = cluster.relay_from(&rebuilt, "new-relay.log");
        new_relay.start().unwrap();
        drop(in_vain);
        let old = std::mem::replace(&mut cluster.postgres, rebuilt);
        cluster.relay = new_relay;
        cluster.commit("INSERT INTO t VALUES (3)").unwrap();

        // From then on a relay that is started anew on the old primary changes nothing either.
        let mut late = cluster.relay_from(&old, "late-relay.log");
        late.start().unwrap();
        let ended = wait_until(LIMIT, || late.ended()).unwrap().expect("the late relay ends");
        assert_eq!(ended.code(), Some(4), "{}", late.log_tail());
        cluster.commit("INSERT INTO t VALUES (4)").unwrap();
    }
}

#[test]
fn a_rebuilt_primary_can_be_rebuilt_again() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = cluster_of(install);
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t VALUES (1)").unwrap();
        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();

        // Each rebuild begins a Postgres timeline; the nodes name its WAL by it and keep the history.
        for (round, (base, to)) in [("base", "second"), ("base", "third")].into_iter().enumerate() {
            let rebuilt = cluster.rebuild(base, to).unwrap();
            cluster.relay = cluster.relay_from(&rebuilt, &format!("relay-{to}.log"));
            cluster.postgres = rebuilt;
            cluster.relay.start().unwrap();
            cluster.commit(&format!("INSERT INTO t VALUES ({})", round + 2)).unwrap();
            let ids = cluster.postgres.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM t");
            assert_eq!(ids.unwrap(), ["1,2", "1,2,3"][round]);
            cluster.postgres.kill().unwrap();
            cluster.relay.kill().unwrap();
        }
    }
}

/// Two of three nodes learn of the primary's second Postgres timeline; the third one runs the fence.
#[test]
fn a_fence_knows_the_postgres_timelines_that_its_own_node_was_never_told() {
    let mut cluster = cluster();
    cluster.postgres.base_backup(&cluster.path("base")).unwrap();
    cluster.commit("INSERT INTO t VALUES (1)").unwrap();
    cluster.postgres.kill().unwrap();
    cluster.relay.kill().unwrap();
    let rebuilt = cluster.rebuild("base", "second").unwrap();
    cluster.nodes[0].kill().unwrap();
    cluster.relay = cluster.relay_from(&rebuilt, "relay-second.log");
    cluster.postgres = rebuilt;
    cluster.relay.start().unwrap();
    cluster.commit("INSERT INTO t VALUES (2)").unwrap();
    cluster.postgres.kill().unwrap();
    cluster.relay.kill().unwrap();

    cluster.nodes[0].start().unwrap();
    let fencing = cluster.nodes[0].url().unwrap();
    let client = NodeClient::new(&fencing, None);
    assert_eq!(client.wal_file(cluster.key, "00000002.history").unwrap(), None);
    let fenced = cluster.run_firn(&["timeline", "fence", "--json", "--nodes", &fencing]).unwrap();
    let fenced: serde_json::Value = serde_json::from_str(&fenced).unwrap();
    assert_eq!(fenced["postgres_timeline"], 2, "{fenced}");
    assert!(client.wal_file(cluster.key, "00000002.history").unwrap().is_some());

    let rebuilt = cluster.rebuild("base", "third").unwrap();
    assert_eq!(rebuilt.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM t").unwrap(), "1,2");
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(rebuilt.sql(timeline).unwrap(), "3");
}

#[test]
fn a_primary_from_an_older_copy_of_its_disk_is_refused() {
    let mut cluster = cluster();
    cluster.postgres.stop_immediately().unwrap();
    copy(&cluster, &cluster.postgres, "older");
    cluster.postgres.start().unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();
    cluster.postgres.kill().unwrap();
    cluster.relay.kill().unwrap();

    let mut older =
        PostgresServer::adopt(cluster.postgres.install.clone(), &cluster.path("older")).unwrap();
    older.start().unwrap();
    cluster.relay = cluster.relay_from(&older, "relay-of-older.log");
    cluster.postgres = older;
    cluster.relay.start().unwrap();
    let in_vain = cluster.begin_commit("INSERT INTO t VALUES (1)").unwrap();
    cluster.wait_for_waiting_commits(1).unwrap();
    cluster.wait_for_relay_line("quorum").unwrap();
    drop(in_vain);
    let status = cluster.run_firn(&["timeline", "show"]).unwrap();
    assert!(status.contains("committed"), "{status}");
}

#[test]
fn a_sibling_with_the_same_system_id_is_refused() {
    let mut cluster = cluster();
    cluster.postgres.stop().unwrap();
    copy(&cluster, &cluster.postgres, "sibling");
    cluster.postgres.start().unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 10)").unwrap();
    cluster.relay.kill().unwrap();
    let before = cluster.run_firn(&["timeline", "show", "--json"]).unwrap();

    let mut sibling =
        PostgresServer::adopt(cluster.postgres.install.clone(), &cluster.path("sibling")).unwrap();
    sibling.configure(&[("synchronous_standby_names", "")]).unwrap();
    sibling.start().unwrap();
    // More WAL than the quorum has, and different.
    sibling.sql("INSERT INTO t SELECT generate_series(100, 5000)").unwrap();
    let original = std::mem::replace(&mut cluster.postgres, sibling);
    cluster.relay = cluster.relay_from(&cluster.postgres, "relay-of-sibling.log");
    cluster.relay.start().unwrap();
    cluster.wait_for_relay_line("differ").unwrap();
    cluster.relay.kill().unwrap();
    let after = cluster.run_firn(&["timeline", "show", "--json"]).unwrap();
    assert_eq!(commit_lsns(&before), commit_lsns(&after));

    cluster.postgres = original;
    cluster.relay = cluster.relay_from(&cluster.postgres, "relay-again.log");
    cluster.relay.start().unwrap();
    cluster.commit("INSERT INTO t VALUES (11)").unwrap();
}

fn commit_lsns(status: &str) -> Vec<String> {
    let status: serde_json::Value = serde_json::from_str(status).unwrap();
    status.as_object().unwrap().values().map(|node| node["commit_lsn"].to_string()).collect()
}
