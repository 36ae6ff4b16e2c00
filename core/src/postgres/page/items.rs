//! Line pointers and the tuples they point to: adding, deleting, overwriting, compacting.
//!
//! Postgres' own routines leave different bytes behind for the same logical result: deleting up to two index tuples
//! moves tuples one deletion at a time, deleting more rebuilds the tuple area in line-pointer order. All of it is
//! observable by later records, so it is done the same way here (PostgreSQL src/backend/storage/page/bufpage.c).

use super::{HAS_FREE_LINES, HEADER_BYTES, PAGE_BYTES, Page};
use crate::postgres::bytes::{Misfit, align8};

const POINTER_BYTES: usize = 4;
/// Most tuples that a heap page may hold (MaxHeapTuplesPerPage).
const HEAP_TUPLES_MAX: usize = 291;

const UNUSED: u32 = 0;
const NORMAL: u32 = 1;
const REDIRECT: u32 = 2;
const DEAD: u32 = 3;

/// One line pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinePointer(pub u32);

impl LinePointer {
    fn make(offset: usize, state: u32, len: usize) -> LinePointer {
        LinePointer((offset as u32 & 0x7FFF) | state << 15 | (len as u32) << 17)
    }

    /// Nothing.
    pub const NONE: LinePointer = LinePointer(UNUSED);

    /// A pointer to a tuple.
    pub fn normal(offset: usize, len: usize) -> LinePointer {
        Self::make(offset, NORMAL, len)
    }

    /// A pointer to another line pointer.
    pub fn redirect(to: u16) -> LinePointer {
        Self::make(to.into(), REDIRECT, 0)
    }

    /// A dead line pointer without storage.
    pub fn dead() -> LinePointer {
        Self::make(0, DEAD, 0)
    }

    /// Where its tuple starts; for a redirect the other line pointer.
    pub fn offset(self) -> usize {
        (self.0 & 0x7FFF) as usize
    }

    /// Length of its tuple, not rounded.
    pub fn len(self) -> usize {
        (self.0 >> 17) as usize
    }

    /// Whether it has no tuple.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether it is in use: normal, redirect or dead.
    pub fn is_used(self) -> bool {
        self.0 >> 15 & 3 != UNUSED
    }

    /// Whether it points to a live tuple.
    pub fn is_normal(self) -> bool {
        self.0 >> 15 & 3 == NORMAL
    }

    fn moved(self, offset: usize) -> LinePointer {
        LinePointer((self.0 & !0x7FFF) | (offset as u32 & 0x7FFF))
    }

    fn resized(self, len: usize) -> LinePointer {
        LinePointer((self.0 & 0x1_FFFF) | (len as u32) << 17)
    }
}

/// Who may reuse a line pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// The line pointer at the offset must be unused.
    Overwrite,
    /// Line pointers from the offset on make room.
    Shuffle,
}

/// Runs of tuples at most that compaction moves within the page: pruning leaves one or two of them.
const RUNS_MAX: usize = 8;

/// Neighbours that stay neighbours when they move.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Index of the first line pointer.
    first: u16,
    /// Where the last tuple starts.
    start: u16,
    /// Where the first tuple ends.
    end: u16,
    /// How far up the run moves.
    shift: u16,
}

/// The tuples of a page in runs, when each lies below that of the line pointer before it, as pruning leaves most heap
/// pages.
struct Runs {
    /// The first one is in its place and may be empty.
    runs: [Run; RUNS_MAX],
    count: usize,
}

impl Runs {
    /// Of the tuples of `pointers`, which end at `special`; none when they lie otherwise, or in too many runs. One look at
    /// every line pointer: which of them have storage follows no pattern that a processor could guess, so nothing branches
    /// on it.
    fn of(pointers: &[[u8; POINTER_BYTES]], special: usize) -> Option<Runs> {
        let mut runs = [Run::default(); RUNS_MAX];
        runs[0].end = special as u16;
        let (mut last, mut shift, mut lowest, mut low_bits) = (0, 0, special, special);
        for (index, bytes) in pointers.iter().enumerate() {
            let pointer = LinePointer(u32::from_le_bytes(*bytes));
            let size = align8(pointer.len());
            // One without a tuple goes on with the run, by nothing.
            let start = if size == 0 { lowest } else { pointer.offset() };
            let end = start + size;
            if end != lowest {
                shift += lowest.checked_sub(end)?;
                runs[last].start = lowest as u16;
                last += 1;
                let [first, end, shift] = [index, end, shift].map(|number| number as u16);
                *runs.get_mut(last)? = Run { first, start: 0, end, shift };
            }
            lowest = start;
            low_bits |= start;
        }
        runs[last].start = lowest as u16;
        (low_bits % 8 == 0).then_some(Runs { runs, count: last + 1 })
    }
}

impl Page<'_> {
    /// How many line pointers there are.
    #[inline]
    pub fn max_offset(&self) -> usize {
        self.lower().saturating_sub(HEADER_BYTES) / POINTER_BYTES
    }

    /// Where the line pointer at `offset` (1-based) lies.
    #[inline]
    fn slot(&self, offset: usize) -> Result<usize, Misfit> {
        if offset == 0 || offset > self.max_offset() {
            return Err(Misfit::new("a line pointer of the page", offset as u64));
        }
        Ok(HEADER_BYTES + (offset - 1) * POINTER_BYTES)
    }

    /// The line pointer at `offset` (1-based).
    #[inline]
    pub fn pointer(&self, offset: usize) -> Result<LinePointer, Misfit> {
        self.u32(self.slot(offset)?).map(LinePointer)
    }

    /// Sets an existing line pointer.
    #[inline]
    pub fn set_pointer(&mut self, offset: usize, pointer: LinePointer) -> Result<(), Misfit> {
        self.put_u32(self.slot(offset)?, pointer.0)
    }

    /// Where the tuple at `offset` lies: start and unrounded length. The line pointer must have storage inside the page.
    #[inline]
    pub fn item(&self, offset: usize) -> Result<(usize, usize), Misfit> {
        Self::place(self.pointer(offset)?, offset)
    }

    /// Where `pointer`, the one at `offset`, points to.
    #[inline]
    fn place(pointer: LinePointer, offset: usize) -> Result<(usize, usize), Misfit> {
        let (start, len) = (pointer.offset(), pointer.len());
        if len == 0 || start < HEADER_BYTES || start + len > PAGE_BYTES {
            return Err(Misfit::new("a line pointer with a tuple inside the page", offset as u64));
        }
        Ok((start, len))
    }

    /// The tuple at `offset`, which must be at least `min_len` bytes long and normal: its start and length.
    #[inline]
    pub fn normal_item(&self, offset: usize, min_len: usize) -> Result<(usize, usize), Misfit> {
        let pointer = self.pointer(offset)?;
        let (start, len) = Self::place(pointer, offset)?;
        if !pointer.is_normal() {
            return Err(Misfit::new("a normal line pointer", offset as u64));
        }
        if len < min_len {
            return Err(Misfit::new("a tuple longer than its header", len as u64));
        }
        Ok((start, len))
    }

    /// Makes room for a heap tuple at `offset`: where its `len` bytes belong. The line pointer must be unused or the next.
    pub fn add_heap_item(&mut self, offset: usize, len: usize) -> Result<usize, Misfit> {
        if offset > HEAP_TUPLES_MAX {
            return Err(Misfit::new("at most 291 heap tuples", offset as u64));
        }
        self.add_item(offset, len, Reuse::Overwrite)
    }

    /// Makes room at an unused or the next line pointer of a page that is no heap page.
    pub fn add_item_overwriting(&mut self, offset: usize, len: usize) -> Result<usize, Misfit> {
        self.add_item(offset, len, Reuse::Overwrite)
    }

    /// Adds an index tuple at `offset`; line pointers from there on move up by one.
    pub fn insert_item(&mut self, offset: usize, tuple: &[u8]) -> Result<(), Misfit> {
        let start = self.add_item(offset, tuple.len(), Reuse::Shuffle)?;
        self.put(start, tuple)
    }

    /// Adds an index tuple after the last.
    pub fn append_item(&mut self, tuple: &[u8]) -> Result<(), Misfit> {
        self.insert_item(self.max_offset() + 1, tuple)
    }

    /// Puts `tuples`, whose length is a multiple of 8, into an empty page at once and makes `count` line pointers, which
    /// the caller then sets.
    pub fn add_item_area(&mut self, tuples: &[u8], count: usize) -> Result<(), Misfit> {
        let lower = HEADER_BYTES + count * POINTER_BYTES;
        match self.special().checked_sub(tuples.len()) {
            Some(upper) if self.max_offset() == 0 && lower <= upper => {
                self.put(upper, tuples)?;
                self.set_upper(upper);
                self.set_lower(lower);
                Ok(())
            }
            _ => Err(Misfit::new("room for the tuples", tuples.len() as u64)),
        }
    }

    fn add_item(&mut self, offset: usize, len: usize, reuse: Reuse) -> Result<usize, Misfit> {
        self.check()?;
        let limit = self.max_offset() + 1;
        if offset == 0 || offset > limit {
            return Err(Misfit::new("the next line pointer or an existing one", offset as u64));
        }
        let mut lower = self.lower();
        if offset == limit || reuse == Reuse::Shuffle {
            lower += POINTER_BYTES;
        } else {
            let pointer = self.pointer(offset)?;
            if pointer.is_used() || !pointer.is_empty() {
                return Err(Misfit::new("an unused line pointer", offset as u64));
            }
        }
        let upper = match self.upper().checked_sub(align8(len)) {
            Some(upper) if lower <= upper && len > 0 => upper,
            _ => return Err(Misfit::new("room for the tuple", len as u64)),
        };
        let slot = HEADER_BYTES + (offset - 1) * POINTER_BYTES;
        if offset < limit && reuse == Reuse::Shuffle {
            let end = HEADER_BYTES + (limit - 1) * POINTER_BYTES;
            self.bytes.copy_within(slot..end, slot + POINTER_BYTES);
        }
        self.put_u32(slot, LinePointer::normal(upper, len).0)?;
        self.set_lower(lower);
        self.set_upper(upper);
        Ok(upper)
    }

    /// Deletes an index tuple; later line pointers move down, tuples below it move up (PageIndexTupleDelete).
    pub fn delete_item(&mut self, offset: usize) -> Result<(), Misfit> {
        self.check()?;
        let (start, size) = self.stored_item(offset)?;
        let slot = HEADER_BYTES + (offset - 1) * POINTER_BYTES;
        let lower = self.lower();
        self.bytes.copy_within(slot + POINTER_BYTES..lower, slot);
        self.set_lower(lower - POINTER_BYTES);
        self.close_gap(start, size, |_| true)
    }

    /// Deletes an index tuple, keeping other line pointers in their places (PageIndexTupleDeleteNoCompact).
    pub fn delete_item_in_place(&mut self, offset: usize) -> Result<(), Misfit> {
        self.check()?;
        let (start, size) = self.stored_item(offset)?;
        if offset == self.max_offset() {
            self.set_lower(self.lower() - POINTER_BYTES);
        } else {
            self.set_pointer(offset, LinePointer::NONE)?;
        }
        self.close_gap(start, size, |pointer| !pointer.is_empty())
    }

    /// A tuple in the tuple area: its start and its length rounded up.
    fn stored_item(&self, offset: usize) -> Result<(usize, usize), Misfit> {
        let (start, len) = self.item(offset)?;
        let size = align8(len);
        if start < self.upper() || start + size > self.special() || start % 8 != 0 {
            return Err(Misfit::new("a tuple between upper and special", start as u64));
        }
        Ok((start, size))
    }

    /// Moves the tuples below `start` up over the `size` bytes there.
    fn close_gap(
        &mut self,
        start: usize,
        size: usize,
        adjust: impl Fn(LinePointer) -> bool,
    ) -> Result<(), Misfit> {
        let upper = self.upper();
        self.bytes.copy_within(upper..start, upper + size);
        self.set_upper(upper + size);
        for offset in 1..=self.max_offset() {
            let pointer = self.pointer(offset)?;
            if pointer.offset() <= start && adjust(pointer) {
                self.set_pointer(offset, pointer.moved(pointer.offset() + size))?;
            }
        }
        Ok(())
    }

    /// Deletes the tuples at `offsets`, ascending, given as little-endian pairs of bytes (PageIndexMultiDelete).
    pub fn delete_items(&mut self, offsets: &[u8]) -> Result<(), Misfit> {
        let (offsets, _) = offsets.as_chunks::<2>();
        let at = |index: usize| usize::from(u16::from_le_bytes(offsets[index]));
        if offsets.len() <= 2 {
            for index in (0..offsets.len()).rev() {
                self.delete_item(at(index))?;
            }
            return Ok(());
        }
        self.check()?;
        let max = self.max_offset();
        let mut next = 0;
        let mut kept = 0;
        for offset in 1..=max {
            if next < offsets.len() && at(next) == offset {
                next += 1;
                continue;
            }
            let pointer = self.pointer(offset)?;
            if pointer.is_empty() {
                return Err(Misfit::new("line pointers with tuples", offset as u64));
            }
            kept += 1;
            self.set_pointer(kept, pointer)?;
        }
        if next != offsets.len() {
            return Err(Misfit::new("existing line pointers in ascending order", at(next) as u64));
        }
        self.set_lower(HEADER_BYTES + kept * POINTER_BYTES);
        self.compact()
    }

    /// Puts `tuple` in the place of the one at `offset`; the line pointer keeps its state (PageIndexTupleOverwrite).
    pub fn overwrite_item(&mut self, offset: usize, tuple: &[u8]) -> Result<(), Misfit> {
        self.check()?;
        let (start, old_size) = self.stored_item(offset)?;
        let new_size = align8(tuple.len());
        let upper = self.upper();
        if tuple.is_empty() || upper + old_size < self.lower() + new_size {
            return Err(Misfit::new("room for the larger tuple", tuple.len() as u64));
        }
        if new_size != old_size {
            let moved = |at: usize| at + old_size - new_size;
            self.bytes.copy_within(upper..start, moved(upper));
            self.set_upper(moved(upper));
            for other in 1..=self.max_offset() {
                let pointer = self.pointer(other)?;
                if !pointer.is_empty() && pointer.offset() <= start && other != offset {
                    if pointer.offset() < upper {
                        return Err(Misfit::new("tuples above upper", pointer.offset() as u64));
                    }
                    self.set_pointer(other, pointer.moved(moved(pointer.offset())))?;
                }
            }
        }
        let start = start + old_size - new_size;
        let pointer = self.pointer(offset)?.moved(start).resized(tuple.len());
        self.set_pointer(offset, pointer)?;
        self.put(start, tuple)
    }

    /// Lays the tuples of the line pointers with storage out from `special` downward, in line-pointer order
    /// (compactify_tuples). Whole rounded lengths move, so padding moves with its tuple. Tuples that are in their place
    /// are not even read, and those that stay neighbours move in one piece.
    fn compact(&mut self) -> Result<(), Misfit> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let (pointers, tuples) = self.bytes.split_at_mut(lower);
        let pointers = pointers[HEADER_BYTES..].as_chunks_mut::<POINTER_BYTES>().0;
        let Some(Runs { runs, count }) = Runs::of(pointers, special) else {
            return self.compact_any_order();
        };
        let [lowest, moved] = [runs[count - 1].start, runs[count - 1].shift].map(usize::from);
        if lowest < upper {
            return Err(Misfit::new("tuples above upper", lowest as u64));
        }
        for (index, run) in runs[..count].iter().enumerate().skip(1) {
            let past =
                runs[..count].get(index + 1).map_or(pointers.len(), |next| next.first.into());
            let shift = u32::from(run.shift);
            for bytes in &mut pointers[run.first.into()..past] {
                let pointer = LinePointer(u32::from_le_bytes(*bytes));
                let shift = if pointer.is_empty() { 0 } else { shift };
                *bytes = (pointer.0 + shift).to_le_bytes();
            }
            let [start, end, shift] = [run.start, run.end, run.shift].map(usize::from);
            tuples.copy_within(start - lower..end - lower, start - lower + shift);
        }
        self.set_upper(lowest + moved);
        Ok(())
    }

    /// The same for tuples that lie in any order: they come from a copy, which is why it is a function of its own.
    #[inline(never)]
    fn compact_any_order(&mut self) -> Result<(), Misfit> {
        let (lower, old_upper, special) = (self.lower(), self.upper(), self.special());
        let mut old = [0; PAGE_BYTES];
        old[old_upper..special].copy_from_slice(&self.bytes[old_upper..special]);
        let (pointers, tuples) = self.bytes.split_at_mut(lower);
        let mut upper = special;
        for bytes in pointers[HEADER_BYTES..].as_chunks_mut::<POINTER_BYTES>().0 {
            let pointer = LinePointer(u32::from_le_bytes(*bytes));
            if pointer.is_empty() {
                continue;
            }
            let (start, size) = (pointer.offset(), align8(pointer.len()));
            if start < old_upper || start + size > special || (start | special) % 8 != 0 {
                return Err(Misfit::new("aligned tuples between upper and special", start as u64));
            }
            upper = match upper.checked_sub(size) {
                Some(upper) if upper >= lower => upper,
                _ => return Err(Misfit::new("tuples that do not overlap", start as u64)),
            };
            tuples[upper - lower..upper - lower + size].copy_from_slice(&old[start..start + size]);
            *bytes = pointer.moved(upper).0.to_le_bytes();
        }
        self.set_upper(upper);
        Ok(())
    }

    /// After pruning: compacts the tuples, cuts unused line pointers off the end (PageRepairFragmentation).
    pub fn repair_fragmentation(&mut self) -> Result<(), Misfit> {
        self.check()?;
        let lower = self.lower();
        let pointers = self.bytes[HEADER_BYTES..lower].as_chunks_mut::<POINTER_BYTES>().0;
        let max = pointers.len();
        let used = |bytes: &[u8; POINTER_BYTES]| LinePointer(u32::from_le_bytes(*bytes)).is_used();
        let last_used = pointers.iter().rposition(used).map_or(0, |index| index + 1);
        let mut unused = 0;
        for bytes in pointers {
            let used = used(bytes);
            unused += u32::from(!used);
            *bytes = if used { *bytes } else { LinePointer::NONE.0.to_le_bytes() };
        }
        self.compact()?;
        unused -= (max - last_used) as u32;
        self.set_lower(HEADER_BYTES + last_used * POINTER_BYTES);
        self.set_flag(HAS_FREE_LINES, unused > 0);
        Ok(())
    }

    /// After vacuum's second pass: cuts unused line pointers off the end but never the first
    /// (PageTruncateLinePointerArray).
    pub fn truncate_pointers(&mut self) -> Result<(), Misfit> {
        self.check()?;
        let max = self.max_offset();
        let mut last = max;
        while last > 1 && !self.pointer(last)?.is_used() {
            last -= 1;
        }
        let mut unused_left = false;
        for offset in 1..=last {
            unused_left |= !self.pointer(offset)?.is_used();
        }
        if last != max {
            self.set_lower(HEADER_BYTES + last * POINTER_BYTES);
        }
        self.set_flag(HAS_FREE_LINES, unused_left);
        Ok(())
    }
}
