//! Core's own regression SQL (PostgreSQL src/test/regress) as a workload: every script in the order of its schedule.
//! What they print is not looked at, and those that need the test library's functions fail where they use them.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::local::postgres::{PostgresServer, run};
use crate::local::postgres_install::ServerUser;

/// Runs the SQL of `folder` (which holds `parallel_schedule` and `sql/`) in a database of its own.
pub fn run_regression(server: &PostgresServer, folder: &Path) -> Result<()> {
    let schedule = folder.join("parallel_schedule");
    let schedule = fs::read_to_string(&schedule)
        .with_context(|| format!("cannot read {}", schedule.display()))?;
    let scripts: Vec<&str> = schedule
        .lines()
        .filter_map(|line| line.strip_prefix("test:"))
        .flat_map(str::split_whitespace)
        .collect();
    ensure!(!scripts.is_empty(), "the schedule names no scripts");
    let results = server.data().with_extension("regression");
    fs::create_dir_all(results.join("results"))?;
    ServerUser::give(&results)?;
    server.sql("CREATE DATABASE regression TEMPLATE template0")?;
    let mut library = server.install.command_as_we_are("pg_config");
    let library = run(library.arg("--pkglibdir"))?;
    let target = server.conninfo().replace("dbname=postgres", "dbname=regression");
    for script in scripts {
        let mut psql = server.install.command_as_we_are("psql");
        psql.args(["-X", "-q", "-d", &target, "-f"])
            .arg(folder.join("sql").join(format!("{script}.sql")))
            .envs([("PGTZ", "PST8PDT"), ("PGDATESTYLE", "Postgres, MDY"), ("PG_DLSUFFIX", ".so")])
            .env("PGOPTIONS", "-c intervalstyle=postgres_verbose -c statement_timeout=120s")
            .env("PG_LIBDIR", library.trim())
            .env("PG_ABS_SRCDIR", folder)
            .env("PG_ABS_BUILDDIR", &results)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        psql.status().context("cannot run psql")?;
    }
    Ok(())
}
