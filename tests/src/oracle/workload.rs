//! What the servers are made to do: the shared SQL scripts, concurrent clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use firn_core::types::Lsn;

use crate::local::postgres::{PostgresServer, run};
use crate::recordings::shared_directory;

/// Each client's transactions in a round, of pgbench's own workload and of the mixed one that runs beside it.
const PGBENCH_TRANSACTIONS: u32 = 400;
const MIXED_TRANSACTIONS: u32 = 75;
/// What both write at least, in as many rounds as it takes: how many images of pages they write depends on how they meet.
const CONCURRENT_WAL_BYTES_MIN: u64 = 300 << 20;
/// Rounds write about 60 MB each.
const ROUNDS_MAX: usize = 20;
/// Scripts whose images are compressed by other methods: lz4 is the one that costs little.
const OTHER_COMPRESSION: [(&str, &str); 3] =
    [("08_misc", "off"), ("10_ddl", "pglz"), ("05b_gist", "zstd")];
const PGBENCH_CLIENTS: u32 = 8;

fn folder() -> Result<PathBuf> {
    Ok(shared_directory()?.join("workloads"))
}

/// Every SQL script, in order.
pub fn run_scripts(server: &PostgresServer) -> Result<()> {
    let folder = folder()?;
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("no workloads at {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "no workloads at {}", folder.display());
    let methods = server.sql("SELECT enumvals FROM pg_settings WHERE name = 'wal_compression'")?;
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let method = OTHER_COMPRESSION
            .iter()
            .find(|(script, method)| name.starts_with(script) && methods.contains(method));
        run_script(server, file, method.map_or("lz4", |(_, method)| method))?;
    }
    Ok(())
}

fn run_script(server: &PostgresServer, file: &Path, compression: &str) -> Result<()> {
    let mut psql = server.install.command_as_we_are("psql");
    psql.env("PGOPTIONS", format!("-c wal_compression={compression}"));
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &server.conninfo(), "-f"]);
    let output = psql.arg(file).output().context("cannot run psql")?;
    if !output.status.success() {
        bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Several clients at once, each of the mixed workload and, if `with_pgbench`, as many of pgbench's own beside them; `then`
/// runs when they have started.
pub fn run_clients(
    server: &PostgresServer,
    with_pgbench: bool,
    then: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if with_pgbench {
        fill_pgbench(server)?;
    }
    let start = wal_position(server)?;
    let mut mixed = start_mixed(server)?;
    then()?;
    if !with_pgbench {
        return wait_for(&mut mixed);
    }
    for _ in 0..ROUNDS_MAX {
        run(pgbench(server, PGBENCH_TRANSACTIONS).arg("postgres"))?;
        wait_for(&mut mixed)?;
        if wal_position(server)? - start >= CONCURRENT_WAL_BYTES_MIN {
            return Ok(());
        }
        mixed = start_mixed(server)?;
    }
    wait_for(&mut mixed)?;
    bail!("{ROUNDS_MAX} rounds wrote less than {CONCURRENT_WAL_BYTES_MIN} bytes of WAL")
}

fn wait_for(pgbench: &mut Child) -> Result<()> {
    let status = pgbench.wait().context("cannot wait for pgbench")?;
    ensure!(status.success(), "pgbench ended with {status}");
    Ok(())
}

fn wal_position(server: &PostgresServer) -> Result<Lsn> {
    Ok(server.sql("SELECT pg_current_wal_insert_lsn()")?.parse()?)
}

/// Conflicts, row locks of every strength, indexes of all kinds.
fn start_mixed(server: &PostgresServer) -> Result<Child> {
    let scripts = folder()?.join("pgbench");
    let mut pgbench = pgbench(server, MIXED_TRANSACTIONS);
    for name in ["upsert.sql", "locks.sql", "growshrink.sql"] {
        pgbench.arg("-f").arg(scripts.join(name));
    }
    pgbench.arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
    pgbench.spawn().context("cannot run pgbench")
}

fn fill_pgbench(server: &PostgresServer) -> Result<()> {
    let mut fill = server.install.command_as_we_are("pgbench");
    let port = server.port().to_string();
    fill.args([
        "-i",
        "-q",
        "-s",
        "4",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        "postgres",
        "postgres",
    ]);
    run(&mut fill).map(|_| ())
}

fn pgbench(server: &PostgresServer, transactions: u32) -> Command {
    let mut pgbench = server.install.command_as_we_are("pgbench");
    pgbench.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "postgres", "-n"]);
    pgbench.args(["-c", &PGBENCH_CLIENTS.to_string(), "-j", "2", "-t", &transactions.to_string()]);
    pgbench
}
