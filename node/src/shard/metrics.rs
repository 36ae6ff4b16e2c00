//! What a shard counts and times. Plain cells on the shard's own thread; a scrape takes a copy as a message.
//!
//! All names, units and meanings of a node's metrics are in this file. There is one series per shard, never one per
//! tenant, timeline or connection, so a node with any number of timelines has the same number of series.

use std::cell::Cell;

use hdrhistogram::Histogram;

use crate::latencies::Latencies;

/// Whether a figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// Name without the prefix `firn_`; a counter's gets the suffix `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: FigureKind,
    /// Now.
    pub value: u64,
}

macro_rules! figures {
    ($($kind:ident $name:ident: $help:literal;)*) => {
        /// The counters and gauges of one thread.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: Count,)*
        }

        impl Counters {
            /// All of them, for a scrape.
            pub fn figures(&self) -> Vec<Figure> {
                vec![$(Figure {
                    name: stringify!($name),
                    help: $help,
                    kind: FigureKind::$kind,
                    value: self.$name.get(),
                },)*]
            }
        }
    };
}

pub(crate) use figures;

figures! {
    Counter connections_accepted: "Connections accepted on the Postgres port.";
    Counter connections_refused: "Connections refused: malformed startup, failed authentication, over a bound.";
    Gauge connections: "Connections that are served.";
    Gauge timelines: "Timelines that exist.";
    Gauge proposers: "Proposers that are connected.";
    Gauge readers: "Readers that are connected.";
    Counter append_requests: "Append requests taken, empty ones included.";
    Counter append_bytes: "Bytes of WAL taken.";
    Counter append_responses: "Append responses sent; fewer than requests because answers are merged.";
    Counter votes_granted: "Votes given.";
    Counter votes_refused: "Votes refused.";
    Counter elections: "Proposers that were elected here.";
    Counter protocol_errors: "Proposers whose message was refused by an error.";
    Counter read_bytes: "Bytes of WAL sent to readers.";
    Gauge reader_lag_bytes: "Most bytes of committed WAL of a timeline that one of its readers was not sent yet, as of this scrape.";
    Counter reader_switches: "Readers that reached the end of a Postgres timeline and were told the next one.";
    Gauge timelines_suspect: "Timelines that may have lost acknowledged data here and do not vote until they are re-seeded.";
    Counter reseeds: "Timelines that were re-seeded from their other members.";
    Counter reseeds_failed: "Attempts to re-seed a timeline that failed.";
    Gauge peer_lag_bytes: "Most bytes of WAL that a peer has committed and a timeline here, without a proposer, has not.";
    Counter catch_ups: "Times that a timeline caught up with a peer.";
    Counter catch_up_bytes: "Bytes of WAL taken from peers.";
    Counter fences: "Fences that were asked for.";
    Counter ring_enters: "Times that the shard entered the kernel for its ring, as of this scrape.";
    Counter cpu_ns: "Nanoseconds that the shard's thread spent on a core, as of this scrape.";
}

/// A number that one thread changes.
#[derive(Debug, Default)]
pub struct Count(Cell<u64>);

impl Count {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// Counts one more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts several more; wraps after 2^64.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// Counts one less.
    pub fn decrement(&self) {
        let value = self.0.get().checked_sub(1).expect("a gauge counts down what it counted up");
        self.0.set(value);
    }

    /// Replaces the number.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }
}

/// A stage on an append's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the receive's completion until the journal has queued the change.
    Receive,
    /// From the first change that goes into a frame until the frame goes to the device. One per frame.
    Queue,
    /// From there until the frame is durable. One per frame.
    Device,
    /// From when a change is known to be durable until its answer was sent.
    Reply,
}

impl Stage {
    /// The stage's label.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Queue => "queue",
            Stage::Device => "device",
            Stage::Reply => "reply",
        }
    }
}

/// The stages of an append, as they are shown.
const STAGES: StageFamily = StageFamily {
    name: "append_stage_seconds",
    help: "Time of one append's stage in seconds: receive, queue, device, reply.",
    stages: &[
        Stage::Receive.name(),
        Stage::Queue.name(),
        Stage::Device.name(),
        Stage::Reply.name(),
    ],
};

/// How a histogram of stages is shown.
#[derive(Debug)]
pub struct StageFamily {
    /// Name of the metric, without a prefix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label of each stage.
    pub stages: &'static [&'static str],
}

/// Everything that one shard measures.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Counters and gauges.
    pub counters: Counters,
    /// [`Stage::Receive`].
    pub receive: Latencies,
    /// [`Stage::Reply`].
    pub reply: Latencies,
}

impl ShardMetrics {
    /// A copy for a scrape, with what the shard's journal has timed.
    pub fn snapshot(&self, shard: usize, queue: &Latencies, device: &Latencies) -> ShardFigures {
        let stages = [&self.receive, queue, device, &self.reply].map(Latencies::snapshot);
        let (figures, stages) = (self.counters.figures(), stages.to_vec());
        ShardFigures { shard, figures, family: &STAGES, stages }
    }
}

/// A shard's figures at one moment.
#[derive(Debug, Clone)]
pub struct ShardFigures {
    /// Number of the shard.
    pub shard: usize,
    /// Counters and gauges, in the same order for every shard.
    pub figures: Vec<Figure>,
    /// How the stages are shown.
    pub family: &'static StageFamily,
    /// Latencies in nanoseconds, one for each stage of the family.
    pub stages: Vec<Histogram<u64>>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_and_stages_are_copied() {
        let metrics = ShardMetrics::default();
        metrics.counters.append_bytes.add(7);
        metrics.counters.connections.increment();
        metrics.counters.connections.decrement();
        let (queue, device) = (Latencies::default(), Latencies::default());
        device.record(Duration::from_micros(100));
        device.record(Duration::from_secs(100_000));
        let snapshot = metrics.snapshot(3, &queue, &device);
        let value =
            |name| snapshot.figures.iter().find(|figure| figure.name == name).unwrap().value;
        assert_eq!((value("append_bytes"), value("connections")), (7, 0));
        assert_eq!(snapshot.stages[2].len(), 2);
        assert!(snapshot.stages[0].is_empty());
    }
}
