//! `firn-bench decode`: WAL of a real server in memory, decoded on one core with CRC check, beside pg_waldump.

use anyhow::{Result, ensure};
use firn_core::postgres::wal::Decoder;

use crate::allocations::allocated_bytes;
use crate::cpu_time::thread_cpu_seconds;
use crate::figures::figure::{Figure, Goal};
use crate::redo::recording::{Recording, SEGMENT_BYTES};
use crate::redo::{Rounds, allocated_once, allocated_per_record, per_second, stock};

/// WAL with full_page_writes off, in GB/s.
const GOAL_GB_PER_SECOND: f64 = 1.0;

/// One pass over the recording: CPU seconds, and bytes allocated.
fn pass(recording: &Recording, decoder: &mut Decoder) -> Result<(f64, u64)> {
    let allocated = allocated_bytes();
    let begun = thread_cpu_seconds();
    decoder.restart(recording.start);
    let mut input = recording.wal.as_slice();
    let mut records = 0;
    while let Some(record) = decoder.next(&mut input)? {
        std::hint::black_box(&record);
        records += 1;
    }
    let seconds = thread_cpu_seconds() - begun;
    let allocated = allocated_bytes() - allocated;
    ensure!(records == recording.records, "{records} records instead of {}", recording.records);
    Ok((seconds, allocated))
}

/// The figures of a recording.
pub fn figures(recording: &Recording, rounds: usize) -> Result<Vec<Figure>> {
    let mut ours = Rounds::default();
    let mut theirs = Rounds::default();
    let mut allocated = 0;
    let mut decoder = Decoder::new(recording.start, SEGMENT_BYTES, Some(recording.version));
    // The buffer for records that cross a page grows to the largest of them.
    let (_, warm_up) = pass(recording, &mut decoder)?;
    for _ in 0..rounds {
        let (seconds, bytes) = pass(recording, &mut decoder)?;
        ours.add(seconds);
        allocated += bytes;
        theirs.add(stock::waldump_cpu_seconds(recording)?);
    }
    let name = recording.name();
    let gigabytes = recording.wal.len() as f64 / 1e9;
    let baseline = |value| Some(("pg_waldump -q".to_string(), value));
    Ok(vec![
        Figure {
            name: format!("decode and CRC, one core, {name}"),
            unit: "GB/s",
            measured: gigabytes / ours.median(),
            baseline: baseline(gigabytes / theirs.median()),
            goal: match recording.full_page_writes {
                false => Goal::AtLeast(GOAL_GB_PER_SECOND),
                true => Goal::None,
            },
        },
        Figure {
            name: format!("decode and CRC, one core, {name}"),
            unit: "records/s",
            measured: per_second(recording.records, ours.median()),
            baseline: baseline(per_second(recording.records, theirs.median())),
            goal: Goal::None,
        },
        allocated_per_record("the decoder", recording, allocated, rounds),
        allocated_once("the decoder", recording, warm_up),
    ])
}
