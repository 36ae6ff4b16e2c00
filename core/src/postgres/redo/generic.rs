//! Generic WAL: byte ranges patched into any page (PostgreSQL src/backend/access/transam/generic_xlog.c).

use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let mut delta = Reader::new(change.block.data());
    while !delta.is_empty() {
        let (offset, len) = (delta.u16()?, delta.u16()?);
        page.put(offset.into(), delta.take(len.into())?)?;
    }
    page.check()?;
    let (lower, upper) = (page.lower(), page.upper());
    page.bytes_mut()[lower..upper].fill(0);
    Ok(Touch::Changed)
}
