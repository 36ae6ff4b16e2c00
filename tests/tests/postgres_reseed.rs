//! A node loses acknowledged data while Postgres commits, and counts again once it was re-seeded.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use firn_core::api::StandingStatus;
use firn_tests::cluster::{LIMIT, TestCluster};
use firn_tests::local::node::NodeOptions;
use firn_tests::postgres_versions::postgres_version;
use firn_tests::rot::rot_frame_with;
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;

#[test]
fn a_relay_goes_on_after_a_node_was_reseeded() {
    let install = postgres_version().unwrap();
    let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
    cluster.commit("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();
    cluster.nodes[0].kill().unwrap();
    rot_frame_with(&cluster.nodes[0], "append").unwrap();
    cluster.nodes[0].start().unwrap();
    cluster.commit("INSERT INTO t VALUES (1001)").unwrap();
    let client = NodeClient::new(&cluster.nodes[0].url().unwrap(), None);
    let whole = wait_until(LIMIT, || {
        let status = client.timeline(cluster.key)?;
        Ok((status.standing == StandingStatus::Whole).then_some(()))
    });
    assert!(whole.unwrap().is_some(), "{:?}", client.timeline(cluster.key));
    let counters = client.metrics().unwrap();
    assert!(
        counters
            .lines()
            .any(|line| line.starts_with("firn_reseeds_total") && !line.ends_with(" 0")),
        "{counters}"
    );

    // It makes the majority from now on.
    cluster.nodes[1].kill().unwrap();
    cluster.commit("INSERT INTO t VALUES (1002)").unwrap();
    assert_eq!(cluster.postgres.sql("SELECT count(*) FROM t").unwrap(), "1002");
}
