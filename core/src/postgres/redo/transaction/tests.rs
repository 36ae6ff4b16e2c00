use super::*;
use crate::postgres::redo::{Settings, effects};
use crate::postgres::wal::Layout;
use crate::postgres::wal::names::rmgr;

#[test]
fn a_prepare_from_an_origin_advances_it() {
    let mut bytes = vec![0; 24];
    bytes[4..8].copy_from_slice(&700u32.to_le_bytes());
    bytes[16] = PREPARE;
    bytes[17] = rmgr::XACT;
    bytes.extend([253, 9, 0, 255, 72]);
    let mut header = [0; 72];
    header[PREPARE_ORIGIN_LSN..PREPARE_ORIGIN_LSN + 8].copy_from_slice(&0x6000u64.to_le_bytes());
    bytes.extend(header);
    let mut layout = Layout::new();
    let record =
        Record::parse(&bytes, &mut layout, WalVersion::V17, Lsn(0x100), Lsn(0x140)).unwrap();
    let mut told = Vec::new();
    effects(&record, Settings::default(), |effect| told.push(effect)).unwrap();
    assert_eq!(
        told,
        [
            Effect::TwoPhasePrepare { xid: 700, data: &header },
            Effect::OriginAdvance { origin: 9, remote_lsn: Lsn(0x6000), backward: false },
        ]
    );
}
