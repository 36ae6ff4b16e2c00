//! Sequences: the whole page anew (PostgreSQL src/backend/commands/sequence.c).

use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;

const MAGIC: u32 = 0x1717;

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    if change.record.operation() != 0 {
        return Err(Misfit::new("a Sequence record", change.record.operation().into()));
    }
    let mut main = Reader::new(change.record.main());
    main.skip(12)?;
    page.init(8);
    page.put_u32(page.special_space(8)?, MAGIC)?;
    page.append_item(main.rest())?;
    Ok(Touch::Changed)
}
