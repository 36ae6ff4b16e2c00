//! The fixtures themselves: servers that start, are killed and come back, and end with their handles.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use firn_tests::local::postgres::PostgresServer;
use firn_tests::postgres_versions::{postgres_version, postgres_versions};
use firn_tests::recordings::{RecordKind, scenario};

/// A temporary directory that the server's user may enter.
fn temporary() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[test]
fn every_version_starts_survives_a_kill_and_ends_with_its_handle() {
    for install in postgres_versions().unwrap() {
        let directory = temporary();
        let major = install.major;
        let mut server =
            PostgresServer::create(install, &directory.path().join("data"), &[("fsync", "off")])
                .unwrap();
        server.start().unwrap();
        let version = server.sql("SHOW server_version_num").unwrap();
        assert_eq!(version.parse::<u32>().unwrap() / 10_000, major);
        server.sql("CREATE TABLE t AS SELECT 7 AS seven; CHECKPOINT").unwrap();

        let port = server.port();
        server.kill().unwrap();
        assert!(!server.is_running().unwrap());
        server.start().unwrap();
        assert_eq!(server.port(), port);
        assert_eq!(server.sql("SELECT seven FROM t").unwrap(), "7");

        let pid_file = server.data().join("postmaster.pid");
        let pid = std::fs::read_to_string(pid_file).unwrap().lines().next().unwrap().to_string();
        let segment = server.shared_memory_segment().unwrap();
        assert!(shared_memory_segments().contains(&segment));
        drop(server);
        assert!(!Path::new("/proc").join(pid).exists());
        assert!(!shared_memory_segments().contains(&segment));
    }
}

/// Ids of the System V shared memory segments of this machine.
fn shared_memory_segments() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().into()).collect()
}

#[test]
fn a_base_backup_becomes_a_server_of_its_own() {
    let directory = temporary();
    let install = postgres_version().unwrap();
    let mut primary =
        PostgresServer::create(install.clone(), &directory.path().join("primary"), &[]).unwrap();
    primary.start().unwrap();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS id").unwrap();
    let backup = directory.path().join("backup");
    primary.base_backup(&backup).unwrap();
    primary.stop().unwrap();

    let mut copy = PostgresServer::adopt(install, &backup).unwrap();
    copy.start().unwrap();
    assert_eq!(copy.sql("SELECT count(*) FROM t").unwrap(), "100");
    let refused = copy.sql("SELECT nothing").unwrap_err().to_string();
    assert!(refused.contains("nothing"), "{refused}");
    copy.stop().unwrap();
}

#[test]
fn recorded_connections_can_be_read() {
    let connections = scenario("a1-first-start").unwrap();
    let (name, compute) =
        connections.iter().find(|(name, _)| name.contains("compute-sk1")).unwrap();
    assert!(name.starts_with("00"), "{name}");
    assert!(compute.joined(RecordKind::ClientBytes).len() > 100);
    assert!(compute.records.windows(2).all(|pair| pair[0].time_us <= pair[1].time_us));
}
