//! Timelines whose every byte says where it belongs.

use firn_core::consensus::change::{Change, Create};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::*;

use super::super::{Journal, JournalError, Ticket};

pub const SEGMENT_SIZE_BYTES: u32 = 1 << 20;

/// In the middle of a WAL segment and of a block.
pub const START: Lsn = Lsn(0x50_1238);

pub fn key(number: u8) -> TimelineKey {
    TimelineKey { tenant_id: TenantId(Id([number; 16])), timeline_id: TimelineId(Id([number; 16])) }
}

pub fn create(generation: u32) -> Change<'static> {
    let membership =
        Membership { generation: Generation(generation), members: vec![], new_members: None };
    Change::Create(Create {
        membership,
        postgres_version: PostgresVersion(170_006),
        system_id: SystemId(1),
        segment_size_bytes: SEGMENT_SIZE_BYTES,
        start_lsn: START,
        commit_lsn: START,
    })
}

pub fn elected(term: u64, truncate_to: Lsn) -> Change<'static> {
    let mut starts = vec![TermStart { term: Term(1), lsn: START }];
    if term > 1 {
        starts.push(TermStart { term: Term(term), lsn: truncate_to });
    }
    Change::Elected { term: Term(term), history: TermHistory(starts), truncate_to }
}

/// The bytes that the proposer of `term` writes at a position. Made word by word: simulations make and compare a lot.
pub fn wal(key: TimelineKey, begin: Lsn, count: usize, term: u64) -> Vec<u8> {
    let seed = u64::from(key.tenant_id.0.0[0]) << 56 ^ term << 40;
    let (first, skip) = (begin.0 / 8, (begin.0 % 8) as usize);
    let mut bytes = Vec::with_capacity(skip + count + 8);
    let mut word = first;
    while bytes.len() < skip + count {
        let value = (word ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bytes.extend_from_slice(&(value ^ value >> 32).to_le_bytes());
        word += 1;
    }
    bytes.truncate(skip + count);
    bytes.drain(..skip);
    bytes
}

pub fn append_change(begin: Lsn, wal: &[u8], term: u64) -> Change<'_> {
    append_committed(begin, wal, term, begin)
}

pub fn append_committed(begin: Lsn, wal: &[u8], term: u64, commit_lsn: Lsn) -> Change<'_> {
    let end = begin + wal.len() as u64;
    Change::Append { term: Term(term), begin, end, commit_lsn, record_end: end, wal }
}

/// A timeline that one proposer writes; everything up to `end` was acknowledged.
pub struct Timeline {
    pub key: TimelineKey,
    pub end: Lsn,
    /// What is queued ends here.
    pub queued: Lsn,
}

impl Timeline {
    pub async fn create(journal: &Journal, number: u8) -> Timeline {
        let key = key(number);
        journal.append(key, create(1)).unwrap();
        let ticket = journal.append(key, elected(1, START)).unwrap();
        journal.witnessed(&ticket).await.unwrap();
        Timeline { key, end: START, queued: START }
    }

    /// Queues WAL without waiting.
    pub fn queue(&mut self, journal: &Journal, count: usize) -> Ticket {
        let bytes = wal(self.key, self.queued, count, 1);
        let ticket = journal.append(self.key, append_change(self.queued, &bytes, 1)).unwrap();
        self.queued = self.queued + count as u64;
        ticket
    }

    pub async fn try_append(
        &mut self,
        journal: &Journal,
        count: usize,
    ) -> Result<(), JournalError> {
        journal.ready(self.key).await?;
        let bytes = wal(self.key, self.queued, count, 1);
        let ticket = journal.append(self.key, append_change(self.queued, &bytes, 1))?;
        self.queued = self.queued + count as u64;
        journal.durable(&ticket).await?;
        self.end = self.queued;
        Ok(())
    }

    /// Appends and leaves the commit LSN at the start.
    pub async fn append_uncommitted(&mut self, journal: &Journal, count: usize) {
        let bytes = wal(self.key, self.queued, count, 1);
        let change = append_committed(self.queued, &bytes, 1, START);
        let ticket = journal.append(self.key, change).unwrap();
        journal.durable(&ticket).await.unwrap();
        self.queued = self.queued + count as u64;
        self.end = self.queued;
    }

    pub async fn append(&mut self, journal: &Journal, count: usize) {
        self.try_append(journal, count).await.unwrap();
    }

    /// Reads everything acknowledged and compares.
    pub async fn verify(&self, journal: &Journal) {
        verify_from(journal, self.key, START, self.end).await;
    }
}

/// How many first bytes agree.
pub fn same_bytes(found: &[u8], right: &[u8]) -> u64 {
    found.iter().zip(right).take_while(|(found, right)| found == right).count() as u64
}

pub async fn verify_from(journal: &Journal, key: TimelineKey, from: Lsn, end: Lsn) {
    let mut at = from;
    while at < end {
        let wanted = (end - at).min(50_000) as usize;
        let bytes = journal.read_wal(key, at, wanted).await.unwrap();
        assert!(!bytes.is_empty(), "acknowledged WAL of {key} is missing at {at}");
        let expected = wal(key, at, bytes.len(), 1);
        assert!(
            bytes == expected,
            "WAL of {key} differs at {}",
            at + same_bytes(&bytes, &expected)
        );
        at = at + bytes.len() as u64;
    }
}
