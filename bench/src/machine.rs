//! What a report was measured on: a figure without its machine and load says nothing.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// A machine and how busy it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor, as the kernel names it.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load averages over 1, 5 and 15 minutes: runnable and waiting threads of the whole machine.
    pub load: [f64; 3],
}

impl Machine {
    /// This machine, now. What the kernel does not tell is empty or zero.
    pub fn now() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_string()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib = memory.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
        let load = read("/proc/loadavg");
        let mut averages = load.split_whitespace().map(|text| text.parse().unwrap_or_default());
        Machine {
            processor: field(&cpu, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            load: std::array::from_fn(|_| averages.next().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = self.memory_bytes as f64 / 1e9;
        let [one, five, fifteen] = self.load;
        write!(
            f,
            "{} cores ({}), {gigabytes:.1} GB, Linux {}, load {one:.2} {five:.2} {fifteen:.2}",
            self.cores, self.processor, self.kernel
        )
    }
}
