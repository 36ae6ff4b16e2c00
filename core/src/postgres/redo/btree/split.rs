//! Page splits: the right half comes whole, the left half is made of the old page (btree_xlog_split).

use super::posting::{Swapped, swap};
use super::{
    Change, FLAG_INCOMPLETE_SPLIT, FLAG_LEAF, SPECIAL_BYTES, Special, first_data_offset, init,
};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;
use crate::postgres::redo::index_tuple::{restore_reversed, take_rounded};

/// xl_btree_split.
struct Split {
    level: u32,
    first_right: usize,
    new_offset: usize,
    posting_offset: u16,
}

impl Split {
    fn parse(main: &[u8]) -> Result<Split, Misfit> {
        let mut main = Reader::new(main);
        Ok(Split {
            level: main.u32()?,
            first_right: main.u16()?.into(),
            new_offset: main.u16()?.into(),
            posting_offset: main.u16()?,
        })
    }

    fn leaf_flag(&self) -> u16 {
        if self.level == 0 { FLAG_LEAF } else { 0 }
    }
}

pub(super) fn right(change: &Change<'_>, page: &mut Page<'_>) -> Result<(), Misfit> {
    let split = Split::parse(change.record.main())?;
    let previous = change.record.expect_block(0)?.number();
    let next = change.record.block(2).map_or(0, |block| block.number());
    init(page, Special { previous, next, level: split.level, flags: split.leaf_flag() })?;
    restore_reversed(page, change.block.data())
}

pub(super) fn left(
    change: &Change<'_>,
    page: &mut Page<'_>,
    new_item_left: bool,
) -> Result<(), Misfit> {
    let split = Split::parse(change.record.main())?;
    let mut data = Reader::new(change.block.data());
    let mut new_item = None;
    let mut swapped = Swapped::default();
    let mut replaced_offset = 0;
    if new_item_left || split.posting_offset != 0 {
        let tuple = take_rounded(&mut data)?;
        new_item = Some(tuple);
        if split.posting_offset != 0 {
            // The new tuple's place is inside a posting list: both change before the split.
            replaced_offset = split.new_offset.wrapping_sub(1);
            let (start, len) = page.normal_item(replaced_offset, 8)?;
            swapped = swap(page.slice(start, len)?, tuple, split.posting_offset)?;
            new_item = Some(swapped.new_tuple());
        }
    }
    let new_item = new_item.filter(|_| new_item_left);
    let high_key = take_rounded(&mut data)?;

    let mut old_bytes = *page.bytes();
    let old = Page::new(&mut old_bytes);
    let special_at = old.special_space(SPECIAL_BYTES)?;
    let first = first_data_offset(&old)?;
    page.init(SPECIAL_BYTES);
    page.append_item(high_key)?;
    for offset in first..split.first_right {
        if offset == split.new_offset
            && let Some(tuple) = new_item
        {
            page.append_item(tuple)?;
        }
        if offset == replaced_offset {
            page.append_item(swapped.posting())?;
        } else {
            let (start, len) = old.item(offset)?;
            page.append_item(old.slice(start, len)?)?;
        }
    }
    if split.first_right == split.new_offset
        && let Some(tuple) = new_item
    {
        page.append_item(tuple)?;
    }
    let special = Special {
        previous: old.u32(special_at)?,
        next: change.record.expect_block(1)?.number(),
        level: old.u32(special_at + 8)?,
        flags: FLAG_INCOMPLETE_SPLIT | split.leaf_flag(),
    };
    special.put(page)
}
