//! A line on the terminal that says how far a long run is.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

/// Width of the bar in characters.
const BAR: usize = 40;

/// Draws over the last line; nothing where standard error is no terminal.
pub fn draw(what: &str, done: Duration, whole: Duration) {
    if !stderr().is_terminal() {
        return;
    }
    let share = (done.as_secs_f64() / whole.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
    let filled = (share * BAR as f64) as usize;
    let left_s = whole.saturating_sub(done).as_secs();
    let line =
        format!("{what} [{}{}] {left_s} s left", "=".repeat(filled), " ".repeat(BAR - filled));
    // A terminal that went away loses nothing but the bar.
    let _ = write!(stderr(), "\r{line:<79}").and_then(|()| stderr().flush());
}

/// Takes the line away.
pub fn clear() {
    if stderr().is_terminal() {
        // As above.
        let _ = write!(stderr(), "\r{:<79}\r", "").and_then(|()| stderr().flush());
    }
}
