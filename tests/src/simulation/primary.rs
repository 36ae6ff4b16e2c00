//! A primary without pages: it writes WAL, flushes it, crashes, comes back older, is promoted.
//!
//! Its clients *commit* records. A commit counts as acknowledged when the quorum's commit LSN that was reported to the
//! primary has passed its end; from then on the ledger holds it for ever, whatever becomes of the primary.

use firn_core::marks;
use firn_core::types::Lsn;

use super::ledger::Ledger;
use super::random::Random;
use super::wal::{Cluster, PAGE_BYTES, Record, Wal};

/// Bytes of WAL after which a primary writes no more: a run stays within memory and time.
pub const WAL_BYTES_MAX: u64 = 6 << 20;

/// One primary: its disk and what is in its WAL buffers.
#[derive(Debug, Clone)]
pub struct Primary {
    wal: Wal,
    flushed: Lsn,
    /// Records before this one are in the ledger.
    first_waiting: usize,
    next_xid: u32,
    /// What an older copy of the disk would hold.
    backup: Option<Box<Primary>>,
}

impl Primary {
    /// A fresh cluster whose WAL begins at the segment `start`.
    pub fn new(cluster: Cluster, start: Lsn) -> Primary {
        let wal = Wal::new(cluster, start);
        let flushed = wal.record_end();
        Primary { wal, flushed, first_waiting: 0, next_xid: 3, backup: None }
    }

    /// A primary that archive recovery made from `wal`, which ends with a complete record; it begins a new Postgres timeline.
    /// No client waits for what is in it.
    pub fn rebuilt(wal: Wal, xid: u32) -> Primary {
        let mut primary = Primary {
            flushed: wal.record_end(),
            first_waiting: wal.records().len(),
            wal,
            next_xid: xid,
            backup: None,
        };
        primary.promote();
        primary
    }

    /// All that was written.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Durable on the primary's own disk: as far as it streams.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The first transaction number that was never used here.
    pub fn next_xid(&self) -> u32 {
        self.next_xid
    }

    /// Records that no client was told are safe yet.
    pub fn waiting(&self) -> usize {
        self.wal.records().len() - self.first_waiting
    }

    /// Writes a few records: mostly commits and small ones, now and then one over several pages or a segment switch.
    pub fn write(&mut self, random: &mut Random) {
        if self.wal.end() - self.wal.start() > WAL_BYTES_MAX {
            return;
        }
        if random.once_in(150) {
            self.wal.switch_segment();
        }
        for _ in 0..=random.below(3) {
            let payload = match random.below(100) {
                0..60 => random.index(300),
                60..95 => random.index(4_000),
                _ => random.index(60_000),
            };
            let mut bytes = vec![0; payload];
            bytes.chunks_mut(8).for_each(|chunk| {
                let random_bytes = random.next_u64().to_le_bytes();
                chunk.copy_from_slice(&random_bytes[..chunk.len()]);
            });
            self.wal.append(&Record::no_operation(bytes));
        }
        let commit = Record::commit(self.next_xid, random.below(1 << 40) as i64);
        self.wal.append(&commit);
        self.next_xid += 1;
    }

    /// Flushes up to a record's end, or, as Postgres' WAL writer does, up to a page boundary that may lie inside one.
    pub fn flush(&mut self, random: &mut Random) {
        let mut to = self.wal.end();
        if random.percent(30) {
            to = Lsn(to.0 - to.0 % PAGE_BYTES);
        }
        self.flushed = self.flushed.max(to);
    }

    /// Flushes all that was written.
    pub fn flush_all(&mut self) {
        self.flushed = self.wal.end();
    }

    /// The quorum holds everything below `commit_lsn`: clients that wait for it return.
    pub fn acknowledge(&mut self, commit_lsn: Lsn, ledger: &mut Ledger) {
        let waiting = self.wal.records()[self.first_waiting..].iter();
        let done = waiting.take_while(|record| record.end <= commit_lsn).count();
        for record in &self.wal.records()[self.first_waiting..self.first_waiting + done] {
            ledger.acknowledge(*record, self.wal.read(record.start, record.end));
        }
        self.first_waiting += done;
    }

    /// Dies and recovers: what was not flushed is gone.
    pub fn crash(&mut self) {
        let half = self
            .wal
            .records()
            .iter()
            .any(|record| record.start < self.flushed && record.end > self.flushed);
        if half {
            marks::hit("primary.half_record");
        }
        if self.wal.end() > self.flushed {
            marks::hit("primary.lost_tail");
        }
        self.wal.cut(self.flushed);
        self.restart();
    }

    /// Copies the disk as it is now.
    pub fn back_up(&mut self) {
        self.backup = None;
        let mut copy = self.clone();
        copy.wal.cut(copy.flushed);
        self.backup = Some(Box::new(copy));
    }

    /// Comes back with the disk of the last backup. The system id is right, the WAL is not.
    pub fn roll_back(&mut self) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        let next_xid = self.next_xid;
        *self = *backup;
        self.next_xid = next_xid;
        self.restart();
        true
    }

    /// Is promoted: goes on under the next Postgres timeline.
    pub fn promote(&mut self) {
        self.wal.promote();
        self.flushed = self.wal.record_end();
    }

    fn restart(&mut self) {
        self.first_waiting = self.first_waiting.min(self.wal.records().len());
        self.wal.recover();
        self.flushed = self.wal.record_end();
    }
}
