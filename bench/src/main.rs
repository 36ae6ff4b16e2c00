//! `firn-bench`: load generator and latency reports.

fn main() {}
