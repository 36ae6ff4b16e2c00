//! Replays WAL over a store and compares.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, effects};
use firn_core::postgres::wal::{
    Block, BlockTag, Decoder, ImageScratch, Record, WalError, WalVersion,
};
use firn_core::types::Lsn;

use super::data_directory::segments;
use super::mask::mask;
use super::report::Report;
use super::samples::Samples;
use super::store::Store;

/// Segment size of the servers that the oracle runs.
const SEGMENT_BYTES: u32 = 16 << 20;

/// Replays all WAL in `wal` from `start` on over `store`.
pub fn replay(
    store: &mut Store,
    wal: &Path,
    start: Lsn,
    version: WalVersion,
    settings: Settings,
    samples: Option<&mut Samples>,
) -> Result<Report> {
    let mut oracle = Oracle {
        store,
        redo: Redo::new(settings),
        scratch: ImageScratch::default(),
        report: Report::new(version),
        settings,
        samples,
    };
    let mut decoder = Decoder::new(start, SEGMENT_BYTES, Some(version));
    let mut skip = (start.0 % u64::from(SEGMENT_BYTES)) as usize;
    let first = start.0 / u64::from(SEGMENT_BYTES);
    for path in segments(wal)? {
        if segment_number(&path)? < first {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut input = &bytes[std::mem::take(&mut skip)..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(record)) => oracle.record(&record),
                Ok(None) => break,
                // The rest of the last segment was never written.
                Err(WalError::ZeroLength { .. } | WalError::UnknownMagic { found: 0, .. }) => {
                    return Ok(oracle.report);
                }
                Err(error) => bail!("{}: {error}", path.display()),
            }
        }
    }
    Ok(oracle.report)
}

fn segment_number(path: &Path) -> Result<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = |range| u64::from_str_radix(name.get(range).unwrap_or_default(), 16);
    Ok(number(8..16)? * ((1 << 32) / u64::from(SEGMENT_BYTES)) + number(16..24)?)
}

struct Oracle<'s> {
    store: &'s mut Store,
    redo: Redo,
    scratch: ImageScratch,
    report: Report,
    settings: Settings,
    samples: Option<&'s mut Samples>,
}

impl Oracle<'_> {
    fn record(&mut self, record: &Record<'_>) {
        self.report.counts(record).seen += 1;
        for block in record.blocks() {
            self.block(record, &block);
        }
        let store = &mut *self.store;
        let settings = &mut self.settings;
        let told = effects(record, *settings, |effect| {
            store.apply(&effect);
            if let Effect::Parameters(parameters) = effect {
                settings.visible_moves_heap_lsn |= parameters.wal_log_hints;
            }
        });
        if let Err(error) = told {
            self.report.fail(record, || error.to_string());
        }
    }

    fn block(&mut self, record: &Record<'_>, block: &Block<'_>) {
        let tag = block.tag();
        let page = self.store.page(tag);
        let expected = block.image().filter(|image| !image.applies()).map(|image| {
            let mut expected = [0; PAGE_BYTES];
            image.restore(&mut expected, &mut self.scratch).map(|()| expected)
        });
        let before = self.samples.as_ref().map(|_| *page);
        let outcome = self.redo.redo_block(record, block.id(), page);
        if let (Some(samples), Some(before), Ok(Outcome::Applied)) =
            (&mut self.samples, before, &outcome)
            && expected.is_some()
        {
            samples.add(record, block.id(), &before, page);
        }
        let counts = self.report.counts(record);
        match outcome {
            Ok(Outcome::Restored) => counts.restored += 1,
            Ok(Outcome::Missing) => counts.missing += 1,
            Ok(Outcome::Applied | Outcome::Unchanged | Outcome::AlreadyApplied) => {}
            Err(ref error) => {
                let error = error.to_string();
                self.report.fail(record, || error);
            }
        }
        match expected {
            Some(Ok(expected)) => {
                let counts = self.report.counts(record);
                if outcome.is_ok() {
                    counts.checked += 1;
                    if let Some(at) = difference(record.resource_manager(), tag, page, &expected) {
                        let found = words(page, at);
                        let wanted = words(&expected, at);
                        self.report.fail(record, || {
                            let name = firn_core::postgres::redo::RecordName::of(record);
                            format!(
                                "{name} at {} on {tag} (reference {}, {:?}): byte {at} differs: {found} instead of {wanted}",
                                record.start,
                                block.id(),
                                outcome,
                            )
                        });
                        *page = expected;
                        Page::new(page).set_lsn(record.end);
                    }
                } else {
                    *page = expected;
                    Page::new(page).set_lsn(record.end);
                }
            }
            Some(Err(misfit)) => self.report.fail(record, || format!("image of {tag}: {misfit}")),
            None => {}
        }
    }
}

/// Eight bytes from `at` on.
fn words(page: &PageBytes, at: usize) -> String {
    page[at..(at + 8).min(PAGE_BYTES)].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first byte in which two pages differ, apart from what Postgres masks.
pub fn difference(
    resource_manager: u8,
    tag: BlockTag,
    found: &PageBytes,
    expected: &PageBytes,
) -> Option<usize> {
    // Masking costs more than comparing, and most pages agree in all but LSN and checksum.
    if found[10..] == expected[10..] {
        return None;
    }
    let (mut found, mut expected) = (*found, *expected);
    mask(resource_manager, tag, &mut found);
    mask(resource_manager, tag, &mut expected);
    if found == expected {
        return None;
    }
    found.iter().zip(&expected).position(|(found, expected)| found != expected)
}
