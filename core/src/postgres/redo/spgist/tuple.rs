//! Tuples of SP-GiST pages: inner, leaf, and dead ones that keep a line pointer in its place.

use crate::postgres::bytes::{Misfit, Reader};
use crate::postgres::page::Page;
use crate::postgres::redo::index_tuple::{block_bytes, size, u16_at};

/// Bytes of the special space: flags, redirections, placeholders, page id (u16 each).
const SPECIAL_BYTES: usize = 8;
const PAGE_ID: u16 = 0xFF82;
const NO_BLOCK: u32 = 0xFFFF_FFFF;

const DEAD_TUPLE_BYTES: usize = 16;
const INNER_HEADER_BYTES: usize = 8;
const STATE_MASK: u8 = 3;
const STATE_REDIRECT: u8 = 1;
const STATE_DEAD: u8 = 2;
const STATE_PLACEHOLDER: u8 = 3;
const NEXT_OFFSET_MASK: u16 = 0x3FFF;

/// Most line pointers that an index page can have (MaxIndexTuplesPerPage is 407).
const OFFSETS_MAX: usize = 2048;

/// Where a tuple is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub block: u32,
    pub offset: u16,
}

/// What replaces a deleted tuple.
#[derive(Debug, Clone, Copy)]
pub(super) enum DeadState {
    /// Searches that are on their way go on there; the transaction that moved it.
    Redirect(Target, u32),
    /// The head of a chain that is empty.
    Dead,
    /// Free to be used again.
    Placeholder,
}

impl DeadState {
    fn tuple(self) -> [u8; DEAD_TUPLE_BYTES] {
        let (state, target, xid) = match self {
            DeadState::Redirect(target, xid) => (STATE_REDIRECT, target, xid),
            DeadState::Dead => (STATE_DEAD, Target { block: NO_BLOCK, offset: 0 }, 0),
            DeadState::Placeholder => (STATE_PLACEHOLDER, Target { block: NO_BLOCK, offset: 0 }, 0),
        };
        let mut tuple = [0; DEAD_TUPLE_BYTES];
        tuple[0] = state | (DEAD_TUPLE_BYTES as u8) << 2;
        tuple[6..10].copy_from_slice(&block_bytes(target.block));
        tuple[10..12].copy_from_slice(&target.offset.to_le_bytes());
        tuple[12..].copy_from_slice(&xid.to_le_bytes());
        tuple
    }
}

/// Who made the record: its transaction, and whether the index was being built.
pub(super) struct StateSource {
    xid: u32,
    is_build: bool,
}

impl StateSource {
    pub fn take(main: &mut Reader<'_>) -> Result<StateSource, Misfit> {
        let source = StateSource { xid: main.u32()?, is_build: main.u8()? != 0 };
        main.skip(3)?;
        Ok(source)
    }

    /// Nobody searches an index that is being built.
    pub fn redirect_unless_building(&self, target: Target) -> DeadState {
        if self.is_build { DeadState::Placeholder } else { DeadState::Redirect(target, self.xid) }
    }
}

fn special(page: &Page<'_>) -> Result<usize, Misfit> {
    page.special_space(SPECIAL_BYTES)
}

pub(super) fn init(page: &mut Page<'_>, flags: u16) -> Result<(), Misfit> {
    page.init(SPECIAL_BYTES);
    let at = special(page)?;
    page.put_u16(at, flags)?;
    page.put_u16(at + 6, PAGE_ID)
}

fn add(page: &mut Page<'_>, at: usize, amount: u16) -> Result<(), Misfit> {
    page.put_u16(at, page.u16(at)?.wrapping_add(amount))
}

pub(super) fn add_redirections(page: &mut Page<'_>, amount: u16) -> Result<(), Misfit> {
    add(page, special(page)? + 2, amount)
}

pub(super) fn add_placeholders(page: &mut Page<'_>, amount: u16) -> Result<(), Misfit> {
    add(page, special(page)? + 4, amount)
}

/// Takes a leaf tuple: its first word is state and size.
pub(super) fn take_leaf<'a>(main: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    let mut header = *main;
    main.take((header.u32()? >> 2) as usize)
}

/// Takes an inner tuple: its size comes after its first word.
pub(super) fn take_inner<'a>(main: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    main.take(u16_at(main.rest(), 4)?.into())
}

/// Adds a tuple; a placeholder that is there makes room for it.
pub(super) fn add_or_replace(page: &mut Page<'_>, offset: u16, tuple: &[u8]) -> Result<(), Misfit> {
    let offset = usize::from(offset);
    if offset <= page.max_offset() {
        let (start, _) = page.item(offset)?;
        if page.bytes()[start] & STATE_MASK != STATE_PLACEHOLDER {
            return Err(Misfit::new("a placeholder", offset as u64));
        }
        add_placeholders(page, 1u16.wrapping_neg())?;
        page.delete_item(offset)?;
    }
    page.insert_item(offset, tuple)
}

/// Puts a tuple in the place of another.
pub(super) fn replace(page: &mut Page<'_>, offset: u16, tuple: &[u8]) -> Result<(), Misfit> {
    page.delete_item(offset.into())?;
    page.insert_item(offset.into(), tuple)
}

fn count(page: &mut Page<'_>, state: DeadState) -> Result<(), Misfit> {
    match state {
        DeadState::Redirect(..) => add_redirections(page, 1),
        DeadState::Placeholder => add_placeholders(page, 1),
        DeadState::Dead => Ok(()),
    }
}

pub(super) fn replace_by_dead(
    page: &mut Page<'_>,
    offset: u16,
    state: DeadState,
) -> Result<(), Misfit> {
    replace(page, offset, &state.tuple())?;
    count(page, state)
}

/// Deletes tuples and puts dead ones in their places: `first` for the one listed first, `rest` for the others.
pub(super) fn replace_many(
    page: &mut Page<'_>,
    offsets: &[[u8; 2]],
    first: DeadState,
    rest: DeadState,
) -> Result<(), Misfit> {
    let Some(listed_first) = offsets.first() else { return Ok(()) };
    let mut sorted = [[0; 2]; OFFSETS_MAX];
    let sorted = sorted
        .get_mut(..offsets.len())
        .ok_or(Misfit::new("offsets of one page", offsets.len() as u64))?;
    sorted.copy_from_slice(offsets);
    sorted.sort_unstable_by_key(|offset| u16::from_le_bytes(*offset));
    page.delete_items(sorted.as_flattened())?;
    for offset in sorted.iter() {
        let state = if offset == listed_first { first } else { rest };
        page.insert_item(u16::from_le_bytes(*offset).into(), &state.tuple())?;
        count(page, state)?;
    }
    Ok(())
}

/// Sets the link to the next tuple of a leaf's chain.
pub(super) fn set_next_offset(page: &mut Page<'_>, offset: u16, next: u16) -> Result<(), Misfit> {
    let (start, _) = page.normal_item(offset.into(), 6)?;
    let info = page.u16(start + 4)?;
    page.put_u16(start + 4, info & !NEXT_OFFSET_MASK | next & NEXT_OFFSET_MASK)
}

/// Points a node of an inner tuple to a tuple.
pub(super) fn link(
    page: &mut Page<'_>,
    offset: u16,
    node: u16,
    target: Target,
) -> Result<(), Misfit> {
    let (start, len) = page.normal_item(offset.into(), INNER_HEADER_BYTES)?;
    let tuple = page.slice(start, len)?;
    let nodes = (u16_at(tuple, 0)? >> 3) & 0x1FFF;
    let mut at = INNER_HEADER_BYTES + usize::from(u16_at(tuple, 2)?);
    if node >= nodes {
        return Err(Misfit::new("a node of the inner tuple", node.into()));
    }
    let rest =
        |at: usize| tuple.get(at..).ok_or(Misfit::new("nodes inside the inner tuple", at as u64));
    for _ in 0..node {
        at += size(rest(at)?)?;
    }
    size(rest(at)?)?;
    page.put(start + at, &block_bytes(target.block))?;
    page.put_u16(start + at + 4, target.offset)
}

/// Turns a redirection into a placeholder; it keeps its transaction.
pub(super) fn make_placeholder(page: &mut Page<'_>, offset: u16) -> Result<(), Misfit> {
    let (start, _) = page.normal_item(offset.into(), DEAD_TUPLE_BYTES)?;
    page.bytes_mut()[start] |= STATE_PLACEHOLDER;
    page.put(start + 6, &block_bytes(NO_BLOCK))?;
    page.put_u16(start + 10, 0)
}

/// Deletes all tuples from `first` on: placeholders.
pub(super) fn delete_placeholders_from(page: &mut Page<'_>, first: u16) -> Result<(), Misfit> {
    let max = page.max_offset();
    let mut offsets = [[0; 2]; OFFSETS_MAX];
    let mut count = 0;
    for offset in usize::from(first)..=max.min(OFFSETS_MAX) {
        offsets[count] = (offset as u16).to_le_bytes();
        count += 1;
    }
    add_placeholders(page, (count as u16).wrapping_neg())?;
    page.delete_items(offsets[..count].as_flattened())
}
