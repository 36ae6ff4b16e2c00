//! What was seen, checked and found different, per record type.

use std::collections::BTreeMap;
use std::fmt;

use firn_core::postgres::wal::names::{record_kind, record_name, resource_manager_name};
use firn_core::postgres::wal::{Record, WalVersion};

/// Differences that are written out in full; all are counted.
const FAILURES_SHOWN_MAX: usize = 20;

/// Counts of one record type.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Records.
    pub seen: u64,
    /// Blocks compared with the page that Postgres put into the record.
    pub checked: u64,
    /// Blocks that came out different, or could not be replayed.
    pub failed: u64,
    /// Blocks restored from an image: no evidence.
    pub restored: u64,
    /// Blocks that did not exist: legal only if the relation is dropped or cut later.
    pub missing: u64,
}

/// The result of replaying one server's WAL.
#[derive(Debug)]
pub struct Report {
    /// Which Postgres wrote the WAL.
    pub version: WalVersion,
    /// Per resource manager and kind of record.
    pub records: BTreeMap<(u8, u8), Counts>,
    /// Pages, simple-log pages and relation maps of the stopped server compared after the last record, and how many were different.
    pub final_pages: (u64, u64),
    /// Record types of which `pg_waldump` counts another number.
    pub wrong_counts: u64,
    /// The first differences in words.
    pub failures: Vec<String>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(version: WalVersion) -> Report {
        Report {
            version,
            records: BTreeMap::new(),
            final_pages: (0, 0),
            wrong_counts: 0,
            failures: Vec::new(),
        }
    }

    /// The counts of `record`'s type.
    pub fn counts(&mut self, record: &Record<'_>) -> &mut Counts {
        let kind = record_kind(record.resource_manager(), record.info());
        self.records.entry((record.resource_manager(), kind)).or_default()
    }

    /// Counts a failure of `record` and writes the first ones out.
    pub fn fail(&mut self, record: &Record<'_>, what: impl FnOnce() -> String) {
        self.counts(record).failed += 1;
        self.note(what);
    }

    /// Writes a failure out unless there are many already.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.failures.len() < FAILURES_SHOWN_MAX {
            self.failures.push(what());
        }
    }

    /// Number of blocks that failed.
    pub fn failed(&self) -> u64 {
        self.records.values().map(|counts| counts.failed).sum::<u64>()
            + self.final_pages.1
            + self.wrong_counts
    }

    /// A record type whose count differs from `pg_waldump`'s.
    pub fn count_difference(&mut self, what: String) {
        self.wrong_counts += 1;
        self.note(|| what);
    }

    /// A record type's name as `pg_waldump` prints it.
    fn name(&self, manager: u8, kind: u8) -> String {
        match (resource_manager_name(manager), record_name(self.version, manager, kind)) {
            (Some(manager), Some(name)) => format!("{manager}/{name}"),
            _ => format!("{manager}/{kind:#04x}"),
        }
    }

    /// How many records of each type there were.
    pub fn seen_by_name(&self) -> Vec<(String, u64)> {
        let counts = self.records.iter();
        counts.map(|(&(manager, kind), counts)| (self.name(manager, kind), counts.seen)).collect()
    }

    /// Adds another pass over the same version.
    pub fn add(&mut self, other: Report) {
        for (kind, counts) in other.records {
            let sum = self.records.entry(kind).or_default();
            sum.seen += counts.seen;
            sum.checked += counts.checked;
            sum.failed += counts.failed;
            sum.restored += counts.restored;
            sum.missing += counts.missing;
        }
        self.final_pages.0 += other.final_pages.0;
        self.final_pages.1 += other.final_pages.1;
        self.wrong_counts += other.wrong_counts;
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURES_SHOWN_MAX);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("Postgres {}", self.version);
        writeln!(
            f,
            "{title:40} {:>10} {:>10} {:>8} {:>10} {:>8}",
            "seen", "checked", "failed", "restored", "missing"
        )?;
        for (&(manager, kind), counts) in &self.records {
            let name = self.name(manager, kind);
            let Counts { seen, checked, failed, restored, missing } = counts;
            writeln!(
                f,
                "{name:40} {seen:>10} {checked:>10} {failed:>8} {restored:>10} {missing:>8}"
            )?;
        }
        let (pages, different) = self.final_pages;
        writeln!(f, "{:40} {:>10} {pages:>10} {different:>8}", "pages of the stopped server", "")?;
        for failure in &self.failures {
            writeln!(f, "  {failure}")?;
        }
        Ok(())
    }
}
