//! Counters that a checkpoint writes down: what effects made of them must agree with each checkpoint.

use firn_core::postgres::redo::Effect;

/// Object ids that a server takes in advance.
const OIDS_AHEAD: u32 = 8192;

/// What the records so far say about the next numbers.
#[derive(Debug, Default)]
pub struct Counters {
    next_xid: u32,
    next_oid: u32,
    next_multixact: u32,
    next_member: u32,
    timeline: u32,
    full_page_writes: bool,
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |bytes| {
        u32::from_le_bytes(*bytes.first_chunk().expect("the range has four bytes"))
    })
}

impl Counters {
    /// As a checkpoint has them.
    pub fn new(checkpoint: &[u8]) -> Counters {
        Counters {
            next_xid: u32_at(checkpoint, 24),
            next_oid: u32_at(checkpoint, 32),
            next_multixact: u32_at(checkpoint, 36),
            next_member: u32_at(checkpoint, 40),
            timeline: u32_at(checkpoint, 8),
            full_page_writes: checkpoint.get(16) == Some(&1),
        }
    }

    /// A record's transaction; 0 when it has none.
    pub fn transaction(&mut self, xid: u32) {
        self.next_xid = self.next_xid.max(xid + 1);
    }

    /// Counts an effect in; at a checkpoint, what does not agree with it.
    pub fn apply(&mut self, effect: &Effect<'_>) -> Option<String> {
        match *effect {
            Effect::TransactionEnd { xid, .. } => self.transaction(xid),
            Effect::RunningTransactions { next_xid, .. } => {
                self.next_xid = self.next_xid.max(next_xid);
            }
            Effect::NextOid(next) => self.next_oid = next,
            Effect::MultiXactNext { multixact, offset } => {
                self.next_multixact = self.next_multixact.max(multixact);
                self.next_member = self.next_member.max(offset);
            }
            Effect::FullPageWrites(on) => self.full_page_writes = on,
            Effect::EndOfRecovery { timeline, .. } => self.timeline = timeline,
            Effect::Checkpoint { shutdown, data } => {
                let wrong = self.compare(shutdown, data);
                if shutdown {
                    *self = Counters::new(data);
                }
                return wrong;
            }
            _ => {}
        }
        None
    }

    fn compare(&self, shutdown: bool, data: &[u8]) -> Option<String> {
        let found = Counters::new(data);
        let oids = match shutdown {
            true => self.next_oid.saturating_sub(OIDS_AHEAD)..=self.next_oid,
            false => self.next_oid..=self.next_oid,
        };
        let exact = (self.next_multixact, self.next_member)
            == (found.next_multixact, found.next_member)
            && self.next_xid == found.next_xid;
        // An online checkpoint read them before others went on.
        let reached = self.next_multixact >= found.next_multixact
            && self.next_member >= found.next_member
            && self.next_xid >= found.next_xid;
        let agrees = oids.contains(&found.next_oid)
            && (if shutdown { exact } else { reached })
            && self.timeline == found.timeline
            && self.full_page_writes == found.full_page_writes;
        (!agrees).then(|| format!("records so far give {self:?}, the checkpoint has {found:?}"))
    }
}
