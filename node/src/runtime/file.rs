//! Files: direct I/O on owned aligned buffers.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Runtime;
use super::buffer::{ALIGNMENT_BYTES, Buffer};
use super::device::{Device, VolatileFile, hold};
use super::operation::Operation;
use super::raw_file::{RawFile, at_path};

/// Permissions of files that Firn makes: tenants' data is nobody else's.
pub(super) const FILE_MODE: u32 = 0o600;

/// How to open a file. Without [`OpenOptions::buffered`] it is for direct I/O.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    create: bool,
    create_new: bool,
    truncate: bool,
    buffered: bool,
}

impl OpenOptions {
    /// For reading an existing file.
    pub fn read() -> Self {
        Self { read: true, ..Self::default() }
    }

    /// For reading and writing an existing file.
    pub fn read_write() -> Self {
        Self { read: true, write: true, ..Self::default() }
    }

    /// Makes the file if there is none. Its directory entry survives a crash after `sync_dir` only.
    pub fn create(self) -> Self {
        Self { create: true, ..self }
    }

    /// Makes the file, or fails with `AlreadyExists`.
    pub fn create_new(self) -> Self {
        Self { create_new: true, ..self }
    }

    /// Empties an existing file.
    pub fn truncate(self) -> Self {
        Self { truncate: true, ..self }
    }

    /// Through the kernel's page cache: any offset and length goes, for small and rarely read files.
    pub fn buffered(self) -> Self {
        Self { buffered: true, ..self }
    }

    /// Whether to read and to write the file.
    pub(super) fn access(&self) -> (bool, bool) {
        (self.read, self.write)
    }

    /// Whether the kernel's page cache is used.
    pub(super) fn is_buffered(&self) -> bool {
        self.buffered
    }

    /// Whether to make the file, to insist on making it, and to empty it.
    pub(super) fn creation(&self) -> (bool, bool, bool) {
        (self.create, self.create_new, self.truncate)
    }

    pub(super) fn open_flags(&self) -> i32 {
        let mut flags = libc::O_CLOEXEC;
        flags |= match (self.read, self.write) {
            (true, true) => libc::O_RDWR,
            (false, true) => libc::O_WRONLY,
            (_, false) => libc::O_RDONLY,
        };
        for (wanted, flag) in [
            (self.create || self.create_new, libc::O_CREAT),
            (self.create_new, libc::O_EXCL),
            (self.truncate, libc::O_TRUNC),
            (!self.buffered, libc::O_DIRECT),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        flags
    }
}

/// An open file of one shard. Clones are the same open file, which closes when the last clone and the last operation
/// on it are gone.
#[derive(Debug, Clone)]
pub struct File {
    raw: RawFile,
    device: FileDevice,
    buffered: bool,
}

/// The file's side of the shard's [`Device`].
#[derive(Debug, Clone)]
enum FileDevice {
    Real,
    Modelled { write: Duration, read: Duration },
    Volatile(Rc<VolatileFile>),
}

impl Runtime {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of open(2); the error names the path.
    pub async fn open(&self, path: impl AsRef<Path>, options: OpenOptions) -> io::Result<File> {
        let path: PathBuf = path.as_ref().into();
        let opening = self.perform(Operation::Open { path: path.clone(), options });
        let handle = opening.await.into_opened().map_err(|error| at_path("open", &path, error))?;
        let raw = RawFile::new(self, handle, path.into());
        let device = match self.0.device {
            Device::Real => FileDevice::Real,
            Device::Modelled { write, read } => FileDevice::Modelled { write, read },
            Device::Volatile => {
                let volatile = self.0.volatile_files.get(raw.identity()?);
                if options.truncate {
                    volatile.set_len(&raw, 0)?;
                }
                FileDevice::Volatile(volatile)
            }
        };
        Ok(File { raw, device, buffered: options.buffered })
    }
}

impl File {
    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.raw.path
    }

    /// Reads `buffer.len()` bytes at an offset; fewer only at the end of the file. The count comes back with the buffer,
    /// whose length does not change.
    ///
    /// # Errors
    /// Those of read(2).
    ///
    /// # Panics
    /// If offset or length are not multiples of [`ALIGNMENT_BYTES`] on a direct file.
    pub async fn read_at(&self, buffer: Buffer, offset_bytes: u64) -> (io::Result<usize>, Buffer) {
        self.assert_aligned(buffer.len(), offset_bytes);
        match &self.device {
            FileDevice::Real => self.raw.read(buffer, offset_bytes).await,
            FileDevice::Modelled { read, .. } => {
                hold(&self.raw.runtime, *read, self.raw.read(buffer, offset_bytes)).await
            }
            FileDevice::Volatile(volatile) => volatile.read(&self.raw, buffer, offset_bytes).await,
        }
    }

    /// Writes the whole buffer at an offset. Not durable before [`Self::fdatasync`].
    ///
    /// # Errors
    /// Those of write(2); any part of the range may have been written then.
    ///
    /// # Panics
    /// As [`Self::read_at`].
    pub async fn write_at(&self, buffer: Buffer, offset_bytes: u64) -> (io::Result<()>, Buffer) {
        self.assert_aligned(buffer.len(), offset_bytes);
        match &self.device {
            FileDevice::Real => self.raw.write(buffer, offset_bytes, false).await,
            FileDevice::Modelled { write, .. } => {
                hold(&self.raw.runtime, *write, self.raw.write(buffer, offset_bytes, false)).await
            }
            FileDevice::Volatile(volatile) => {
                let files = &self.raw.runtime.0.volatile_files;
                (volatile.write(files, &buffer, offset_bytes), buffer)
            }
        }
    }

    /// Writes the whole buffer at an offset and completes when it is durable (RWF_DSYNC: the bytes and the metadata
    /// needed to read them). Says nothing about other writes, completed or not.
    ///
    /// # Errors
    /// As [`Self::write_at`]. After an error the range is in doubt until it was read back after a restart: a failed
    /// durable write is never retried.
    ///
    /// # Panics
    /// As [`Self::read_at`].
    pub async fn write_durable_at(
        &self,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<()>, Buffer) {
        self.assert_aligned(buffer.len(), offset_bytes);
        match &self.device {
            FileDevice::Real => self.raw.write(buffer, offset_bytes, true).await,
            FileDevice::Modelled { write, .. } => {
                hold(&self.raw.runtime, *write, self.raw.write(buffer, offset_bytes, true)).await
            }
            FileDevice::Volatile(volatile) => {
                volatile.write_durable(&self.raw, buffer, offset_bytes).await
            }
        }
    }

    /// As [`Self::write_durable_at`], by a write and an fdatasync that the kernel starts when the write has succeeded.
    /// For baselines: it costs one operation more.
    pub(super) async fn write_linked_fdatasync_at(
        &self,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<()>, Buffer) {
        self.assert_aligned(buffer.len(), offset_bytes);
        let linked = self.raw.write_linked_flush(buffer, offset_bytes);
        match &self.device {
            FileDevice::Modelled { write, .. } => hold(&self.raw.runtime, *write, linked).await,
            FileDevice::Real | FileDevice::Volatile(_) => linked.await,
        }
    }

    /// Makes completed writes durable, with the metadata needed to read them.
    ///
    /// # Errors
    /// Those of fdatasync(2). After one, everything written since the last success is in doubt: never retry.
    pub async fn fdatasync(&self) -> io::Result<()> {
        match &self.device {
            FileDevice::Real => self.raw.flush().await,
            FileDevice::Modelled { write, .. } => {
                hold(&self.raw.runtime, *write, self.raw.flush()).await
            }
            FileDevice::Volatile(volatile) => volatile.flush(&self.raw).await,
        }
    }

    /// Reserves space for a range, which reads as zeroes; the file grows to hold it.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub async fn fallocate(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        self.raw.fallocate(offset_bytes, len_bytes).await
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub async fn len(&self) -> io::Result<u64> {
        match &self.device {
            FileDevice::Volatile(volatile) => volatile.len(&self.raw),
            _ => self.raw.len(),
        }
    }

    /// Whether the file holds no byte.
    ///
    /// # Errors
    /// As [`Self::len`].
    pub async fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Cuts the file, or extends it with a hole that reads as zeroes.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    pub async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        match &self.device {
            FileDevice::Volatile(volatile) => volatile.set_len(&self.raw, len_bytes),
            _ => self.raw.set_len(len_bytes),
        }
    }

    fn assert_aligned(&self, len_bytes: usize, offset_bytes: u64) {
        let aligned = len_bytes.is_multiple_of(ALIGNMENT_BYTES)
            && offset_bytes.is_multiple_of(ALIGNMENT_BYTES as u64);
        assert!(
            aligned || self.buffered,
            "direct I/O of {len_bytes} bytes at {offset_bytes} of {} is not aligned",
            self.raw.path.display()
        );
    }
}
