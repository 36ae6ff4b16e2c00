//! What a relay counts and times. Plain cells on the relay's own thread; a scrape takes a copy as a message.
//!
//! One series for each figure and stage, whatever the number of acceptors.

use std::cell::RefCell;
use std::collections::VecDeque;

use firn_core::types::Lsn;

use crate::latencies::Latencies;
use crate::runtime::{Mailbox, MonotonicTime, OneshotSender};
use crate::shard::metrics::{Count, Figure, FigureKind, ShardFigures, StageFamily, figures};

/// WAL messages that are timed at once; while as many are on their way further ones are only counted. A primary has few
/// on the way before it waits for the quorum.
const TIMED_MAX: usize = 1024;

figures! {
    Counter sessions: "Attempts to follow the primary.";
    Counter elections: "Elections won.";
    Counter wal_messages: "WAL messages received from the primary.";
    Counter wal_bytes: "Bytes of WAL received from the primary.";
    Counter appends: "Appends with WAL sent to acceptors.";
    Counter append_bytes: "Bytes of WAL sent to acceptors.";
    Counter append_responses: "Answers of acceptors to appends.";
    Counter older_wal_bytes: "Bytes of WAL read from one acceptor for another one that lags.";
    Counter reports: "Positions reported to the primary.";
    Gauge leading: "1 while the primary's WAL goes to acceptors, 0 otherwise.";
    Gauge term: "Term of the last election that this relay took part in.";
    Gauge acceptors: "Members of the timeline.";
    Gauge acceptors_streaming: "Members that take WAL now.";
    Gauge acceptor_lag_bytes: "WAL that the member furthest behind lacks, among those that take WAL.";
    Gauge received_lsn: "End of the WAL received from the primary.";
    Gauge committed_lsn: "End of the WAL that a quorum has flushed.";
    Gauge window_bytes: "Recent WAL kept in memory for all acceptors.";
}

/// A stage on the way of a WAL message of the primary.
const STAGES: StageFamily = StageFamily {
    name: "stage_seconds",
    help: "Time of one WAL message's stage in seconds: send (received to sent to the first acceptor), quorum (to flushed by a quorum), report (to reported to the primary), total.",
    stages: &["send", "quorum", "report", "total"],
};

/// Everything that one relay measures.
#[derive(Debug, Default)]
pub struct RelayMetrics {
    /// Counters and gauges.
    pub counters: Counters,
    send: Latencies,
    quorum: Latencies,
    report: Latencies,
    total: Latencies,
    on_the_way: RefCell<OnTheWay>,
}

/// WAL messages between two stages. Invariant: positions increase within each queue and from the later to the earlier.
#[derive(Debug, Default)]
struct OnTheWay {
    received: VecDeque<Timed>,
    sent: VecDeque<Timed>,
    committed: VecDeque<Timed>,
}

#[derive(Debug, Clone, Copy)]
struct Timed {
    end: Lsn,
    received: MonotonicTime,
    /// When it entered the stage that it is in.
    since: MonotonicTime,
}

impl OnTheWay {
    fn len(&self) -> usize {
        self.received.len() + self.sent.len() + self.committed.len()
    }
}

/// Takes the messages that end at or before `lsn` on to the next stage, and times the one that they leave.
fn pass(
    from: &mut VecDeque<Timed>,
    lsn: Lsn,
    now: MonotonicTime,
    left: &Latencies,
    mut to: impl FnMut(Timed),
) {
    while let Some(timed) = from.pop_front_if(|timed| timed.end <= lsn) {
        left.record(now - timed.since);
        to(Timed { since: now, ..timed });
    }
}

impl RelayMetrics {
    /// A session begins: what was on its way in the last one is not.
    pub fn begin_session(&self) {
        self.counters.sessions.increment();
        self.counters.leading.set(0);
        self.counters.acceptors_streaming.set(0);
        *self.on_the_way.borrow_mut() = OnTheWay::default();
    }

    /// A WAL message that ends at `end` came from the primary.
    pub fn received(&self, end: Lsn, length_bytes: u64, now: MonotonicTime) {
        self.counters.wal_messages.increment();
        self.counters.wal_bytes.add(length_bytes);
        self.counters.received_lsn.set(end.0);
        let mut on_the_way = self.on_the_way.borrow_mut();
        if on_the_way.len() < TIMED_MAX {
            on_the_way.received.push_back(Timed { end, received: now, since: now });
        }
    }

    /// An acceptor's socket took WAL up to `end`.
    pub fn sent(&self, end: Lsn, length_bytes: u64, now: MonotonicTime) {
        self.counters.appends.increment();
        self.counters.append_bytes.add(length_bytes);
        let OnTheWay { received, sent, .. } = &mut *self.on_the_way.borrow_mut();
        pass(received, end, now, &self.send, |timed| sent.push_back(timed));
    }

    /// A quorum has flushed WAL up to `lsn`.
    pub fn committed(&self, lsn: Lsn, now: MonotonicTime) {
        self.counters.committed_lsn.set(lsn.0);
        let OnTheWay { received, sent, committed } = &mut *self.on_the_way.borrow_mut();
        // An acceptor's answer may be seen before the end of the send that it answers.
        pass(received, lsn, now, &self.send, |timed| sent.push_back(timed));
        pass(sent, lsn, now, &self.quorum, |timed| committed.push_back(timed));
    }

    /// The primary was told that WAL up to `lsn` is flushed.
    pub fn reported(&self, lsn: Lsn, now: MonotonicTime) {
        self.counters.reports.increment();
        let OnTheWay { committed, .. } = &mut *self.on_the_way.borrow_mut();
        pass(committed, lsn, now, &self.report, |timed| self.total.record(now - timed.received));
    }

    /// Answers scrapes for ever.
    pub async fn serve(&self, mut scrapes: Mailbox<OneshotSender<ShardFigures>>) {
        while let Some(answer) = scrapes.recv().await {
            // Whoever asked may have gone away.
            let _ = answer.send(self.snapshot());
        }
    }

    fn snapshot(&self) -> ShardFigures {
        let stages = [&self.send, &self.quorum, &self.report, &self.total];
        ShardFigures {
            shard: 0,
            figures: self.counters.figures(),
            family: &STAGES,
            stages: stages.map(Latencies::snapshot).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests;
