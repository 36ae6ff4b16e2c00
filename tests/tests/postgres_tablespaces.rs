//! Tablespaces come along in a rebuild, from both formats of a base backup.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::path::{Path, PathBuf};

use firn_tests::cluster::TestCluster;
use firn_tests::local::node::NodeOptions;
use firn_tests::local::postgres::PostgresServer;
use firn_tests::local::postgres_install::ServerUser;
use firn_tests::postgres_versions::outer_postgres_versions;

fn empty_directory(cluster: &TestCluster, name: &str) -> PathBuf {
    let path = cluster.path(name);
    fs::create_dir(&path).unwrap();
    ServerUser::give(&path).unwrap();
    path
}

fn rebuild(
    cluster: &TestCluster,
    base: &str,
    to: &str,
    mapping: &[&str],
) -> anyhow::Result<PostgresServer> {
    let (base, to) = (cluster.path(base), cluster.path(to));
    let (base, to_text) = (base.to_str().unwrap(), to.to_str().unwrap());
    let arguments = ["timeline", "rebuild", "--base", base, "--to", to_text];
    cluster.run_firn(&[&arguments, mapping].concat())?;
    let mut rebuilt = PostgresServer::adopt(cluster.postgres.install.clone(), &to)?;
    rebuilt.start()?;
    Ok(rebuilt)
}

/// Everything is there, in a tablespace at `place`.
fn check(rebuilt: &PostgresServer, place: &Path) {
    let rows = "SELECT count(*), max(id) FROM spread";
    assert_eq!(rebuilt.sql(rows).unwrap(), "2|2");
    let found = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'";
    assert_eq!(rebuilt.sql(found).unwrap(), place.display().to_string());
    assert!(fs::read_dir(place).unwrap().next().is_some());
}

#[test]
fn tablespaces_are_rebuilt_from_a_directory_and_from_tar_files() {
    for install in outer_postgres_versions().unwrap() {
        let mut cluster = TestCluster::start(install, &NodeOptions::default()).unwrap();
        let original = empty_directory(&cluster, "fast disk");
        // The server cannot make it in a transaction block, which several statements in one query are.
        let make = format!("CREATE TABLESPACE fast LOCATION '{}'", original.display());
        cluster.commit(&make).unwrap();
        cluster.commit("CREATE TABLE spread (id int) TABLESPACE fast").unwrap();
        cluster.commit("INSERT INTO spread VALUES (1)").unwrap();
        let in_backup = empty_directory(&cluster, "fast in backup");
        let mapping = format!("{}={}", original.display(), in_backup.display());
        let plain = ["--tablespace-mapping", &mapping];
        cluster.postgres.base_backup_with(&cluster.path("plain"), &plain).unwrap();
        cluster.postgres.base_backup_with(&cluster.path("tar"), &["-Ft", "-z"]).unwrap();
        cluster.commit("INSERT INTO spread VALUES (2)").unwrap();
        cluster.postgres.kill().unwrap();
        cluster.relay.kill().unwrap();

        // The directories that the backup's links lead to are the backup's own.
        let refused = rebuild(&cluster, "plain", "from-plain", &[]).unwrap_err().to_string();
        assert!(refused.contains("--tablespace-mapping"), "{refused}");
        assert!(!cluster.path("from-plain").exists(), "nothing was done");
        let new = cluster.path("fast from plain");
        let mapping = format!("{}={}", in_backup.display(), new.display());
        let plain = ["--tablespace-mapping", &mapping];
        check(&rebuild(&cluster, "plain", "from-plain", &plain).unwrap(), &new);

        // The lost primary's place is taken only when it is empty.
        let refused = rebuild(&cluster, "tar", "from-tar", &[]).unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");
        fs::remove_dir_all(&original).unwrap();
        check(&rebuild(&cluster, "tar", "from-tar", &[]).unwrap(), &original);
    }
}
