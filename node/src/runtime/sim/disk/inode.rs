//! A simulated file: what a read sees, what a crash leaves, and which sectors lie between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::random::Random;
use super::contents::{Contents, Page, touched};

/// A file of a simulated disk; lives while it has a name or is open.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct Inode(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Identity among the inodes of all disks.
    number: u64,
    /// What reads see.
    current: Contents,
    /// What is sure to be there after a crash.
    durable: Contents,
    /// Sectors of `current` that are not known to be durable: page to mask.
    dirty: BTreeMap<u64, u8>,
    /// End of the space that `fallocate` reserved.
    reserved_bytes: u64,
    /// End of the furthest durable write since the last cut: a flush that began before it does not undo its length.
    durable_end_bytes: u64,
}

/// What a flush covers: everything unflushed when it was submitted.
#[derive(Debug)]
pub(super) struct Snapshot {
    inode: Inode,
    len_bytes: u64,
    sectors: BTreeMap<u64, (u8, Option<Page>)>,
}

impl Inode {
    pub(super) fn new(number: u64) -> Inode {
        Inode(Arc::new(Mutex::new(State { number, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A simulation is one thread; a panic in it ends the simulation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn number(&self) -> u64 {
        self.lock().number
    }

    pub(in crate::runtime) fn len_bytes(&self) -> u64 {
        self.lock().current.len_bytes
    }

    /// Space that the file takes on its disk.
    pub(super) fn used_bytes(&self) -> u64 {
        let state = self.lock();
        state.current.len_bytes.max(state.reserved_bytes)
    }

    pub(super) fn read(&self, offset_bytes: u64, into: &mut [u8]) -> usize {
        self.lock().current.read(offset_bytes, into)
    }

    /// A write that reached the disk's cache.
    pub(super) fn write(&self, offset_bytes: u64, bytes: &[u8]) {
        let state = &mut *self.lock();
        state.current.write(offset_bytes, bytes);
        for (page, mask) in touched(offset_bytes, bytes.len()) {
            *state.dirty.entry(page).or_default() |= mask;
        }
    }

    /// A write that reached the medium.
    pub(super) fn write_durable(&self, offset_bytes: u64, bytes: &[u8]) {
        let state = &mut *self.lock();
        state.current.write(offset_bytes, bytes);
        for (page, mask) in touched(offset_bytes, bytes.len()) {
            state.durable.put_sectors(page, mask, &state.current.page(page));
            if let Some(dirty) = state.dirty.get_mut(&page) {
                *dirty &= !mask;
            }
        }
        let end = offset_bytes + bytes.len() as u64;
        state.durable.len_bytes = state.durable.len_bytes.max(end);
        state.durable_end_bytes = state.durable_end_bytes.max(end);
    }

    /// A write that was on its way when the power went: any of its sectors may be there.
    pub(super) fn write_torn(
        &self,
        offset_bytes: u64,
        bytes: &[u8],
        random: &mut Random,
        keep: u64,
    ) {
        let state = &mut *self.lock();
        let mut written = state.current.clone();
        written.write(offset_bytes, bytes);
        let mut reached = false;
        for (page, mask) in touched(offset_bytes, bytes.len()) {
            let mask = chosen(mask, random, keep);
            reached |= mask != 0;
            state.durable.put_sectors(page, mask, &written.page(page));
        }
        if reached {
            state.durable.len_bytes = state.durable.len_bytes.max(written.len_bytes);
        }
    }

    pub(in super::super) fn set_len(&self, len_bytes: u64) {
        let mut state = self.lock();
        state.current.set_len(len_bytes);
        state.reserved_bytes = state.reserved_bytes.min(len_bytes);
        state.durable_end_bytes = state.durable_end_bytes.min(len_bytes);
    }

    pub(super) fn reserve(&self, end_bytes: u64) {
        let mut state = self.lock();
        state.reserved_bytes = state.reserved_bytes.max(end_bytes);
        let len_bytes = state.current.len_bytes.max(end_bytes);
        state.current.set_len(len_bytes);
    }

    /// Begins a flush. What is written from now on is not covered.
    pub(super) fn begin_flush(&self) -> Snapshot {
        let state = &mut *self.lock();
        let dirty = std::mem::take(&mut state.dirty);
        let sectors = dirty
            .into_iter()
            .map(|(page, mask)| (page, (mask, state.current.page(page))))
            .collect();
        Snapshot { inode: self.clone(), len_bytes: state.current.len_bytes, sectors }
    }

    /// Flips a bit on the medium and in what reads see.
    pub(super) fn flip(&self, offset_bytes: u64, bit: u8) {
        let mut state = self.lock();
        state.current.flip(offset_bytes, bit);
        state.durable.flip(offset_bytes, bit);
    }

    /// The power went: `keep` in a million unflushed sectors are there, and the length is the old or the new one.
    pub(super) fn crash(&self, random: &mut Random, keep: u64) {
        let state = &mut *self.lock();
        for (page, mask) in std::mem::take(&mut state.dirty) {
            let mask = chosen(mask, random, keep);
            state.durable.put_sectors(page, mask, &state.current.page(page));
        }
        if random.chance(keep) {
            state.durable.set_len(state.current.len_bytes);
        } else {
            state.durable.cut_past_end();
        }
        state.current = state.durable.clone();
        state.reserved_bytes = state.reserved_bytes.min(state.current.len_bytes);
    }
}

impl Snapshot {
    /// The flush succeeded.
    pub(super) fn apply(self) {
        let state = &mut *self.inode.lock();
        for (page, (mask, bytes)) in self.sectors {
            state.durable.put_sectors(page, mask, &bytes);
        }
        state.durable.set_len(self.len_bytes.max(state.durable_end_bytes));
    }

    /// The power went during the flush, or it failed: any of its sectors may have reached the medium. They are not
    /// dirty any more either: a later flush does not cover them, as with a kernel that drops what it could not write.
    pub(super) fn tear(self, random: &mut Random, keep: u64) {
        let state = &mut *self.inode.lock();
        for (page, (mask, bytes)) in self.sectors {
            state.durable.put_sectors(page, chosen(mask, random, keep), &bytes);
        }
    }
}

/// Of the sectors in a mask, those that chance keeps.
fn chosen(mask: u8, random: &mut Random, keep: u64) -> u8 {
    let sectors = (0..u8::BITS).filter(|sector| mask & (1 << sector) != 0);
    sectors.filter(|_| random.chance(keep)).fold(0, |kept, sector| kept | 1 << sector)
}
