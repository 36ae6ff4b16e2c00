//! What each type of record costs.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use firn_core::postgres::redo::{RecordName, Redo};
use firn_core::postgres::wal::names::record_kind;

use super::pages::Pages;
use super::recording::Recording;
use super::stream::{Replayed, each, replay_record};
use crate::cpu_time::thread_cpu_seconds;

/// Readings of the clock that tell what one costs.
const CLOCK_READINGS: u32 = 100_000;

#[derive(Default)]
struct Cost {
    name: String,
    records: u64,
    bytes: u64,
    nanoseconds: f64,
}

/// Replays once more with the clock read around each record; reading it is subtracted. Page lookup is included, decoding is
/// not.
pub fn table(recording: &Recording, pages: &mut Pages, redo: &mut Redo) -> Result<String> {
    let begun = thread_cpu_seconds();
    for _ in 0..CLOCK_READINGS {
        std::hint::black_box(thread_cpu_seconds());
    }
    let clock_ns = (thread_cpu_seconds() - begun) * 1e9 / f64::from(CLOCK_READINGS);
    let mut costs: BTreeMap<(u8, u8), Cost> = BTreeMap::new();
    let mut done = Replayed::default();
    each(recording, |record| {
        let begun = thread_cpu_seconds();
        replay_record(record, pages, redo, &mut done)?;
        let nanoseconds = (thread_cpu_seconds() - begun) * 1e9 - clock_ns;
        let manager = record.resource_manager();
        let cost = costs.entry((manager, record_kind(manager, record.info()))).or_default();
        if cost.records == 0 {
            cost.name = RecordName::of(record).to_string();
        }
        cost.records += 1;
        cost.bytes += u64::from(record.total_len());
        cost.nanoseconds += nanoseconds;
        Ok(())
    })?;
    let total: f64 = costs.values().map(|cost| cost.nanoseconds).sum();
    let mut costs: Vec<Cost> = costs.into_values().collect();
    costs.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
    let mut text = format!("{}: redo by record type, decoding not included\n\n", recording.name());
    text.push_str(
        "| record | count | bytes each | ns each | share |\n| --- | --- | --- | --- | --- |\n",
    );
    for cost in costs {
        let count = cost.records as f64;
        writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.1} % |",
            cost.name,
            cost.records,
            cost.bytes as f64 / count,
            cost.nanoseconds / count,
            cost.nanoseconds / total * 100.0
        )?;
    }
    Ok(text)
}
