//! Marks: a rare branch says that it was taken, and a named test asserts that it was.
//!
//! The counters belong to the thread, so a simulation (one thread) sees exactly its own and stays a function of its seed.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one pass through the branch called `mark`. For rare branches only: it looks a name up.
pub fn hit(mark: &'static str) {
    HITS.with_borrow_mut(|hits| *hits.entry(mark).or_default() += 1);
}

/// How often this thread passed the branch since its last [`reset`].
pub fn count(mark: &str) -> u64 {
    HITS.with_borrow(|hits| hits.get(mark).copied().unwrap_or(0))
}

/// Every mark that this thread has passed, with its count, by name.
pub fn all() -> BTreeMap<&'static str, u64> {
    HITS.with_borrow(Clone::clone)
}

/// Forgets this thread's counts.
pub fn reset() {
    HITS.with_borrow_mut(BTreeMap::clear);
}
