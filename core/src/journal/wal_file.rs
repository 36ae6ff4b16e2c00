//! Names of raw WAL segment files, as Postgres forms them (PostgreSQL src/include/access/xlog_internal.h,
//! `XLogFileName`).

use crate::types::{Lsn, PostgresTimeline, TimelineKey};

/// The name of the file that holds the byte at `lsn`.
pub fn wal_file_name(tli: PostgresTimeline, lsn: Lsn, segment_size_bytes: u32) -> String {
    let number = lsn.0 / u64::from(segment_size_bytes);
    let per_id = (1u64 << 32) / u64::from(segment_size_bytes);
    format!("{:08X}{:08X}{:08X}", tli.0, number / per_id, number % per_id)
}

/// The directory of a timeline's moved WAL, relative to the data directory.
pub fn timeline_directory(key: TimelineKey) -> String {
    format!("timelines/{}/{}", key.tenant_id, key.timeline_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_postgres_own() {
        let tli = PostgresTimeline(1);
        assert_eq!(wal_file_name(tli, Lsn(0x16B_3748), 16 << 20), "000000010000000000000001");
        assert_eq!(wal_file_name(tli, Lsn(0x1_FF00_0000), 16 << 20), "0000000100000001000000FF");
        assert_eq!(wal_file_name(tli, Lsn(0x1_4000_0000), 1 << 30), "000000010000000100000001");
    }
}
