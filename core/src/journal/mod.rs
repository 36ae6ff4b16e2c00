//! The journal's format, snapshots and recovery as pure functions; `firn-node`'s journal writes and reads them.
