//! The stream of WAL: pages, records, where each record ends (PostgreSQL src/include/access/xlogrecord.h,
//! xlog_internal.h).
