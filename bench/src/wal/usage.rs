//! What a node spent: CPU time, system calls, frames. Taken before and after; the difference is a round's.

use std::fs;

use anyhow::Context;
use firn_node::shard::request::{NodeHandle, Request};

/// Where to look.
#[derive(Debug, Clone)]
pub enum Probe {
    /// Shards of nodes in this process.
    Shards(Vec<NodeHandle>),
    /// Another process, for its CPU time only.
    Process(u32),
    /// Nothing is known of who serves.
    Nothing,
}

/// What was spent, summed over shards and nodes. `None`: not to be had.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds on a core.
    pub cpu_ns: Option<u64>,
    /// Times that shards entered the kernel for their rings: all their system calls but wakes from other threads.
    pub ring_enters: Option<u64>,
    /// Frames that journals made durable, one device write and flush each.
    pub frames: Option<u64>,
    /// Messages that carried an append.
    pub append_requests: Option<u64>,
}

impl Probe {
    /// What was spent so far.
    pub async fn usage(&self) -> anyhow::Result<Usage> {
        match self {
            Probe::Nothing => Ok(Usage::default()),
            Probe::Process(pid) => {
                Ok(Usage { cpu_ns: Some(process_cpu_ns(*pid)?), ..Usage::default() })
            }
            Probe::Shards(nodes) => {
                let mut shards = Vec::new();
                for node in nodes {
                    shards.extend(node.ask_all(Request::Metrics).await?);
                }
                let sum = |name| {
                    let figures = shards.iter().flat_map(|shard| &shard.figures);
                    let found = figures.filter(|figure| figure.name == name);
                    Some(found.map(|figure| figure.value).sum())
                };
                Ok(Usage {
                    cpu_ns: sum("cpu_ns"),
                    ring_enters: sum("ring_enters"),
                    append_requests: sum("append_requests"),
                    frames: Some(shards.iter().map(|shard| shard.stages[2].len()).sum()),
                })
            }
        }
    }
}

impl Usage {
    /// What was spent since `before`.
    pub fn since(&self, before: &Usage) -> Usage {
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Usage {
            cpu_ns: less(self.cpu_ns, before.cpu_ns),
            ring_enters: less(self.ring_enters, before.ring_enters),
            frames: less(self.frames, before.frames),
            append_requests: less(self.append_requests, before.append_requests),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &Usage) -> Usage {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Usage {
            cpu_ns: sum(self.cpu_ns, other.cpu_ns),
            ring_enters: sum(self.ring_enters, other.ring_enters),
            frames: sum(self.frames, other.frames),
            append_requests: sum(self.append_requests, other.append_requests),
        }
    }
}

/// Nanoseconds that a process' living threads spent on a core: first field of each schedstat (Linux
/// Documentation/scheduler/sched-stats.rst).
pub fn process_cpu_ns(pid: u32) -> anyhow::Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum_ns = 0;
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
        sum_ns += first.unwrap_or_default();
    }
    Ok(sum_ns)
}
