//! Transaction status log: pages come and go, entries are in the ends of transactions (clog.c).

use super::slru::Slru;
use super::{Effect, slru_page, unknown};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::wal::Record;

const ZERO_PAGE: u8 = 0x00;
const TRUNCATE: u8 = 0x10;

pub(super) fn effects<'a>(
    record: &Record<'a>,
    emit: &mut dyn FnMut(Effect<'a>),
) -> Result<(), Misfit> {
    let slru = Slru::TransactionStatus;
    let mut main = Reader::new(record.main());
    let page = slru_page(record, &mut main)?;
    match record.operation() {
        ZERO_PAGE => emit(Effect::SlruZeroPage { slru, page }),
        TRUNCATE => emit(Effect::SlruTruncate { slru, page, oldest_xid: main.u32()? }),
        _ => return Err(unknown(record)),
    }
    Ok(())
}
