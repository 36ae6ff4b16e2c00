//! Page images in records: with a hole left out, compressed or not.

use super::pglz;
use crate::postgres::bytes::Misfit;
use crate::postgres::page::PageBytes;

/// How an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Postgres' own LZ.
    Pglz,
    /// A raw LZ4 block.
    Lz4,
    /// A zstd frame.
    Zstd,
}

/// A page image as it lies in a record.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) hole_offset: u16,
    pub(super) hole_len: u16,
    pub(super) compression: Compression,
    pub(super) apply: bool,
}

/// What decompression needs and keeps, so that restoring an image allocates nothing after the first zstd image.
#[derive(Default)]
pub struct ImageScratch {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for ImageScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageScratch").finish_non_exhaustive()
    }
}

impl Image<'_> {
    /// Whether redo puts it in the page's place. Otherwise it is the page after redo, there only to be compared
    /// (`wal_consistency_checking`).
    pub fn applies(&self) -> bool {
        self.apply
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The bytes of the page that it leaves out: zeros.
    pub fn hole(&self) -> std::ops::Range<usize> {
        let start = usize::from(self.hole_offset);
        start..start + usize::from(self.hole_len)
    }

    /// Bytes that it takes in the record.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the page; its hole is zero.
    pub fn restore(&self, page: &mut PageBytes, scratch: &mut ImageScratch) -> Result<(), Misfit> {
        let (hole_offset, hole_len) = (usize::from(self.hole_offset), usize::from(self.hole_len));
        let packed_len = page.len() - hole_len;
        let packed = &mut page[..packed_len];
        let written = match self.compression {
            Compression::None => {
                packed.copy_from_slice(self.bytes);
                Some(packed_len)
            }
            Compression::Pglz => pglz::decompress(self.bytes, packed).ok().map(|()| packed_len),
            Compression::Lz4 => lz4_flex::block::decompress_into(self.bytes, packed).ok(),
            Compression::Zstd => {
                let decompressor = match &mut scratch.zstd {
                    Some(decompressor) => decompressor,
                    empty => empty.insert(
                        zstd::bulk::Decompressor::new()
                            .map_err(|_| Misfit::new("memory for zstd", 0))?,
                    ),
                };
                decompressor.decompress_to_buffer(self.bytes, packed).ok()
            }
        };
        if written != Some(packed_len) {
            return Err(Misfit::new(
                "a compressed image of the announced length",
                self.bytes.len() as u64,
            ));
        }
        page.copy_within(hole_offset..packed_len, hole_offset + hole_len);
        page[hole_offset..hole_offset + hole_len].fill(0);
        Ok(())
    }
}
