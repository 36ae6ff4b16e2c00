//! Bytes to messages and back: the walproposer protocol and the parts of Postgres' protocol around it.

pub mod postgres;
