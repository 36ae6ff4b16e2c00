//! A whole WAL stream replayed over pages in memory, on one core.

use anyhow::{Context, Result, bail};
use firn_core::postgres::redo::{Outcome, Redo, Settings, ahead, effects};
use firn_core::postgres::wal::{BLOCKS_MAX, Block, Decoder, Record, RecordBatch};

use super::pages::{Pages, Slot};
use super::recording::{Recording, SEGMENT_BYTES};

/// Records decoded before the first of them is replayed: enough to hide the way to memory, few enough that what was fetched
/// is still there.
const BATCH_RECORDS: usize = 32;

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records.
    pub records: u64,
    /// Blocks that they changed.
    pub applied: u64,
    /// Images put in a page's place.
    pub restored: u64,
}

/// Makes every page that the recording changes, so that a replay finds all of them.
pub fn prepare(recording: &Recording, pages: &mut Pages) -> Result<()> {
    each(recording, |record| {
        for block in record.blocks() {
            pages.add(block.tag());
        }
        effects(record, Settings::default(), |effect| pages.add_for(&effect))?;
        Ok(())
    })
}

/// Calls `work` with every record.
pub fn each(recording: &Recording, mut work: impl FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
    let mut decoder = Decoder::new(recording.start, SEGMENT_BYTES, Some(recording.version));
    let mut input = recording.wal.as_slice();
    while let Some(record) = decoder.next(&mut input)? {
        work(&record)?;
    }
    Ok(())
}

/// What a replay needs besides pages. Its buffers grow during the first replay to what the largest records need, and are
/// used again by the next.
pub struct Replayer<'r> {
    recording: &'r Recording,
    decoder: Decoder,
    batch: RecordBatch<'r>,
    slots: Vec<Slot>,
    redo: Redo,
}

impl<'r> Replayer<'r> {
    /// For this recording.
    pub fn new(recording: &'r Recording) -> Replayer<'r> {
        Replayer {
            recording,
            decoder: Decoder::new(recording.start, SEGMENT_BYTES, Some(recording.version)),
            batch: RecordBatch::new(BATCH_RECORDS),
            slots: Vec::with_capacity(BATCH_RECORDS * BLOCKS_MAX),
            redo: Redo::new(Settings::default()),
        }
    }

    /// Replays everything: decode, CRC, page lookup, redo, and the other state that lives in pages. It looks some records
    /// ahead, so that pages are on their way from memory when their turn comes.
    pub fn replay(&mut self, pages: &mut Pages) -> Result<Replayed> {
        let mut done = Replayed::default();
        self.decoder.restart(self.recording.start);
        let mut input = self.recording.wal.as_slice();
        loop {
            self.batch.fill(&mut self.decoder, &mut input)?;
            if self.batch.is_empty() {
                return Ok(done);
            }
            self.replay_batch(pages, &mut done)?;
        }
    }

    fn replay_batch(&mut self, pages: &mut Pages, done: &mut Replayed) -> Result<()> {
        let Replayer { batch, slots, redo, .. } = self;
        slots.clear();
        for record in batch.records() {
            for block in record.blocks() {
                let slot = find(pages, &block)?;
                slots.push(slot);
                if let Some(page) = pages.at(slot) {
                    ahead::fetch_header(&record, page);
                }
            }
        }
        let mut found = slots.iter();
        for record in batch.records() {
            for (_, slot) in record.blocks().zip(&mut found) {
                if let Some(page) = pages.at(*slot) {
                    ahead::fetch_tuples(&record, page);
                }
            }
        }
        let mut found = slots.iter();
        for record in batch.records() {
            done.records += 1;
            for (block, slot) in record.blocks().zip(&mut found) {
                replay_block(&record, &block, *slot, pages, redo, done)?;
            }
            effects(&record, Settings::default(), |effect| pages.apply(&effect))?;
        }
        Ok(())
    }
}

fn find(pages: &Pages, block: &Block<'_>) -> Result<Slot> {
    pages.find(block.tag()).with_context(|| format!("no page {}", block.tag()))
}

/// Replays one record.
pub fn replay_record(
    record: &Record<'_>,
    pages: &mut Pages,
    redo: &mut Redo,
    done: &mut Replayed,
) -> Result<()> {
    for block in record.blocks() {
        let slot = find(pages, &block)?;
        replay_block(record, &block, slot, pages, redo, done)?;
    }
    effects(record, Settings::default(), |effect| pages.apply(&effect))?;
    Ok(())
}

#[inline]
fn replay_block(
    record: &Record<'_>,
    block: &Block<'_>,
    slot: Slot,
    pages: &mut Pages,
    redo: &mut Redo,
    done: &mut Replayed,
) -> Result<()> {
    let page = pages.at(slot).with_context(|| format!("no page {}", block.tag()))?;
    match redo.redo_block(record, block.id(), page)? {
        Outcome::Applied => done.applied += 1,
        Outcome::Restored => done.restored += 1,
        Outcome::Unchanged => {}
        Outcome::AlreadyApplied | Outcome::Missing => {
            bail!("{} cannot be changed by the record at {}", block.tag(), record.start)
        }
    }
    Ok(())
}
