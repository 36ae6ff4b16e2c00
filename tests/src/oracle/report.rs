//! What was seen, checked and found different, per record type.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use firn_core::postgres::wal::names::{record_kind, record_name, resource_manager_name};
use firn_core::postgres::wal::{Record, WalVersion};

use super::pass::Pass;

/// Differences that are written out in full; all are counted.
const FAILURES_SHOWN_MAX: usize = 20;

/// Counts of one record type.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Records.
    pub seen: u64,
    /// Blocks compared with the page that Postgres put into the record, or descriptions with `pg_waldump`'s.
    pub checked: u64,
    /// Blocks that came out different, or could not be replayed.
    pub failed: u64,
    /// What it did besides changing its blocks: checked at checkpoints, against `pg_waldump`, or with the stopped server.
    pub effects: u64,
    /// Blocks restored from an image: no evidence.
    pub restored: u64,
    /// Blocks that did not exist: legal only if the relation is dropped or cut later.
    pub missing: u64,
}

/// The result of replaying one server's WAL.
#[derive(Debug)]
pub struct Report {
    /// Which release of Postgres wrote the WAL.
    pub release: String,
    /// Its version.
    pub version: WalVersion,
    /// Per resource manager and kind of record.
    pub records: BTreeMap<(u8, u8), Counts>,
    /// Pages of relations and simple logs of the stopped server compared after the last record, and how many were different.
    pub final_pages: (u64, u64),
    /// The same for what is no page: files of prepared transactions, the control file ...
    pub state: (u64, u64),
    /// Blocks whose page had the record already, as in a base backup.
    pub skipped: u64,
    /// Bytes of all records.
    pub wal_bytes: u64,
    /// Record types of which `pg_waldump` counts another number.
    pub wrong_counts: u64,
    /// For each pass how long the server was at work, and how long replaying and comparing took.
    pub times: Vec<(Duration, Duration)>,
    /// The first differences in words.
    pub failures: Vec<String>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(version: WalVersion) -> Report {
        Report {
            release: version.to_string(),
            version,
            records: BTreeMap::new(),
            final_pages: (0, 0),
            state: (0, 0),
            skipped: 0,
            wal_bytes: 0,
            wrong_counts: 0,
            times: Vec::new(),
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
            + self.state.1
            + self.wrong_counts
    }

    /// What came out of one pass, in a line.
    pub fn line(&self, pass: &Pass) -> String {
        let sum = |count: fn(&Counts) -> u64| self.records.values().map(count).sum::<u64>();
        format!(
            "Postgres {}, full_page_writes {}: {} records, {} MB of WAL, {} compared, {} final pages, {} different; \
             {} seconds (server + replay)",
            self.release,
            if pass.full_page_writes { "on" } else { "off" },
            sum(|counts| counts.seen),
            self.wal_bytes / 1_000_000,
            sum(|counts| counts.checked),
            self.final_pages.0,
            self.failed(),
            self.seconds(),
        )
    }

    /// How long the server was at work and how long replaying and comparing took, for each pass.
    fn seconds(&self) -> String {
        let times = self.times.iter();
        let times: Vec<String> = times
            .map(|(server, replay)| format!("{} + {}", server.as_secs(), replay.as_secs()))
            .collect();
        times.join(", ")
    }

    /// Adds a replay of part of the same WAL over a base backup: its records are counted already.
    pub fn add_backup(&mut self, mut other: Report) {
        for counts in other.records.values_mut() {
            *counts = Counts { failed: counts.failed, ..Counts::default() };
        }
        other.wal_bytes = 0;
        self.add(other);
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
    pub fn seen_by_name(&self) -> BTreeMap<String, u64> {
        self.by_name().into_iter().map(|(name, (_, counts))| (name, counts.seen)).collect()
    }

    fn by_name(&self) -> BTreeMap<String, ((u8, u8), Counts)> {
        let counts = self.records.iter();
        counts.map(|(&kind, &counts)| (self.name(kind.0, kind.1), (kind, counts))).collect()
    }

    /// Adds another pass over the same version.
    pub fn add(&mut self, other: Report) {
        for (kind, counts) in other.records {
            let sum = self.records.entry(kind).or_default();
            sum.seen += counts.seen;
            sum.checked += counts.checked;
            sum.failed += counts.failed;
            sum.effects += counts.effects;
            sum.restored += counts.restored;
            sum.missing += counts.missing;
        }
        self.final_pages.0 += other.final_pages.0;
        self.final_pages.1 += other.final_pages.1;
        self.state.0 += other.state.0;
        self.state.1 += other.state.1;
        self.skipped += other.skipped;
        self.wal_bytes += other.wal_bytes;
        self.wrong_counts += other.wrong_counts;
        self.times.extend(other.times);
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURES_SHOWN_MAX);
    }
}

/// Reports of several releases side by side: for each record type how many were seen, checked and failed.
#[derive(Debug)]
pub struct Table<'a>(pub &'a [Report]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self.0.iter().map(Report::by_name).collect();
        write!(f, "{:32}", "")?;
        for report in self.0 {
            write!(f, "| {:<35}", format!("Postgres {}", report.release))?;
        }
        write!(f, "\n{:32}", "record type")?;
        for _ in self.0 {
            write!(f, "|{:>8} {:>8} {:>8} {:>8} ", "seen", "effects", "checked", "failed")?;
        }
        writeln!(f)?;
        let mut names: Vec<_> =
            named.iter().flatten().map(|(name, (kind, _))| (kind, name)).collect();
        names.sort();
        names.dedup();
        for (_, name) in names {
            write!(f, "{name:32}")?;
            for counts in &named {
                match counts.get(name) {
                    Some((_, Counts { seen, effects, checked, failed, .. })) => {
                        write!(f, "|{seen:>8} {effects:>8} {checked:>8} {failed:>8} ")?;
                    }
                    None => write!(f, "|{:>36}", "")?,
                }
            }
            writeln!(f)?;
        }
        let pages = self.0.iter().map(|report| report.final_pages);
        last_line(f, "pages of the stopped server", pages)?;
        last_line(f, "other state of it", self.0.iter().map(|report| report.state))?;
        write!(f, "{:32}", "MB of WAL")?;
        for report in self.0 {
            write!(f, "|{:>8}{:>28}", report.wal_bytes / 1_000_000, "")?;
        }
        write!(f, "\n{:32}", "seconds, server + replay")?;
        for report in self.0 {
            write!(f, "|{:>35} ", report.seconds())?;
        }
        writeln!(f)?;
        for report in self.0 {
            for failure in &report.failures {
                writeln!(f, "  {}: {failure}", report.release)?;
            }
        }
        Ok(())
    }
}

fn last_line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: impl Iterator<Item = (u64, u64)>,
) -> fmt::Result {
    write!(f, "{name:32}")?;
    for (checked, failed) in counts {
        write!(f, "|{:>17} {checked:>8} {failed:>8} ", "")?;
    }
    writeln!(f)
}
