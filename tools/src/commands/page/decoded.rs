//! A page for people: header, line pointers, tuples, the access method's own space.

use std::fmt;

use firn_core::postgres::page::{HEADER_BYTES, LinePointer, PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::wal::{BlockTag, Fork};

/// Marks in the last two bytes of a special space (hash.h, gist.h, spgist_private.h).
const HASH_PAGE_ID: u16 = 0xFF80;
const GIST_PAGE_ID: u16 = 0xFF81;
const SPGIST_PAGE_ID: u16 = 0xFF82;
/// The same of BRIN: meta, revmap, regular (brin_page.h).
const BRIN_PAGE_TYPES: std::ops::RangeInclusive<u16> = 0xF091..=0xF093;
const SEQUENCE_MAGIC: u32 = 0x1717;
/// Heap tuples begin with a header of at least so many bytes, index tuples of so many.
const HEAP_HEADER_BYTES: usize = 23;
const INDEX_HEADER_BYTES: usize = 8;

/// A page as text.
pub struct Decoded {
    tag: BlockTag,
    bytes: PageBytes,
}

/// Which access method a page is of, as far as its special space tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Heap,
    Sequence,
    Btree,
    Hash,
    Gist,
    SpGist,
    Gin,
    Brin,
    Unknown,
}

impl Decoded {
    /// The page `bytes` of the block `tag`.
    pub fn new(tag: BlockTag, bytes: &PageBytes) -> Decoded {
        Decoded { tag, bytes: *bytes }
    }

    fn u16(&self, at: usize) -> u16 {
        self.bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_le_bytes(*b))
    }

    fn u32(&self, at: usize) -> u32 {
        self.bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
    }

    fn method(&self, special: usize) -> Method {
        let last = self.u16(PAGE_BYTES - 2);
        match PAGE_BYTES - special.min(PAGE_BYTES) {
            0 => Method::Heap,
            16 if last == HASH_PAGE_ID => Method::Hash,
            16 if last == GIST_PAGE_ID => Method::Gist,
            16 => Method::Btree,
            8 if last == SPGIST_PAGE_ID => Method::SpGist,
            8 if BRIN_PAGE_TYPES.contains(&last) => Method::Brin,
            8 if self.u32(special) == SEQUENCE_MAGIC => Method::Sequence,
            8 => Method::Gin,
            _ => Method::Unknown,
        }
    }

    fn special(&self, f: &mut fmt::Formatter<'_>, method: Method, at: usize) -> fmt::Result {
        let (u16, u32) = (|offset| self.u16(at + offset), |offset| self.u32(at + offset));
        match method {
            Method::Heap => Ok(()),
            Method::Sequence => writeln!(f, "sequence: magic {:#x}", u32(0)),
            Method::Btree => writeln!(
                f,
                "btree: previous {}, next {}, level {}, flags {:#06x}, cycle id {}",
                block(u32(0)),
                block(u32(4)),
                u32(8),
                u16(12),
                u16(14)
            ),
            Method::Hash => writeln!(
                f,
                "hash: previous {}, next {}, bucket {}, flags {:#06x}",
                block(u32(0)),
                block(u32(4)),
                u32(8),
                u16(12)
            ),
            Method::Gist => writeln!(
                f,
                "gist: nsn {:X}/{:X}, right {}, flags {:#06x}",
                u32(0),
                u32(4),
                block(u32(8)),
                u16(12)
            ),
            Method::SpGist => writeln!(
                f,
                "spgist: flags {:#06x}, redirections {}, placeholders {}",
                u16(0),
                u16(2),
                u16(4)
            ),
            Method::Gin => writeln!(
                f,
                "gin: right {}, max offset {}, flags {:#06x}",
                block(u32(0)),
                u16(4),
                u16(6)
            ),
            Method::Brin => writeln!(f, "brin: flags {:#06x}, type {:#06x}", u16(4), u16(6)),
            Method::Unknown => writeln!(f, "special: {}", hex(&self.bytes[at.min(PAGE_BYTES)..])),
        }
    }

    fn item(
        &self,
        f: &mut fmt::Formatter<'_>,
        method: Method,
        offset: usize,
        pointer: LinePointer,
    ) -> fmt::Result {
        let state = match pointer.0 >> 15 & 3 {
            0 => "unused",
            1 => "normal",
            2 => "redirect",
            _ => "dead",
        };
        write!(f, "{offset:>4}: {state}")?;
        if state == "redirect" {
            write!(f, " to {}", pointer.offset())?;
        }
        let (start, len) = (pointer.offset(), pointer.len());
        let Some(tuple) = self.bytes.get(start..start + len).filter(|tuple| !tuple.is_empty())
        else {
            return writeln!(f);
        };
        write!(f, " at {start}, {len} bytes: ")?;
        let (u16, u32) = (|offset| self.u16(start + offset), |offset| self.u32(start + offset));
        let tid = |at: usize| {
            let number = u32::from(u16(at)) << 16 | u32::from(u16(at + 2));
            format!("({number},{})", u16(at + 4))
        };
        match method {
            Method::Heap | Method::Sequence if len >= HEAP_HEADER_BYTES => {
                let data = usize::from(tuple[22]).clamp(HEAP_HEADER_BYTES, len);
                writeln!(
                    f,
                    "xmin {} xmax {} cid {} ctid {} infomask2 {:#06x} infomask {:#06x} hoff {} nulls {} data {}",
                    u32(0),
                    u32(4),
                    u32(8),
                    tid(12),
                    u16(18),
                    u16(20),
                    tuple[22],
                    hex(&tuple[HEAP_HEADER_BYTES..data]),
                    hex(&tuple[data..])
                )
            }
            Method::Btree | Method::Hash | Method::Gist | Method::Gin
                if len >= INDEX_HEADER_BYTES =>
            {
                writeln!(f, "tid {} info {:#06x} data {}", tid(0), u16(6), hex(&tuple[8..]))
            }
            _ => writeln!(f, "{}", hex(tuple)),
        }
    }

    /// Bits of a visibility map page: which heap blocks are all-visible (v) or all-frozen (f).
    fn visibility(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first =
            self.tag.block * firn_core::postgres::redo::visibility_map::HEAP_BLOCKS_PER_PAGE;
        for (index, &byte) in (0u32..).zip(&self.bytes[HEADER_BYTES..]) {
            for pair in 0..4 {
                let text = match byte >> (2 * pair) & 3 {
                    0 => continue,
                    1 => "all-visible",
                    2 => "all-frozen",
                    _ => "all-visible, all-frozen",
                };
                writeln!(f, "heap block {}: {text}", first + index * 4 + pair)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.tag)?;
        if self.bytes.iter().all(|&byte| byte == 0) {
            return writeln!(f, "all zero: no page");
        }
        let mut bytes = self.bytes;
        let page = Page::new(&mut bytes);
        let size = self.u16(18);
        writeln!(
            f,
            "lsn {}, checksum {:#06x}, flags {:#06x}, lower {}, upper {}, special {}, size {} version {}, prune xid {}",
            page.lsn(),
            page.checksum(),
            page.flags(),
            page.lower(),
            page.upper(),
            page.special(),
            size & 0xFF00,
            size & 0xFF,
            page.prune_xid()
        )?;
        if self.tag.fork == Fork::VisibilityMap {
            return self.visibility(f);
        }
        let method = self.method(page.special());
        self.special(f, method, page.special())?;
        for offset in 1..=page.max_offset() {
            match page.pointer(offset) {
                Ok(pointer) => self.item(f, method, offset, pointer)?,
                Err(misfit) => return writeln!(f, "{misfit}"),
            }
        }
        Ok(())
    }
}

/// A block number, or that there is none.
fn block(number: u32) -> String {
    match number {
        u32::MAX => "none".to_string(),
        number => number.to_string(),
    }
}

/// Two digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
