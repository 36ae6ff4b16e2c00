//! Memory of many pages, on huge pages of the processor where the kernel has them.
//!
//! A record touches a page anywhere in memory. With 4 KiB pages the processor must look up where each of them is, which
//! takes longer than the redo of many a record.

use anyhow::{Context, Result};
use firn_core::postgres::page::{PAGE_BYTES, PageBytes};
use memmap2::{Advice, MmapMut, MmapOptions};

/// Address space that is reserved; memory comes with the pages that are added.
const PAGES_MAX: usize = 2 << 20;

/// Pages one after another that stay where they are.
pub struct PageMemory {
    memory: MmapMut,
    count: usize,
}

impl PageMemory {
    /// No page yet.
    pub fn reserve() -> Result<PageMemory> {
        let memory = MmapOptions::new()
            .len(PAGES_MAX * PAGE_BYTES)
            .no_reserve_swap()
            .map_anon()
            .context("cannot reserve address space for pages")?;
        // A kernel without huge pages says no: then they are small.
        let _ = memory.advise(Advice::HugePage);
        Ok(PageMemory { memory, count: 0 })
    }

    /// Adds a page of zeros: its number.
    pub fn add(&mut self) -> u32 {
        assert!(self.count < PAGES_MAX, "a recording has at most {PAGES_MAX} pages");
        self.count += 1;
        (self.count - 1) as u32
    }

    /// All pages.
    #[inline]
    pub fn all(&self) -> &[PageBytes] {
        &self.memory.as_chunks().0[..self.count]
    }

    /// All pages.
    #[inline]
    pub fn all_mut(&mut self) -> &mut [PageBytes] {
        &mut self.memory.as_chunks_mut().0[..self.count]
    }

    /// One page.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut PageBytes> {
        self.all_mut().get_mut(number as usize)
    }
}
