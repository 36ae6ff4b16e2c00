//! What the demo is doing, on standard error: a line for each act, and on a terminal a running count below.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::{now, sleep, spawn};
use crate::demo::clients::Counters;

/// How often the running count is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// The display.
pub struct Progress {
    start: Instant,
    stopped: Arc<AtomicBool>,
    counters: Mutex<Option<Arc<Counters>>>,
}

impl Progress {
    /// Begins to count the time.
    pub fn start() -> Progress {
        Progress {
            start: now(),
            stopped: Arc::new(AtomicBool::new(false)),
            counters: Mutex::new(None),
        }
    }

    /// An act begins.
    pub fn say(&self, act: &str) {
        let counters = self.counters.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let commits = counters.as_ref().map_or(0, |counters| counters.committed());
        let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!(
            "{clear}[{:5.1} s] {commits:>8} commits  {act}",
            self.start.elapsed().as_secs_f64()
        );
    }

    /// Shows the running count of these clients from now on.
    pub fn watch(&self, counters: Arc<Counters>) {
        *self.counters.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some(counters.clone());
        if !std::io::stderr().is_terminal() {
            return;
        }
        let stopped = self.stopped.clone();
        let start = self.start;
        spawn(move || {
            let mut before = counters.committed();
            while !stopped.load(Ordering::Relaxed) {
                sleep(SHOW_INTERVAL);
                let commits = counters.committed();
                let rate = (commits - before) as f64 / SHOW_INTERVAL.as_secs_f64();
                eprint!(
                    "\r\x1b[K[{:5.1} s] {commits:>8} commits  {rate:.0}/s",
                    start.elapsed().as_secs_f64()
                );
                let _ = std::io::stderr().flush();
                before = commits;
            }
        });
    }

    /// The demo is over.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.say("done");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
