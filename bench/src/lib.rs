//! `firn-bench`: measures what Firn is built on.
//!
//! Read first: `measure.rs` (what a row is), then the bench of a part, as `runtime.rs`; `figures/` has what is published.

mod allocations;
mod cpu_time;
mod decode;
pub mod figures;
pub mod machine;
mod measure;
pub mod redo;
pub mod report;
pub mod runtime;
pub mod runtimes;
pub mod wal;
