//! Counts per resource manager or record type, in pg_waldump's columns.

use std::collections::BTreeMap;
use std::fmt;

use firn_core::postgres::wal::Record;
use firn_core::postgres::wal::names::record_kind;
use firn_core::types::Lsn;

use super::{kind, manager};

/// What to count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CountBy {
    /// Resource managers.
    Rmgr,
    /// Record types.
    Record,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    name: String,
    records: u64,
    /// Without images.
    record_bytes: u64,
    image_bytes: u64,
}

/// The statistics of some records.
#[derive(Debug)]
pub struct Stats {
    by: CountBy,
    between: Option<(Lsn, Lsn)>,
    counts: BTreeMap<(u8, u8), Counts>,
}

impl Stats {
    /// Nothing counted yet.
    pub fn new(by: CountBy) -> Stats {
        Stats { by, between: None, counts: BTreeMap::new() }
    }

    /// Counts a record.
    pub fn add(&mut self, record: &Record<'_>) {
        let number = record.resource_manager();
        let key = match self.by {
            CountBy::Rmgr => (number, 0),
            CountBy::Record => (number, record_kind(number, record.info())),
        };
        let counts = self.counts.entry(key).or_insert_with(|| Counts {
            name: match self.by {
                CountBy::Rmgr => manager(number),
                CountBy::Record => format!("{}/{}", manager(number), kind(record)),
            },
            ..Counts::default()
        });
        let images = record.blocks().filter_map(|block| block.image());
        let image_bytes: u64 = images.map(|image| image.len_bytes() as u64).sum();
        counts.records += 1;
        counts.record_bytes += u64::from(record.total_len()) - image_bytes;
        counts.image_bytes += image_bytes;
        self.between.get_or_insert((record.start, record.end)).1 = record.end;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((start, end)) = self.between else { return writeln!(f, "no records") };
        let sum = |field: fn(&Counts) -> u64| self.counts.values().map(field).sum::<u64>();
        let records = sum(|counts| counts.records);
        let record_bytes = sum(|counts| counts.record_bytes);
        let image_bytes = sum(|counts| counts.image_bytes);
        writeln!(f, "WAL statistics between {start} and {end}:")?;
        writeln!(
            f,
            "{:<27} {:>20} {:>8} {:>20} {:>8} {:>20} {:>8} {:>20} {:>8}",
            "Type", "N", "(%)", "Record size", "(%)", "FPI size", "(%)", "Combined size", "(%)"
        )?;
        let percent = |part: u64, whole: u64| {
            let share = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
            format!("({share:6.2})")
        };
        for counts in self.counts.values() {
            let combined = counts.record_bytes + counts.image_bytes;
            writeln!(
                f,
                "{:<27} {:>20} {:>8} {:>20} {:>8} {:>20} {:>8} {combined:>20} {:>8}",
                counts.name,
                counts.records,
                percent(counts.records, records),
                counts.record_bytes,
                percent(counts.record_bytes, record_bytes),
                counts.image_bytes,
                percent(counts.image_bytes, image_bytes),
                percent(combined, record_bytes + image_bytes),
            )?;
        }
        let combined = record_bytes + image_bytes;
        writeln!(
            f,
            "{:<27} {records:>20} {:>8} {record_bytes:>20} {:>8} {image_bytes:>20} {:>8} {combined:>20}",
            "Total", "", "", ""
        )
    }
}
