//! The ledger: ids of transactions whose COMMIT was acknowledged, in a file outside Postgres; and its comparison with a
//! database.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::local::postgres::PostgresServer;

/// A transaction: which client, and its how manieth try. A try's number is never used again, whatever became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId {
    /// The client.
    pub client: u32,
    /// The try.
    pub sequence: u64,
}

impl TransactionId {
    fn parse(line: &str) -> Option<TransactionId> {
        let (client, sequence) = line.split_once([' ', '|'])?;
        Some(TransactionId { client: client.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

/// The file; appended to, one line per transaction.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// An empty ledger.
    pub fn create(path: &Path) -> Result<Ledger> {
        let file = File::options().create_new(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot make the ledger {}", path.display()))?;
        Ok(Ledger { path: path.to_path_buf(), file })
    }

    /// Enters an acknowledged transaction. One write to the file: the line is in it or not.
    pub fn enter(&mut self, id: TransactionId) -> Result<()> {
        let line = format!("{} {}\n", id.client, id.sequence);
        self.file.write_all(line.as_bytes()).context("cannot write the ledger")
    }

    /// All ids in it, read from the file.
    pub fn read(&self) -> Result<BTreeSet<TransactionId>> {
        let text = fs::read_to_string(&self.path).context("cannot read the ledger")?;
        let lines = text.lines().map(|line| {
            TransactionId::parse(line)
                .with_context(|| format!("not a line of the ledger: {line:?}"))
        });
        lines.collect()
    }
}

/// What a database has of a ledger.
#[derive(Debug)]
pub struct Check {
    /// Ids in the ledger.
    pub entered: u64,
    /// Acknowledged, and not in the database. Must be empty.
    pub missing: Vec<TransactionId>,
    /// In the database, and never acknowledged: commits in doubt when something was killed.
    pub extra: Vec<TransactionId>,
}

impl Check {
    /// Compares a running server's table with the ledger.
    pub fn run(ledger: &Ledger, postgres: &mut PostgresServer) -> Result<Check> {
        let entered = ledger.read()?;
        let rows = postgres.sql("SELECT client, sequence FROM acknowledged")?;
        let found: Option<BTreeSet<TransactionId>> =
            rows.lines().map(TransactionId::parse).collect();
        let found = found.context("the table holds something else")?;
        Ok(Check {
            entered: entered.len() as u64,
            missing: entered.difference(&found).copied().collect(),
            extra: found.difference(&entered).copied().collect(),
        })
    }
}
