//! Replays WAL over a store and compares.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, effects};
use firn_core::postgres::wal::names::record_kind;
use firn_core::postgres::wal::{
    Block, BlockTag, Decoder, Fork, ImageScratch, Record, WalError, WalVersion,
};
use firn_core::types::Lsn;

use super::compare::only_lacks_bits;
use super::counters::Counters;
use super::data_directory::segments;
use super::mask::mask;
use super::report::Report;
use super::samples::Samples;
use super::store::Store;
use super::waldump::Words;

/// Segment size of the servers that the oracle runs.
pub const SEGMENT_BYTES: u32 = 16 << 20;

/// Replays all WAL in `wal` from `start` on over `store`. Says as well what `pg_waldump` should say about records without
/// pages.
pub fn replay(
    store: &mut Store,
    wal: &Path,
    start: Lsn,
    version: WalVersion,
    settings: Settings,
    samples: Option<&mut Samples>,
) -> Result<(Report, Words)> {
    let mut oracle = Oracle {
        counters: Counters::new(&store.state.checkpoint),
        words: Words::default(),
        checksums: settings.visible_moves_heap_lsn,
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
    'segments: for (_, path) in segments(wal, SEGMENT_BYTES)?.range(first..) {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut input = &bytes[std::mem::take(&mut skip)..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(record)) => oracle.record(&record),
                Ok(None) => break,
                // The rest of the last segment was never written.
                Err(WalError::ZeroLength { .. } | WalError::UnknownMagic { found: 0, .. }) => {
                    break 'segments;
                }
                Err(error) => bail!("{}: {error}", path.display()),
            }
        }
    }
    Ok((oracle.report, oracle.words))
}

struct Oracle<'s> {
    store: &'s mut Store,
    counters: Counters,
    words: Words,
    checksums: bool,
    redo: Redo,
    scratch: ImageScratch,
    report: Report,
    settings: Settings,
    samples: Option<&'s mut Samples>,
}

impl Oracle<'_> {
    fn record(&mut self, record: &Record<'_>) {
        self.report.counts(record).seen += 1;
        self.report.wal_bytes += u64::from(record.total_len());
        for block in record.blocks() {
            self.block(record, &block);
        }
        if record.xid() != 0 {
            self.counters.transaction(record.xid());
        }
        let kind = record_kind(record.resource_manager(), record.info());
        let kind = (record.resource_manager(), kind);
        let mut wrong = None;
        let mut count = 0;
        let mut hints = None;
        let told = effects(record, self.settings, |effect| {
            if let Effect::Block { .. } = effect {
                return;
            }
            count += 1;
            self.store.apply(&effect, record.start);
            self.words.add(record.start, kind, &effect);
            if let Some(difference) = self.counters.apply(&effect) {
                wrong = Some(difference);
            }
            if let Effect::Parameters(parameters) = effect {
                hints = Some(parameters.wal_log_hints);
            }
        });
        self.report.counts(record).effects += count;
        if let Some(hints) = hints
            && hints != self.settings.visible_moves_heap_lsn
        {
            self.settings.visible_moves_heap_lsn = self.checksums || hints;
            self.redo = Redo::new(self.settings);
        }
        let wrong = told.err().map(|error| error.to_string()).or(wrong);
        if let Some(wrong) = wrong {
            self.report.fail(record, || format!("record at {}: {wrong}", record.start));
        }
    }

    fn block(&mut self, record: &Record<'_>, block: &Block<'_>) {
        let tag = block.tag();
        if tag.fork == Fork::VisibilityMap
            && block.image().is_some_and(|image| image.applies() && !image.hole().is_empty())
        {
            self.store.maps_without_bits.insert(tag);
        }
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
            Ok(Outcome::Applied | Outcome::Unchanged) => {}
            Ok(Outcome::AlreadyApplied) => {
                // The page may be as a later record left it.
                self.report.skipped += 1;
                return;
            }
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
                        let lost = self.store.maps_without_bits.remove(&tag);
                        let page = self.store.page(tag);
                        if !lost || !only_lacks_bits(page, &expected) {
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
                        }
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
