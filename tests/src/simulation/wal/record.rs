//! WAL records: the 24-byte header, one main-data block, the CRC (PostgreSQL src/include/access/xlogrecord.h).

use firn_core::types::{Lsn, PostgresTimeline, PostgresVersion};

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 24;
const MAIN_DATA_LONG: u8 = 254;
const MAIN_DATA_SHORT: u8 = 255;

/// Resource managers (src/include/access/rmgrlist.h) and their operations.
const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_NOOP: u8 = 0x20;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_END_OF_RECOVERY: u8 = 0x90;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
const XACT_COMMIT: u8 = 0x00;

/// What one record says, but for its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    xid: u32,
    resource_manager: u8,
    info: u8,
    main_data: Vec<u8>,
}

impl Record {
    /// A transaction's commit, without subtransactions or invalidations.
    pub fn commit(xid: u32, time_us: i64) -> Record {
        Record {
            xid,
            resource_manager: TRANSACTION,
            info: XACT_COMMIT,
            main_data: time_us.to_le_bytes().to_vec(),
        }
    }

    /// Bytes that mean nothing.
    pub fn no_operation(payload: Vec<u8>) -> Record {
        Record { xid: 0, resource_manager: XLOG, info: XLOG_NOOP, main_data: payload }
    }

    pub(super) fn segment_switch() -> Record {
        Record { xid: 0, resource_manager: XLOG, info: XLOG_SWITCH, main_data: Vec::new() }
    }

    pub(super) fn shutdown_checkpoint(redo: Lsn, timeline: PostgresTimeline) -> Record {
        let mut data = vec![0; 88];
        data[0..8].copy_from_slice(&redo.0.to_le_bytes());
        data[8..12].copy_from_slice(&timeline.0.to_le_bytes());
        data[12..16].copy_from_slice(&timeline.0.to_le_bytes());
        data[16] = 1;
        data[24..32].copy_from_slice(&3u64.to_le_bytes());
        Record { xid: 0, resource_manager: XLOG, info: XLOG_CHECKPOINT_SHUTDOWN, main_data: data }
    }

    pub(super) fn end_of_recovery(
        timeline: PostgresTimeline,
        parent: PostgresTimeline,
        version: PostgresVersion,
    ) -> Record {
        let mut data = vec![0; if version.major() >= 17 { 24 } else { 16 }];
        data[8..12].copy_from_slice(&timeline.0.to_le_bytes());
        data[12..16].copy_from_slice(&parent.0.to_le_bytes());
        Record { xid: 0, resource_manager: XLOG, info: XLOG_END_OF_RECOVERY, main_data: data }
    }

    pub(super) fn overwrite_contrecord(overwritten: Lsn) -> Record {
        let mut data = vec![0; 16];
        data[0..8].copy_from_slice(&overwritten.0.to_le_bytes());
        Record { xid: 0, resource_manager: XLOG, info: XLOG_OVERWRITE_CONTRECORD, main_data: data }
    }

    /// The record's bytes, without page headers: header, data header, data.
    pub(super) fn encode(&self, prev: Lsn) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        match self.main_data.len() {
            0 => {}
            len @ 1..=255 => bytes.extend([MAIN_DATA_SHORT, len as u8]),
            len => {
                let len = u32::try_from(len).expect("a record is at most 1 GiB");
                bytes.push(MAIN_DATA_LONG);
                bytes.extend(len.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.main_data);
        let total = u32::try_from(bytes.len()).expect("a record is at most 1 GiB");
        bytes[0..4].copy_from_slice(&total.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.xid.to_le_bytes());
        bytes[8..16].copy_from_slice(&prev.0.to_le_bytes());
        bytes[16] = self.info;
        bytes[17] = self.resource_manager;
        let body_crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
        let crc = crc32c::crc32c_append(body_crc, &bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Whether the record's bytes are those of a segment switch.
pub(super) fn is_segment_switch(bytes: &[u8]) -> bool {
    (bytes[17], bytes[16]) == (XLOG, XLOG_SWITCH)
}

/// The timeline that begins with the record and the one that ended, if it is an end of recovery.
pub(super) fn timelines_of(bytes: &[u8]) -> Option<(PostgresTimeline, PostgresTimeline)> {
    if (bytes[17], bytes[16]) != (XLOG, XLOG_END_OF_RECOVERY) {
        return None;
    }
    let data = &bytes[HEADER_BYTES + 2..];
    let number = |at: usize| {
        PostgresTimeline(u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]))
    };
    Some((number(8), number(12)))
}
