//! Bytes of a simulated file, page by page; what was never written is zero.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit of sharing between the views of a file.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Unit that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
/// All sectors of a page.
pub(super) const ALL_SECTORS: u8 = u8::MAX;
const _: () = assert!(PAGE_BYTES / SECTOR_BYTES == u8::BITS as u64);

const ZEROES: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

pub(super) type Page = Arc<[u8; PAGE_BYTES as usize]>;

/// One view of a file. Pages that hold only zeroes may be missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub(super) len_bytes: u64,
    pages: BTreeMap<u64, Page>,
}

impl Contents {
    /// Copies bytes out; the count is short at the end of the file.
    pub(super) fn read(&self, offset_bytes: u64, into: &mut [u8]) -> usize {
        let available = self.len_bytes.saturating_sub(offset_bytes);
        let count = into.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        for (page, within, part) in parts(offset_bytes, count) {
            let target = &mut into[part];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
        count
    }

    /// Copies bytes in, and grows the file to hold them.
    pub(super) fn write(&mut self, offset_bytes: u64, from: &[u8]) {
        for (page, within, part) in parts(offset_bytes, from.len()) {
            let source = &from[part];
            if !self.pages.contains_key(&page) && *source == ZEROES[..source.len()] {
                continue;
            }
            let bytes = self.pages.entry(page).or_insert_with(zero_page);
            Arc::make_mut(bytes)[within..within + source.len()].copy_from_slice(source);
        }
        self.len_bytes = self.len_bytes.max(offset_bytes + from.len() as u64);
    }

    /// Cuts or extends the file.
    pub(super) fn set_len(&mut self, len_bytes: u64) {
        self.len_bytes = len_bytes;
        self.cut_past_end();
    }

    /// Forgets bytes past the end, which sectors may hold that reached the medium without the length.
    pub(super) fn cut_past_end(&mut self) {
        self.pages.split_off(&self.len_bytes.div_ceil(PAGE_BYTES));
        let within = (self.len_bytes % PAGE_BYTES) as usize;
        if within > 0
            && let Some(last) = self.pages.get_mut(&(self.len_bytes / PAGE_BYTES))
        {
            Arc::make_mut(last)[within..].fill(0);
        }
    }

    /// A page as it is, shared.
    pub(super) fn page(&self, page: u64) -> Option<Page> {
        self.pages.get(&page).cloned()
    }

    /// Takes over the sectors of a page that `mask` names, without changing the length.
    pub(super) fn put_sectors(&mut self, page: u64, mask: u8, from: &Option<Page>) {
        if mask == ALL_SECTORS {
            match from {
                Some(bytes) => self.pages.insert(page, bytes.clone()),
                None => self.pages.remove(&page),
            };
            return;
        }
        if mask == 0 {
            return;
        }
        let target = Arc::make_mut(self.pages.entry(page).or_insert_with(zero_page));
        for sector in (0..u8::BITS as usize).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * SECTOR_BYTES as usize..(sector + 1) * SECTOR_BYTES as usize;
            match from {
                Some(bytes) => target[range.clone()].copy_from_slice(&bytes[range]),
                None => target[range].fill(0),
            }
        }
    }

    /// Flips one bit, if the file reaches so far.
    pub(super) fn flip(&mut self, offset_bytes: u64, bit: u8) {
        if offset_bytes < self.len_bytes {
            let bytes = self.pages.entry(offset_bytes / PAGE_BYTES).or_insert_with(zero_page);
            Arc::make_mut(bytes)[(offset_bytes % PAGE_BYTES) as usize] ^= 1 << (bit % 8);
        }
    }
}

/// The sectors that a range touches, as (page, mask).
pub(super) fn touched(offset_bytes: u64, len_bytes: usize) -> impl Iterator<Item = (u64, u8)> {
    parts(offset_bytes, len_bytes).map(|(page, within, part)| {
        let first = within / SECTOR_BYTES as usize;
        let last = (within + part.len() - 1) / SECTOR_BYTES as usize;
        (page, (first..=last).fold(0, |mask, sector| mask | 1 << sector))
    })
}

/// A range page by page: page number, first byte within the page, and the part of the caller's bytes.
fn parts(
    offset_bytes: u64,
    len_bytes: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len_bytes {
            return None;
        }
        let position = offset_bytes + done as u64;
        let within = (position % PAGE_BYTES) as usize;
        let count = (PAGE_BYTES as usize - within).min(len_bytes - done);
        let part = done..done + count;
        done += count;
        Some((position / PAGE_BYTES, within, part))
    })
}

fn zero_page() -> Page {
    Arc::new(ZEROES)
}
