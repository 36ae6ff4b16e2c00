//! The volatile device: unflushed writes stay in this process's memory.
//!
//! Invariants: the file beneath gets only bytes whose flush was asked for; a read gives, byte by byte, the latest write
//! that completed before the read began, or a later one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

use super::super::buffer::Buffer;
use super::super::raw_file::RawFile;
use super::super::sync::Notify;
use super::extents::Extents;

/// Unflushed bytes a shard holds at most; more than any shard writes between two flushes. Past it writes fail as on a
/// full disk.
const HELD_BYTES_MAX: usize = 1 << 30;

/// What tells files apart, also when a removed file's inode number comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    /// When the inode was made: seconds and nanoseconds.
    birth: (i64, u32),
}

impl FileIdentity {
    /// Of an open file.
    pub(in super::super) fn of_descriptor(descriptor: impl AsFd) -> io::Result<FileIdentity> {
        Ok(Self::of(&statx(descriptor, c"", AtFlags::EMPTY_PATH, Self::FIELDS)?))
    }

    /// Of a path's file, if it has no other name.
    pub(in super::super) fn of_only_name(path: &Path) -> Option<FileIdentity> {
        let statx = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, Self::FIELDS).ok()?;
        (statx.stx_nlink == 1).then(|| Self::of(&statx))
    }

    const FIELDS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    fn of(statx: &Statx) -> FileIdentity {
        FileIdentity {
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            inode: statx.stx_ino,
            birth: (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec),
        }
    }
}

/// A shard's files with unflushed bytes; they stay here when the last handle is closed.
#[derive(Debug, Default)]
pub(in super::super) struct VolatileFiles(RefCell<BTreeMap<FileIdentity, Rc<VolatileFile>>>);

impl VolatileFiles {
    /// The file of an identity.
    pub(in super::super) fn get(&self, identity: FileIdentity) -> Rc<VolatileFile> {
        let mut files = self.0.borrow_mut();
        files.retain(|_, file| Rc::strong_count(file) > 1 || !file.extents.borrow().is_empty());
        files.entry(identity).or_default().clone()
    }

    /// Forgets a file whose last name was removed.
    pub(in super::super) fn forget(&self, identity: FileIdentity) {
        let file = self.0.borrow_mut().remove(&identity);
        drop(file);
    }

    fn held_bytes(&self) -> usize {
        self.0.borrow().values().map(|file| file.extents.borrow().len_bytes()).sum()
    }
}

/// One file's unflushed bytes.
#[derive(Debug, Default)]
pub(in super::super) struct VolatileFile {
    extents: RefCell<Extents>,
    flushing: Cell<bool>,
    flushed: Notify,
}

impl VolatileFile {
    pub(in super::super) async fn read(
        &self,
        raw: &RawFile,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<usize>, Buffer) {
        let range = offset_bytes..offset_bytes + buffer.len() as u64;
        // A flush may move bytes from here to the file while the file is read: those of before and those of after are
        // both laid over it.
        let before = self.extents.borrow().copy(range.clone());
        let (result, mut buffer) = raw.read(buffer, offset_bytes).await;
        let mut count = match result {
            Ok(count) => count,
            Err(error) => return (Err(error), buffer),
        };
        buffer[count..].fill(0);
        let after = self.extents.borrow().copy(range);
        for (at, bytes) in before.iter().chain(&after) {
            buffer[*at..at + bytes.len()].copy_from_slice(bytes);
            count = count.max(at + bytes.len());
        }
        (Ok(count), buffer)
    }

    pub(in super::super) fn write(
        &self,
        files: &VolatileFiles,
        bytes: &[u8],
        offset_bytes: u64,
    ) -> io::Result<()> {
        if files.held_bytes() + bytes.len() > HELD_BYTES_MAX {
            let text =
                format!("the volatile device holds at most {HELD_BYTES_MAX} unflushed bytes");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.extents.borrow_mut().insert(offset_bytes, bytes);
        Ok(())
    }

    pub(in super::super) async fn write_durable(
        &self,
        raw: &RawFile,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<()>, Buffer) {
        // A flush under way may yet write older bytes of this range.
        self.wait_for_flush().await;
        let version = self.extents.borrow().version();
        let range = offset_bytes..offset_bytes + buffer.len() as u64;
        let (result, buffer) = raw.write(buffer, offset_bytes, true).await;
        if result.is_ok() {
            self.extents.borrow_mut().remove(range, version);
        }
        (result, buffer)
    }

    pub(in super::super) async fn flush(&self, raw: &RawFile) -> io::Result<()> {
        self.wait_for_flush().await;
        self.flushing.set(true);
        let _flushing = Flushing(self);
        let (version, pieces) = {
            let extents = self.extents.borrow();
            let pieces = extents.iter().map(|(offset_bytes, bytes)| {
                let mut buffer = Buffer::zeroed(bytes.len());
                buffer.copy_from_slice(bytes);
                (offset_bytes, buffer)
            });
            (extents.version(), pieces.collect::<Vec<_>>())
        };
        for (offset_bytes, buffer) in pieces {
            raw.write(buffer, offset_bytes, false).await.0?;
        }
        raw.flush().await?;
        self.extents.borrow_mut().remove(0..u64::MAX, version);
        Ok(())
    }

    pub(in super::super) fn len(&self, raw: &RawFile) -> io::Result<u64> {
        Ok(raw.len()?.max(self.extents.borrow().end()))
    }

    pub(in super::super) fn set_len(&self, raw: &RawFile, len_bytes: u64) -> io::Result<()> {
        raw.set_len(len_bytes)?;
        self.extents.borrow_mut().remove(len_bytes..u64::MAX, u64::MAX);
        Ok(())
    }

    async fn wait_for_flush(&self) {
        while self.flushing.get() {
            self.flushed.notified().await;
        }
    }
}

/// Ends a flush, also one whose future is dropped.
struct Flushing<'a>(&'a VolatileFile);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.set(false);
        self.0.flushed.notify_all();
    }
}
