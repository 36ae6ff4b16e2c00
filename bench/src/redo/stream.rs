//! A whole WAL stream replayed over pages in memory, on one core.

use anyhow::{Context, Result, bail};
use firn_core::postgres::redo::{Effect, Outcome, Redo, Settings, ahead, effects};
use firn_core::postgres::wal::{BLOCKS_MAX, Block, Decoder, Record, RecordQueue};

use super::pages::{Pages, Slot};
use super::recording::{Recording, SEGMENT_BYTES};

/// A record is decoded, and its pages' headers are fetched, when so many older ones are still to be replayed: enough to hide
/// the way to memory, few enough that what was fetched is still there.
const AHEAD_RECORDS: usize = 32;
/// Its tuples are fetched when so many older ones are left: by then the headers have come.
const TUPLES_AHEAD_RECORDS: usize = 12;

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
    queue: RecordQueue<'r>,
    /// Where the pages of the queue's records are; a record keeps its row until it is replayed.
    slots: Vec<[Slot; BLOCKS_MAX]>,
    redo: Redo,
}

impl<'r> Replayer<'r> {
    /// For this recording.
    pub fn new(recording: &'r Recording) -> Replayer<'r> {
        Replayer {
            recording,
            decoder: Decoder::new(recording.start, SEGMENT_BYTES, Some(recording.version)),
            queue: RecordQueue::new(AHEAD_RECORDS),
            slots: vec![[Slot::default(); BLOCKS_MAX]; AHEAD_RECORDS],
            redo: Redo::new(Settings::default()),
        }
    }

    /// Replays everything: decode, CRC, page lookup, redo, and the other state that lives in pages. It decodes some records
    /// ahead, so that pages are on their way from memory while older records are replayed.
    pub fn replay(&mut self, pages: &mut Pages) -> Result<Replayed> {
        let Replayer { recording, decoder, queue, slots, redo } = self;
        let mut done = Replayed::default();
        decoder.restart(recording.start);
        let mut input = recording.wal.as_slice();
        // Numbers of the next record to decode and of the one to replay, in rows of `slots`.
        let (mut newest, mut oldest) = (0, 0);
        // What the last pruning to come moves, and where.
        let (mut moved, mut moved_slot) = (0..0, Slot::default());
        loop {
            while let Some(record) = queue.decode(decoder, &mut input)? {
                for (block, slot) in record.blocks().zip(&mut slots[newest]) {
                    *slot = find(pages, &block)?;
                    if let Some(page) = pages.at(*slot) {
                        ahead::fetch_header(&record, page);
                    }
                }
                newest = (newest + 1) % AHEAD_RECORDS;
            }
            if let Some(record) = queue.get(TUPLES_AHEAD_RECORDS) {
                let row = &slots[(oldest + TUPLES_AHEAD_RECORDS) % AHEAD_RECORDS];
                for (_, slot) in record.blocks().zip(row) {
                    if let Some(page) = pages.at(*slot) {
                        let moves = ahead::fetch_tuples(&record, page);
                        if !moves.is_empty() {
                            (moved, moved_slot) = (moves, *slot);
                        }
                    }
                }
            }
            if !moved.is_empty()
                && let Some(page) = pages.at(moved_slot)
            {
                ahead::fetch_moved(&mut moved, page);
            }
            let Some(record) = queue.get(0) else { return Ok(done) };
            done.records += 1;
            for (block, slot) in record.blocks().zip(&slots[oldest]) {
                replay_block(&record, &block, *slot, pages, redo, &mut done)?;
            }
            effects(&record, Settings::default(), |effect| {
                // Blocks are done.
                if !matches!(effect, Effect::Block { .. }) {
                    pages.apply(&effect);
                }
            })?;
            queue.pop();
            oldest = (oldest + 1) % AHEAD_RECORDS;
        }
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
