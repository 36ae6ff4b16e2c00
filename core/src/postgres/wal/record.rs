//! What a record says about itself: header, block references, images, data.
//!
//! A [`Layout`] is where the parts of one record lie; it is reused from record to record, so parsing allocates
//! nothing and copies nothing but numbers. [`Record`] is a layout together with the bytes.

use super::framing::RECORD_HEADER_BYTES;
use super::image::{Compression, Image};
use super::{BlockTag, Fork, RelationId, WalVersion};
use crate::postgres::bytes::{Misfit, Reader};
use crate::types::Lsn;

/// Block references of one record at most: ids 0 to 32 (XLR_MAX_BLOCK_ID).
pub const BLOCKS_MAX: usize = 33;

const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_LONG_DATA: u8 = 254;
const ID_SHORT_DATA: u8 = 255;

const BLOCK_FORK_MASK: u8 = 0x0F;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_WILL_INIT: u8 = 0x40;
const BLOCK_SAME_RELATION: u8 = 0x80;

/// Where the parts of a record lie in its bytes.
#[derive(Debug, Clone)]
pub struct Layout {
    blocks: [BlockLayout; BLOCKS_MAX],
    block_count: usize,
    /// Where the data of the first block begin, or the main data without any: what the sub-headers describe.
    payload_start: u32,
    /// Where the main data begin, counted from there.
    main_start: u32,
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct BlockLayout {
    id: u8,
    flags: u8,
    tag: BlockTag,
    image: Option<ImageLayout>,
    /// Counted from the payload's start; the block's data follow its image.
    image_start: u32,
    data_len: u16,
}

impl BlockLayout {
    fn image_len(&self) -> u32 {
        self.image.map_or(0, |image| image.len.into())
    }
}

#[derive(Debug, Clone, Copy)]
struct ImageLayout {
    len: u16,
    hole_offset: u16,
    hole_len: u16,
    compression: Compression,
    apply: bool,
}

const EMPTY_BLOCK: BlockLayout = BlockLayout {
    id: 0,
    flags: 0,
    tag: BlockTag {
        relation: RelationId { tablespace: 0, database: 0, number: 0 },
        fork: Fork::Main,
        block: 0,
    },
    image: None,
    image_start: 0,
    data_len: 0,
};

impl Default for Layout {
    fn default() -> Layout {
        Layout::new()
    }
}

impl Layout {
    /// The layout of no record yet.
    pub const fn new() -> Layout {
        Layout {
            blocks: [EMPTY_BLOCK; BLOCKS_MAX],
            block_count: 0,
            payload_start: 0,
            main_start: 0,
            origin: None,
            toplevel_xid: None,
        }
    }

    /// Finds the parts of the record whose bytes, header included, are `bytes`.
    pub fn parse(&mut self, bytes: &[u8], version: WalVersion) -> Result<(), Misfit> {
        self.block_count = 0;
        self.origin = None;
        self.toplevel_xid = None;
        let mut reader = Reader::new(bytes);
        reader.skip(RECORD_HEADER_BYTES)?;
        // What the blocks' sub-headers announce, and the main data's.
        let (mut announced, mut main_len) = (0u32, 0);
        while reader.len() > announced as usize {
            match reader.u8()? {
                ID_SHORT_DATA => {
                    main_len = u32::from(reader.u8()?);
                    break;
                }
                ID_LONG_DATA => {
                    main_len = reader.u32()?;
                    break;
                }
                ID_ORIGIN => self.origin = Some(reader.u16()?),
                ID_TOPLEVEL_XID => self.toplevel_xid = Some(reader.u32()?),
                id if usize::from(id) < BLOCKS_MAX => {
                    let (before, rest) = self.blocks.split_at_mut(self.block_count);
                    let last = before.last();
                    if last.is_some_and(|last| last.id >= id) {
                        return Err(Misfit::new("ascending block ids", id.into()));
                    }
                    let block = &mut rest[0];
                    parse_block(block, id, last, &mut reader, version)?;
                    block.image_start = announced;
                    announced += block.image_len() + u32::from(block.data_len);
                    self.block_count += 1;
                }
                id => return Err(Misfit::new("a known sub-header id", id.into())),
            }
        }
        let rest = reader.len();
        if rest as u64 != u64::from(announced) + u64::from(main_len) {
            return Err(Misfit::new("as much data as the sub-headers announce", rest as u64));
        }
        self.payload_start = (bytes.len() - rest) as u32;
        self.main_start = announced;
        Ok(())
    }
}

/// Parses a block's sub-header after its id; `last` is the block before it.
#[inline]
fn parse_block(
    block: &mut BlockLayout,
    id: u8,
    last: Option<&BlockLayout>,
    reader: &mut Reader<'_>,
    version: WalVersion,
) -> Result<(), Misfit> {
    let [flags, len_0, len_1] = reader.array()?;
    let data_len = u16::from_le_bytes([len_0, len_1]);
    if (data_len != 0) != (flags & BLOCK_HAS_DATA != 0) {
        return Err(Misfit::new("block data exactly when its flag says so", data_len.into()));
    }
    let fork = Fork::from_number(flags & BLOCK_FORK_MASK)
        .ok_or(Misfit::new("fork 0 to 3", (flags & BLOCK_FORK_MASK).into()))?;
    block.image = match flags & BLOCK_HAS_IMAGE {
        0 => None,
        _ => Some(parse_image(reader, version)?),
    };
    let relation = if flags & BLOCK_SAME_RELATION == 0 {
        let mut numbers = Reader::new(reader.take(12)?);
        RelationId { tablespace: numbers.u32()?, database: numbers.u32()?, number: numbers.u32()? }
    } else {
        last.ok_or(Misfit::new("a relation in the first block reference", id.into()))?.tag.relation
    };
    block.tag = BlockTag { relation, fork, block: reader.u32()? };
    (block.id, block.flags, block.data_len) = (id, flags, data_len);
    Ok(())
}

fn parse_image(reader: &mut Reader<'_>, version: WalVersion) -> Result<ImageLayout, Misfit> {
    let len = reader.u16()?;
    let hole_offset = reader.u16()?;
    let info = reader.u8()?;
    let has_hole = info & 0x01 != 0;
    let (apply, compression) = if version == WalVersion::V14 {
        (info & 0x04 != 0, if info & 0x02 != 0 { Compression::Pglz } else { Compression::None })
    } else {
        let compression = match info & 0x1C {
            0 => Compression::None,
            0x04 => Compression::Pglz,
            0x08 => Compression::Lz4,
            0x10 => Compression::Zstd,
            _ => return Err(Misfit::new("one image compression method", info.into())),
        };
        (info & 0x02 != 0, compression)
    };
    let hole_len = match (compression, has_hole) {
        (Compression::None, _) => 8192u16.saturating_sub(len),
        (_, true) => reader.u16()?,
        (_, false) => 0,
    };
    let consistent = if has_hole {
        // Neon's computes log an all-zero page as a hole that is the whole page; stock servers never begin one at 0.
        (hole_offset > 0 || len == 0) && hole_len > 0 && len < 8192
    } else {
        hole_offset == 0 && (compression != Compression::None || len == 8192)
    };
    if !consistent || len > 8192 || usize::from(hole_offset) + usize::from(hole_len) > 8192 {
        return Err(Misfit::new("an image length and hole that fit a page", len.into()));
    }
    Ok(ImageLayout { len, hole_offset, hole_len, compression, apply })
}

/// One record, as it lies in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where the record starts.
    pub start: Lsn,
    /// Where it ends: the LSN of the pages it changed.
    pub end: Lsn,
    /// Which Postgres wrote it.
    pub version: WalVersion,
    bytes: &'a [u8],
    layout: &'a Layout,
}

impl<'a> Record<'a> {
    /// The record whose bytes, header included, are `bytes`, with `layout` parsed from them.
    pub fn parse(
        bytes: &'a [u8],
        layout: &'a mut Layout,
        version: WalVersion,
        start: Lsn,
        end: Lsn,
    ) -> Result<Record<'a>, Misfit> {
        layout.parse(bytes, version)?;
        Ok(Record { start, end, version, bytes, layout })
    }

    /// The record whose parts `layout` has found before.
    #[inline]
    pub(super) fn of_parsed(
        bytes: &'a [u8],
        layout: &'a Layout,
        version: WalVersion,
        start: Lsn,
        end: Lsn,
    ) -> Record<'a> {
        Record { start, end, version, bytes, layout }
    }

    /// Where its parts lie.
    pub(super) fn layout(&self) -> &'a Layout {
        self.layout
    }

    #[inline]
    fn u32_at(&self, offset: usize) -> u32 {
        let field =
            self.bytes[offset..].first_chunk().expect("parsing checked the header's length");
        u32::from_le_bytes(*field)
    }

    /// Length in bytes, header included.
    pub fn total_len(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The bytes, header included, page headers left out.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The transaction that wrote it; 0 when none.
    pub fn xid(&self) -> u32 {
        self.u32_at(4)
    }

    /// Start of the record before it.
    pub fn previous(&self) -> Lsn {
        Lsn(u64::from(self.u32_at(8)) | u64::from(self.u32_at(12)) << 32)
    }

    /// Operation and flags, as the resource manager defines them; the low four bits are not its own.
    pub fn info(&self) -> u8 {
        self.bytes[16]
    }

    /// The part of [`info`](Self::info) that is the resource manager's own.
    pub fn operation(&self) -> u8 {
        self.info() & 0xF0
    }

    /// Number of the resource manager.
    pub fn resource_manager(&self) -> u8 {
        self.bytes[17]
    }

    /// What the sub-headers describe: images and data of the blocks, main data.
    #[inline]
    fn payload(&self) -> &'a [u8] {
        &self.bytes[self.layout.payload_start as usize..]
    }

    /// Data that belongs to no block.
    pub fn main(&self) -> &'a [u8] {
        &self.payload()[self.layout.main_start as usize..]
    }

    /// Replication origin.
    pub fn origin(&self) -> Option<u16> {
        self.layout.origin
    }

    /// Top-level transaction, in the first record of a subtransaction with `wal_level=logical`.
    pub fn toplevel_xid(&self) -> Option<u32> {
        self.layout.toplevel_xid
    }

    /// The block references, ids ascending.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Block<'a>> + use<'a> {
        let payload = self.payload();
        self.layout.blocks[..self.layout.block_count]
            .iter()
            .map(move |block| Block { block, payload })
    }

    /// The block reference with this id.
    #[inline]
    pub fn block(&self, id: u8) -> Option<Block<'a>> {
        self.layout.blocks[..self.layout.block_count]
            .iter()
            .find(|block| block.id == id)
            .map(|block| Block { block, payload: self.payload() })
    }

    /// The block that reference `id` names, or a misfit that says it must exist.
    pub fn expect_block(&self, id: u8) -> Result<Block<'a>, Misfit> {
        self.block(id).ok_or(Misfit::new("a block reference with another id", id.into()))
    }
}

/// One block reference of a record.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    block: &'a BlockLayout,
    payload: &'a [u8],
}

impl<'a> Block<'a> {
    /// Its id within the record; what it means is up to the resource manager.
    pub fn id(&self) -> u8 {
        self.block.id
    }

    /// Which block it is.
    pub fn tag(&self) -> BlockTag {
        self.block.tag
    }

    /// The block's number within its fork.
    pub fn number(&self) -> u32 {
        self.block.tag.block
    }

    /// Whether redo makes the page anew: what it held before does not matter.
    pub fn will_init(&self) -> bool {
        self.block.flags & BLOCK_WILL_INIT != 0
    }

    /// The block's own data.
    pub fn data(&self) -> &'a [u8] {
        let start = (self.block.image_start + self.block.image_len()) as usize;
        &self.payload[start..start + usize::from(self.block.data_len)]
    }

    /// The page image, whether it is to be restored or only to be compared.
    pub fn image(&self) -> Option<Image<'a>> {
        let start = self.block.image_start as usize;
        self.block.image.map(|image| Image {
            bytes: &self.payload[start..start + usize::from(image.len)],
            hole_offset: image.hole_offset,
            hole_len: image.hole_len,
            compression: image.compression,
            apply: image.apply,
        })
    }
}
