//! A file without a device wrapper: one method per operation, each error with the path and place.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::Runtime;
use super::buffer::Buffer;
use super::device::FileIdentity;
use super::operation::{Handle, Operation};

#[derive(Debug, Clone)]
pub(super) struct RawFile {
    pub(super) runtime: Runtime,
    handle: Rc<Handle>,
    pub(super) path: Rc<Path>,
}

impl RawFile {
    pub(super) fn new(runtime: &Runtime, handle: Rc<Handle>, path: Rc<Path>) -> RawFile {
        RawFile { runtime: runtime.clone(), handle, path }
    }

    pub(super) async fn read(
        &self,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<usize>, Buffer) {
        let file = self.handle.clone();
        let completion = self.runtime.perform(Operation::Read { file, buffer, offset_bytes }).await;
        let Operation::Read { buffer, .. } = completion.operation else {
            unreachable!("a completion returns its own operation")
        };
        (completion.result.map_err(|error| self.error("read", offset_bytes, error)), buffer)
    }

    /// Writes the whole buffer, in as many operations as it takes.
    pub(super) async fn write(
        &self,
        mut buffer: Buffer,
        offset_bytes: u64,
        durable: bool,
    ) -> (io::Result<()>, Buffer) {
        let mut done_bytes = 0;
        while done_bytes < buffer.len() {
            let file = self.handle.clone();
            let offset_bytes = offset_bytes + done_bytes as u64;
            let operation = Operation::Write { file, buffer, done_bytes, offset_bytes, durable };
            let completion = self.runtime.perform(operation).await;
            let Operation::Write { buffer: returned, .. } = completion.operation else {
                unreachable!("a completion returns its own operation")
            };
            buffer = returned;
            match completion.result {
                Ok(0) => {
                    let error = io::ErrorKind::WriteZero.into();
                    return (Err(self.error("write", offset_bytes, error)), buffer);
                }
                Ok(count) => done_bytes += count,
                Err(error) => return (Err(self.error("write", offset_bytes, error)), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Writes the whole buffer and flushes, as two operations of which the second waits for the first in the kernel. A
    /// short write fails: the flush after it does not happen.
    pub(super) async fn write_linked_flush(
        &self,
        buffer: Buffer,
        offset_bytes: u64,
    ) -> (io::Result<()>, Buffer) {
        let file = self.handle.clone();
        let write = Operation::Write { file, buffer, done_bytes: 0, offset_bytes, durable: false };
        let flush = Operation::Flush { file: self.handle.clone(), data_only: true };
        let (write, flush) = self.runtime.perform_linked(write, flush);
        let written = write.await;
        let Operation::Write { buffer, .. } = written.operation else {
            unreachable!("a completion returns its own operation")
        };
        let flushed = flush.await.result;
        let result = match (written.result, flushed) {
            (Ok(count), Ok(_)) if count == buffer.len() => Ok(()),
            (Ok(_), Ok(_)) => Err(io::ErrorKind::WriteZero.into()),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        (result.map_err(|error| self.error("write", offset_bytes, error)), buffer)
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        let file = self.handle.clone();
        let completion = self.runtime.perform(Operation::Flush { file, data_only: true }).await;
        completion.result.map(drop).map_err(|error| at_path("fdatasync", &self.path, error))
    }

    pub(super) async fn fallocate(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let file = self.handle.clone();
        let operation = Operation::Fallocate { file, offset_bytes, len_bytes };
        let completion = self.runtime.perform(operation).await;
        completion.result.map(drop).map_err(|error| at_path("fallocate", &self.path, error))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        if let Handle::SimFile(inode) = &*self.handle {
            return Ok(inode.len_bytes());
        }
        let stat = rustix::fs::fstat(self.handle.descriptor()).map_err(io::Error::from);
        stat.map(|stat| stat.st_size as u64).map_err(|error| at_path("fstat", &self.path, error))
    }

    pub(super) fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let result = match (&*self.handle, self.runtime.simulated()) {
            (Handle::SimFile(inode), Some(machine)) => machine.set_len(inode, len_bytes),
            _ => rustix::fs::ftruncate(self.handle.descriptor(), len_bytes).map_err(Into::into),
        };
        result.map_err(|error| at_path("ftruncate", &self.path, error))
    }

    /// What tells the file apart from all others that are or were.
    pub(super) fn identity(&self) -> io::Result<FileIdentity> {
        FileIdentity::of_descriptor(self.handle.descriptor())
            .map_err(|error| at_path("statx", &self.path, error))
    }

    fn error(&self, what: &'static str, offset_bytes: u64, error: io::Error) -> io::Error {
        let path = self.path.display();
        io::Error::new(error.kind(), format!("{what} {path} at {offset_bytes}: {error}"))
    }
}

/// An I/O error that says what was done to which path.
pub(super) fn at_path(what: &'static str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
