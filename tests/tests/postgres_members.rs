//! A timeline's acceptors change while Postgres commits.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use firn_tests::cluster::TestCluster;
use firn_tests::local::node::NodeOptions;
use firn_tests::postgres_versions::outer_postgres_versions;

#[test]
fn a_lost_node_is_replaced_while_commits_go_on() {
    for install in outer_postgres_versions().unwrap() {
        let options = NodeOptions::default();
        let mut cluster = TestCluster::start(install, &options).unwrap();
        cluster.postgres.base_backup(&cluster.path("base")).unwrap();
        cluster.commit("INSERT INTO t SELECT generate_series(1, 20000)").unwrap();

        // A node comes back with an empty disk: it has another id and is not taken for the old one.
        let lost_id = cluster.nodes[0].ports().unwrap().node_id;
        cluster.nodes[0].kill().unwrap();
        cluster.nodes[0].lose_data().unwrap();
        cluster.commit("INSERT INTO t VALUES (20001)").unwrap();

        cluster.add_node(&options).unwrap();
        let added_url = cluster.nodes[3].url().unwrap();
        let added_id = cluster.nodes[3].ports().unwrap().node_id;
        // The lost node may know of another change, as far as the command can tell.
        let lost = lost_id.to_string();
        let add = ["timeline", "members", "add", "--limit-s", "60", "--node", &added_url];
        let refused = cluster.run_firn(&add).unwrap_err().to_string();
        assert!(refused.contains("gone for good (--gone)"), "{refused}");
        let added = cluster.run_firn(&[&add[..], &["--gone", &lost]].concat());
        assert!(added.is_ok(), "{added:?}; the relay says:\n{}", cluster.relay.log_tail());
        cluster.commit("INSERT INTO t VALUES (20002)").unwrap();
        let remove = ["timeline", "members", "remove", "--node-id", &lost, "--gone", &lost];
        cluster.run_firn(&remove).unwrap();
        cluster.commit("INSERT INTO t VALUES (20003)").unwrap();
        let remove = ["timeline", "members", "remove", "--json", "--node-id", &lost];
        let again = cluster.run_firn(&remove).unwrap();
        let again: serde_json::Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["generation"], 5, "nothing to change: {again}");
        assert_eq!(again["members"].as_array().unwrap().len(), 3, "{again}");

        // The added node counts: with it and one other the commits go on, and a rebuild finds everything.
        cluster.nodes[1].kill().unwrap();
        cluster.commit("INSERT INTO t VALUES (20004)").unwrap();
        let status = cluster.run_firn(&["timeline", "show"]).unwrap();
        assert!(status.contains(&added_id.to_string()), "{status}");
        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();
        let rebuilt = cluster.rebuild("base", "rebuilt").unwrap();
        assert_eq!(rebuilt.sql("SELECT count(*), max(id) FROM t").unwrap(), "20004|20004");
    }
}
