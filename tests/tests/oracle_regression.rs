//! Redo of core's whole regression SQL: `./test oracle --regression DIRECTORY`, where DIRECTORY is `src/test/regress` of
//! Postgres' source (Debian: `apt-get source postgresql-15`).

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::path::PathBuf;

use firn_tests::oracle::pass::{PASSES, Pass, run_pass};
use firn_tests::oracle::regression::run_regression;
use firn_tests::oracle::report::{Report, Table};
use firn_tests::postgres_versions::postgres_versions;

#[test]
fn core_regression_sql_replays_to_the_servers_own_pages() {
    let folder = std::env::var_os("FIRN_POSTGRES_REGRESSION")
        .expect("no FIRN_POSTGRES_REGRESSION: run ./test oracle --regression DIRECTORY");
    let folder = PathBuf::from(folder);
    let pass = Pass { pgbench: false, ..PASSES[0] };
    let reports: Vec<Report> = postgres_versions()
        .unwrap()
        .iter()
        .map(|install| run_pass(install, pass, |server| run_regression(server, &folder)).unwrap())
        .collect();
    println!("{}", Table(&reports));
    assert!(reports.iter().all(|report| report.failed() == 0), "differences");
}
