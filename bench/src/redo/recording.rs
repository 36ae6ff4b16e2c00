//! WAL of a real server under pgbench, and the data directory that it applies to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use firn_core::postgres::wal::{Decoder, WalVersion};
use firn_core::types::Lsn;
use firn_tools::commands::wal::segment_start;
use firn_tools::local::postgres::{PostgresServer, run};
use firn_tools::local::postgres_install::{PostgresInstall, ServerUser};

/// Segment size of the server.
pub const SEGMENT_BYTES: u32 = 16 << 20;
/// Rows of pgbench_accounts are 100,000 times this: some 170 MB of heap and index, well past the processor's caches.
const SCALE: &str = "10";
const CLIENTS: u64 = 8;
/// All relations and what the run adds fit: nothing is evicted, and a recovery finds everything in memory.
const SHARED_BUFFERS: &str = "1GB";

/// What the server did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// So many of pgbench's own transactions.
    Pgbench {
        /// How many.
        transactions: u64,
    },
    /// [`INSERTS`] rows into a table with two B-trees, one filled in order and one anywhere: pgbench's own transactions
    /// hardly ever change an index.
    IndexInserts,
}

/// Each leaf of the index that is filled anywhere gets some hundred entries between two splits.
const INSERTS: u64 = 60_000;
const INSERT_TABLE: &str = "CREATE TABLE entries (id bigserial PRIMARY KEY, account int);
    CREATE INDEX ON entries (account)";
const INSERT_SCRIPT: &str =
    "\\set account random(1, 1000000)\nINSERT INTO entries (account) VALUES (:account);\n";

impl Workload {
    fn folder(self) -> String {
        match self {
            Workload::Pgbench { transactions } => transactions.to_string(),
            Workload::IndexInserts => "inserts".to_string(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Workload::Pgbench { .. } => "pgbench",
            Workload::IndexInserts => "inserts with indexes",
        }
    }
}

/// What was recorded, on disk and in memory.
pub struct Recording {
    /// The Postgres that wrote it.
    pub install: PostgresInstall,
    /// What it did.
    pub workload: Workload,
    /// Its version.
    pub version: WalVersion,
    /// `full_page_writes` of the run.
    pub full_page_writes: bool,
    /// Where the WAL to replay begins.
    pub start: Lsn,
    /// End of the last record.
    pub end: Lsn,
    /// Records from `start` to `end`.
    pub records: u64,
    /// The WAL from `start` to `end`, page headers included.
    pub wal: Vec<u8>,
    directory: PathBuf,
}

impl Recording {
    /// The data directory as it was at `start`.
    pub fn base(&self) -> PathBuf {
        self.directory.join("base")
    }

    /// The data directory as a crash left it, with all WAL; no page of it was written since `start`.
    pub fn crashed(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What it is, for people.
    pub fn name(&self) -> String {
        format!(
            "{} of Postgres {}, {:.1} million records, full_page_writes {}",
            self.workload.name(),
            self.version,
            self.records as f64 / 1e6,
            switch(self.full_page_writes)
        )
    }

    /// A place for a recovery.
    pub fn recovery(&self) -> PathBuf {
        self.directory.join("recovery")
    }

    /// Uses what is in `directory`, or runs a server and pgbench there.
    pub fn open_or_make(
        install: &PostgresInstall,
        directory: &Path,
        workload: Workload,
        full_page_writes: bool,
    ) -> Result<Recording> {
        let name = format!("{}-{}-{}", install.major, workload.folder(), switch(full_page_writes));
        let directory = directory.join(name);
        let done = directory.join("done");
        if !done.exists() {
            make(install, &directory, workload, full_page_writes)?;
            fs::write(&done, "")?;
        }
        let version = WalVersion::from_major(install.major).context("a version from 14 to 18")?;
        let start = install.redo_location(&directory.join("data"))?;
        let mut wal = read_wal(&directory.join("data/pg_wal"), start)?;
        let (records, end) = count(&wal, start, version)?;
        wal.truncate(usize::try_from(end - start)?);
        let install = install.clone();
        Ok(Recording {
            install,
            workload,
            version,
            full_page_writes,
            start,
            end,
            records,
            wal,
            directory,
        })
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn make(
    install: &PostgresInstall,
    directory: &Path,
    workload: Workload,
    full_page_writes: bool,
) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).context("cannot remove half a recording")?;
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let data = directory.join("data");
    let settings = [
        ("full_page_writes", switch(full_page_writes)),
        ("shared_buffers", SHARED_BUFFERS),
        ("synchronous_commit", "off"),
        ("fsync", "off"),
        // Every page on disk stays as it is at the start: recovery has all the work to do.
        ("checkpoint_timeout", "1d"),
        ("max_wal_size", "1TB"),
        ("bgwriter_lru_maxpages", "0"),
        ("wal_recycle", "off"),
    ];
    // The same pages for all versions: 18 would have checksums.
    let initdb: &[&str] = if install.major >= 18 { &["--no-data-checksums"] } else { &[] };
    let mut server = PostgresServer::create_with(install.clone(), &data, &settings, initdb)?;
    server.start()?;
    pgbench(&server, &["-i", "-q", "-s", SCALE])?;
    if workload == Workload::IndexInserts {
        server.sql(INSERT_TABLE)?;
    }
    server.stop()?;
    run(Command::new("cp").arg("-a").arg(&data).arg(directory.join("base")))?;
    fs::remove_dir_all(directory.join("base/pg_wal")).context("cannot remove the copy's WAL")?;
    server.start()?;
    let script = directory.join("script.sql");
    fs::write(&script, INSERT_SCRIPT).context("cannot write the script")?;
    let script = script.to_str().context("a path that is text")?;
    let (transactions, script) = match workload {
        Workload::Pgbench { transactions } => (transactions, None),
        Workload::IndexInserts => (INSERTS, Some(["-f", script])),
    };
    let [clients, each] = [CLIENTS, (transactions / CLIENTS).max(1)].map(|n| n.to_string());
    let mut arguments = vec!["-n", "-M", "prepared", "-c", &clients, "-t", &each];
    arguments.extend(script.into_iter().flatten());
    pgbench(&server, &arguments)?;
    server.stop_immediately()?;
    Ok(())
}

fn pgbench(server: &PostgresServer, arguments: &[&str]) -> Result<()> {
    let mut command = server.install.command_as_we_are("pgbench");
    command.args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "postgres"]);
    run(command.args(arguments).arg("postgres"))?;
    ServerUser::give(server.data())
}

/// All WAL from `start` to the end of the last segment.
fn read_wal(folder: &Path, start: Lsn) -> Result<Vec<u8>> {
    let segment_bytes = u64::from(SEGMENT_BYTES);
    let mut names: Vec<(Lsn, PathBuf)> = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .filter_map(|entry| {
            let begin = segment_start(entry.file_name().to_str()?, segment_bytes)?;
            Some((begin, entry.path()))
        })
        .filter(|(begin, _)| *begin >= start.segment_start(segment_bytes))
        .collect();
    names.sort();
    let mut wal = Vec::with_capacity(names.len() * SEGMENT_BYTES as usize);
    for (begin, path) in names {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let skip = if begin < start { usize::try_from(start - begin)? } else { 0 };
        wal.extend_from_slice(&bytes[skip..]);
    }
    Ok(wal)
}

fn count(wal: &[u8], start: Lsn, version: WalVersion) -> Result<(u64, Lsn)> {
    let mut decoder = Decoder::new(start, SEGMENT_BYTES, Some(version));
    let mut input = wal;
    let mut records = 0;
    while let Ok(Some(_)) = decoder.next(&mut input) {
        records += 1;
    }
    ensure!(records > 0, "no WAL at {start}");
    Ok((records, decoder.record_end()))
}
