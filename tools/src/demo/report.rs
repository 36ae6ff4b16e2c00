//! What the demo proved, and how long commits took.

use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::commands::rebuild::Rebuilt;
use crate::demo::clients::Load;
use crate::demo::ledger::Check;
use crate::local::postgres_install::PostgresInstall;

/// How often Postgres, and with it every session, was killed: in place, and for the rebuild.
const POSTGRES_KILLS: u64 = 2;
/// Percentiles of the table.
const PERCENTILES: &[(&str, f64)] = &[("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Everything that was measured and found.
pub struct Report {
    /// The Postgres.
    pub install: PostgresInstall,
    /// Concurrent clients.
    pub clients: u32,
    /// Whether the nodes ran on the volatile device.
    pub volatile: bool,
    /// The nodes' runtime.
    pub runtime: String,
    /// The file system that the nodes wrote to.
    pub device: String,
    /// From the start to the last check.
    pub duration: Duration,
    /// Latencies before the first kill.
    pub undisturbed: Histogram<u64>,
    /// What the clients did.
    pub load: Load,
    /// The ledger against the rebuilt database.
    pub check: Check,
    /// The rebuild.
    pub rebuilt: Rebuilt,
}

impl Report {
    /// Prints it: lines for people, or one JSON object.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}", self.text());
        }
    }

    /// An error when the promise was broken.
    pub fn verdict(&self) -> Result<()> {
        ensure!(
            self.check.missing.is_empty(),
            "{} acknowledged transactions are lost, the first is {:?}",
            self.check.missing.len(),
            self.check.missing[0]
        );
        ensure!(
            self.check.extra.len() as u64 <= self.extra_max(),
            "{} transactions are there that were never acknowledged; at most {} can be",
            self.check.extra.len(),
            self.extra_max()
        );
        Ok(())
    }

    /// Each client had at most one transaction in doubt at each kill; those with a warning are in doubt too.
    fn extra_max(&self) -> u64 {
        u64::from(self.clients) * POSTGRES_KILLS + self.load.warned
    }

    fn device_text(&self) -> String {
        let kind = if self.volatile { "volatile device over " } else { "" };
        format!("{kind}{}", self.device)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "\ncommit latency in milliseconds, {} clients: Postgres {} -> relay -> 3 nodes on loopback, quorum of 2, \
             synchronous_commit=on, {}, runtime {}, {} cores\n\n{:<24} {:>9}",
            self.clients,
            self.install.major,
            self.device_text(),
            self.runtime,
            std::thread::available_parallelism().map_or(1, usize::from),
            "",
            "commits"
        );
        for (name, _) in PERCENTILES {
            text.push_str(&format!(" {name:>9}"));
        }
        text.push_str(&format!(" {:>9}\n", "max"));
        for (name, latencies_us) in [
            ("before the first kill", &self.undisturbed),
            ("with all kills", &self.load.latencies_us),
        ] {
            text.push_str(&format!("{name:<24} {:>9}", latencies_us.len()));
            for (_, percentile) in PERCENTILES {
                let value_us = latencies_us.value_at_percentile(*percentile);
                text.push_str(&format!(" {:>9.2}", value_us as f64 / 1000.0));
            }
            text.push_str(&format!(" {:>9.2}\n", latencies_us.max() as f64 / 1000.0));
        }
        text.push_str(&format!(
            "\n{} transactions were acknowledged, {} are missing from the rebuilt database\n\
             {} transactions are there without acknowledgement (in doubt when killed; at most {} can be)\n\
             killed with -9: node 2, the relay, Postgres twice, node 1{}\n\
             lost: the primary's disk, node 1's disk\n\
             rebuilt: fenced at {} in term {}, Postgres timeline {}; the relay follows it\n\
             took {:.0} s\n",
            self.check.entered,
            self.check.missing.len(),
            self.check.extra.len(),
            self.extra_max(),
            if self.volatile { ", then nodes 2 and 3 together" } else { "" },
            self.rebuilt.fenced.lsn,
            self.rebuilt.fenced.term,
            self.rebuilt.postgres_timeline,
            self.duration.as_secs_f64(),
        ));
        text
    }

    fn json(&self) -> Value {
        json!({
            "postgres_major": self.install.major,
            "clients": self.clients,
            "volatile": self.volatile,
            "runtime": self.runtime,
            "device": self.device_text(),
            "duration_s": self.duration.as_secs_f64(),
            "acknowledged": self.check.entered,
            "missing": self.check.missing.len(),
            "extra": self.check.extra.len(),
            "extra_max": self.extra_max(),
            "warned": self.load.warned,
            "broken_sessions": self.load.broken,
            "fence_lsn": self.rebuilt.fenced.lsn,
            "fence_term": self.rebuilt.fenced.term,
            "postgres_timeline": self.rebuilt.postgres_timeline,
            "latency_us": {
                "before_the_first_kill": latency_json(&self.undisturbed),
                "with_all_kills": latency_json(&self.load.latencies_us),
            },
            "ok": self.verdict().is_ok(),
        })
    }
}

fn latency_json(latencies_us: &Histogram<u64>) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("commits".to_string(), latencies_us.len().into());
    for (name, percentile) in PERCENTILES {
        object.insert((*name).to_string(), latencies_us.value_at_percentile(*percentile).into());
    }
    object.insert("max".to_string(), latencies_us.max().into());
    Value::Object(object)
}
