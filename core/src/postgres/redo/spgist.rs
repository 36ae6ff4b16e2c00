//! SP-GiST (PostgreSQL src/backend/access/spgist/spgxlog.c, src/include/access/spgxlog.h, spgist_private.h).
//!
//! Line pointers never move here: what is deleted leaves a dead tuple in its place ([`tuple`]).

mod tuple;

use super::{Change, Touch};
use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;
use crate::postgres::wal::{Record, WalVersion};
use tuple::{
    DeadState, StateSource, Target, add_or_replace, init, link, replace, replace_by_dead,
    replace_many, set_next_offset, take_inner, take_leaf,
};

const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICK_SPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_ROOT: u8 = 0x70;
const VACUUM_REDIRECT: u8 = 0x80;

const FLAG_LEAF: u16 = 4;
const FLAG_NULLS: u16 = 8;

fn leaf_flags(stores_nulls: bool) -> u16 {
    if stores_nulls { FLAG_LEAF | FLAG_NULLS } else { FLAG_LEAF }
}

pub(super) fn redo(change: &Change<'_>, page: &mut Page<'_>) -> Result<Touch, Misfit> {
    let main = Reader::new(change.record.main());
    let id = change.block.id();
    match change.record.operation() {
        ADD_LEAF => add_leaf(change.record, page, id, main),
        MOVE_LEAFS => move_leafs(change.record, page, id, main),
        ADD_NODE => add_node(change.record, page, id, main),
        SPLIT_TUPLE => split_tuple(page, id, main),
        PICK_SPLIT => pick_split(change.record, page, id, main),
        VACUUM_LEAF if id == 0 => vacuum_leaf(page, main),
        VACUUM_ROOT if id == 0 => vacuum_root(page, main),
        VACUUM_REDIRECT if id == 0 => vacuum_redirect(change.record, page, main),
        _ => return Err(wrong_block(id)),
    }?;
    Ok(Touch::Changed)
}

fn wrong_block(id: u8) -> Misfit {
    Misfit::new("a block that the record changes", id.into())
}

fn block_number(record: &Record<'_>, id: u8) -> Result<u32, Misfit> {
    record.expect_block(id).map(|block| block.number())
}

fn add_leaf(
    record: &Record<'_>,
    page: &mut Page<'_>,
    id: u8,
    mut main: Reader<'_>,
) -> Result<(), Misfit> {
    let (new_page, nulls) = (main.u8()? != 0, main.u8()? != 0);
    let (leaf, head, parent, node) = (main.u16()?, main.u16()?, main.u16()?, main.u16()?);
    match id {
        0 => {
            if new_page {
                init(page, leaf_flags(nulls))?;
            }
            let tuple = take_leaf(&mut main)?;
            if leaf == head {
                return replace(page, leaf, tuple);
            }
            add_or_replace(page, leaf, tuple)?;
            if head != 0 { set_next_offset(page, head, leaf) } else { Ok(()) }
        }
        1 => link(page, parent, node, Target { block: block_number(record, 0)?, offset: leaf }),
        id => Err(wrong_block(id)),
    }
}

/// Two-byte offsets, `count` of them.
fn take_offsets<'a>(main: &mut Reader<'a>, count: usize) -> Result<&'a [[u8; 2]], Misfit> {
    main.take(count * 2).map(|bytes| bytes.as_chunks().0)
}

fn move_leafs(
    record: &Record<'_>,
    page: &mut Page<'_>,
    id: u8,
    mut main: Reader<'_>,
) -> Result<(), Misfit> {
    let moves = usize::from(main.u16()?);
    let (new_page, replace_dead, nulls) = (main.u8()? != 0, main.u8()? != 0, main.u8()? != 0);
    main.skip(1)?;
    let (parent, node) = (main.u16()?, main.u16()?);
    main.skip(2)?;
    let source = StateSource::take(&mut main)?;
    let deleted = take_offsets(&mut main, moves)?;
    let inserted = take_offsets(&mut main, if replace_dead { 1 } else { moves + 1 })?;
    let last = inserted.last().expect("at least one offset was taken");
    let target = Target { block: block_number(record, 1)?, offset: u16::from_le_bytes(*last) };
    match id {
        0 => {
            let first = source.redirect_unless_building(target);
            replace_many(page, deleted, first, DeadState::Placeholder)
        }
        1 => {
            if new_page {
                init(page, leaf_flags(nulls))?;
            }
            for offset in inserted {
                add_or_replace(page, u16::from_le_bytes(*offset), take_leaf(&mut main)?)?;
            }
            Ok(())
        }
        2 => link(page, parent, node, target),
        id => Err(wrong_block(id)),
    }
}

fn add_node(
    record: &Record<'_>,
    page: &mut Page<'_>,
    id: u8,
    mut main: Reader<'_>,
) -> Result<(), Misfit> {
    let (offset, new_offset) = (main.u16()?, main.u16()?);
    let (new_page, parent_block) = (main.u8()? != 0, main.u8()?);
    let (parent, node) = (main.u16()?, main.u16()?);
    main.skip(2)?;
    let source = StateSource::take(&mut main)?;
    let tuple = take_inner(&mut main)?;
    let Some(new_block) = record.block(1) else {
        return if id == 0 { replace(page, offset, tuple) } else { Err(wrong_block(id)) };
    };
    let target = Target { block: new_block.number(), offset: new_offset };
    match id {
        0 => replace_by_dead(page, offset, source.redirect_unless_building(target))?,
        1 => {
            if new_page {
                init(page, 0)?;
            }
            add_or_replace(page, new_offset, tuple)?;
        }
        2 => {}
        id => return Err(wrong_block(id)),
    }
    // The parent may be any of the three pages.
    if parent_block == id { link(page, parent, node, target) } else { Ok(()) }
}

fn split_tuple(page: &mut Page<'_>, id: u8, mut main: Reader<'_>) -> Result<(), Misfit> {
    let (prefix_offset, postfix_offset) = (main.u16()?, main.u16()?);
    let (new_page, same_page) = (main.u8()? != 0, main.u8()? != 0);
    let (prefix, postfix) = (take_inner(&mut main)?, take_inner(&mut main)?);
    match id {
        0 => {
            replace(page, prefix_offset, prefix)?;
            if same_page { add_or_replace(page, postfix_offset, postfix) } else { Ok(()) }
        }
        1 => {
            if new_page {
                init(page, 0)?;
            }
            add_or_replace(page, postfix_offset, postfix)
        }
        id => Err(wrong_block(id)),
    }
}

fn pick_split(
    record: &Record<'_>,
    page: &mut Page<'_>,
    id: u8,
    mut main: Reader<'_>,
) -> Result<(), Misfit> {
    let is_root_split = main.u8()? != 0;
    main.skip(1)?;
    let (delete_count, insert_count) = (usize::from(main.u16()?), usize::from(main.u16()?));
    let (init_source, init_target) = (main.u8()? != 0, main.u8()? != 0);
    let inner_offset = main.u16()?;
    let (init_inner, nulls, inner_is_parent) = (main.u8()? != 0, main.u8()? != 0, main.u8()? != 0);
    main.skip(1)?;
    let (parent, node) = (main.u16()?, main.u16()?);
    main.skip(2)?;
    let source = StateSource::take(&mut main)?;
    let deleted = take_offsets(&mut main, delete_count)?;
    let inserted = take_offsets(&mut main, insert_count)?;
    let on_target = main.take(insert_count)?;
    let inner = take_inner(&mut main)?;
    let inner_target = Target { block: block_number(record, 2)?, offset: inner_offset };
    match id {
        0 | 1 => {
            if id == 0 && is_root_split {
                return Err(Misfit::new("no source page in a root's split", id.into()));
            }
            if (id == 0 && init_source) || (id == 1 && init_target) {
                init(page, leaf_flags(nulls))?;
            } else if id == 0 {
                let first = source.redirect_unless_building(inner_target);
                replace_many(page, deleted, first, DeadState::Placeholder)?;
            }
            for (offset, on_target) in inserted.iter().zip(on_target) {
                let tuple = take_leaf(&mut main)?;
                if (*on_target != 0) == (id == 1) {
                    add_or_replace(page, u16::from_le_bytes(*offset), tuple)?;
                }
            }
            Ok(())
        }
        2 => {
            if init_inner {
                init(page, if nulls { FLAG_NULLS } else { 0 })?;
            }
            add_or_replace(page, inner_offset, inner)?;
            if inner_is_parent { link(page, parent, node, inner_target) } else { Ok(()) }
        }
        3 => link(page, parent, node, inner_target),
        id => Err(wrong_block(id)),
    }
}

fn vacuum_leaf(page: &mut Page<'_>, mut main: Reader<'_>) -> Result<(), Misfit> {
    let mut count = || main.u16().map(usize::from);
    let (dead, placeholder, moved, chained) = (count()?, count()?, count()?, count()?);
    main.skip(8)?;
    let dead = take_offsets(&mut main, dead)?;
    let placeholder = take_offsets(&mut main, placeholder)?;
    let (moved_from, moved_to) = (take_offsets(&mut main, moved)?, take_offsets(&mut main, moved)?);
    let (chain_from, chain_to) =
        (take_offsets(&mut main, chained)?, take_offsets(&mut main, chained)?);
    replace_many(page, dead, DeadState::Dead, DeadState::Dead)?;
    replace_many(page, placeholder, DeadState::Placeholder, DeadState::Placeholder)?;
    for (from, to) in moved_from.iter().zip(moved_to) {
        let (from, to) = (u16::from_le_bytes(*from).into(), u16::from_le_bytes(*to).into());
        let (pointer_from, pointer_to) = (page.pointer(from)?, page.pointer(to)?);
        page.set_pointer(from, pointer_to)?;
        page.set_pointer(to, pointer_from)?;
    }
    replace_many(page, moved_from, DeadState::Placeholder, DeadState::Placeholder)?;
    for (from, to) in chain_from.iter().zip(chain_to) {
        set_next_offset(page, u16::from_le_bytes(*from), u16::from_le_bytes(*to))?;
    }
    Ok(())
}

fn vacuum_root(page: &mut Page<'_>, mut main: Reader<'_>) -> Result<(), Misfit> {
    let count = usize::from(main.u16()?);
    main.skip(2 + 8)?;
    page.delete_items(main.take(count * 2)?)
}

fn vacuum_redirect(
    record: &Record<'_>,
    page: &mut Page<'_>,
    mut main: Reader<'_>,
) -> Result<(), Misfit> {
    let (count, first_placeholder) = (main.u16()?, main.u16()?);
    main.u32()?;
    if record.version >= WalVersion::V16 {
        main.skip(2)?;
    }
    for offset in take_offsets(&mut main, count.into())? {
        tuple::make_placeholder(page, u16::from_le_bytes(*offset))?;
    }
    tuple::add_redirections(page, 0u16.wrapping_sub(count))?;
    tuple::add_placeholders(page, count)?;
    if first_placeholder == 0 {
        return Ok(());
    }
    tuple::delete_placeholders_from(page, first_placeholder)
}
