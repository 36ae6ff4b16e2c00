//! Each operation as what the library offers for it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::io::OpenOptions;
use glommio::net::TcpStream;
use rustix::fs::FallocateFlags;

use super::super::buffer::Buffer;
use super::super::file::{self, FILE_MODE};
use super::super::network::{UNACKNOWLEDGED_MS_MAX, set_tcp_options};
use super::super::operation::{self, Completion, Operation};
use super::handle::Handle;
use super::polling::KnownDevices;

/// The most that one receive takes: memory that is received into is zeroed before.
const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// Carries an operation out.
pub(super) async fn carry_out(mut operation: Operation, devices: &KnownDevices) -> Completion {
    let mut opened = None;
    let result = perform(&mut operation, devices, &mut opened).await;
    let opened = opened.map(|handle| operation::Handle::Glommio(Box::new(handle)));
    Completion { result, operation, opened }
}

/// Whether an operation comes to its end whatever others do: it is never cancelled.
pub(super) fn ends_by_itself(operation: &Operation) -> bool {
    match operation {
        Operation::Open { .. }
        | Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::Flush { .. }
        | Operation::Fallocate { .. }
        | Operation::Rename { .. }
        | Operation::RemoveFile { .. }
        | Operation::Shutdown { .. } => true,
        Operation::Accept { .. }
        | Operation::Connect { .. }
        | Operation::Receive { .. }
        | Operation::Send { .. }
        | Operation::SendParts { .. } => false,
    }
}

async fn perform(
    operation: &mut Operation,
    devices: &KnownDevices,
    opened: &mut Option<Handle>,
) -> io::Result<usize> {
    match operation {
        Operation::Open { path, options } => {
            *opened = Some(open(path, options, devices).await?);
        }
        Operation::Read { file, buffer, offset_bytes } => {
            return read(of_library(file), buffer, *offset_bytes).await;
        }
        Operation::Write { file, buffer, done_bytes, offset_bytes, durable } => {
            let rest = &buffer[*done_bytes..];
            return write(of_library(file), rest, *offset_bytes, *durable).await;
        }
        Operation::Flush { file, data_only: true } => flush(of_library(file)).await?,
        Operation::Flush { file, data_only: false } => {
            // The library has fdatasync only, which need not cover the names of a directory.
            let descriptor = file.descriptor().try_clone_to_owned()?;
            blocking(move || rustix::fs::fsync(&descriptor)).await?;
        }
        Operation::Fallocate { file, offset_bytes, len_bytes } => {
            // The library's begins at the start of the file, always.
            let descriptor = file.descriptor().try_clone_to_owned()?;
            let (offset_bytes, len_bytes) = (*offset_bytes, *len_bytes);
            let flags = FallocateFlags::empty();
            blocking(move || rustix::fs::fallocate(&descriptor, flags, offset_bytes, len_bytes))
                .await?;
        }
        Operation::Rename { from, to } => {
            without_zero(from)?;
            without_zero(to)?;
            glommio::io::rename(from, to).await?;
        }
        Operation::RemoveFile { path } => {
            without_zero(path)?;
            glommio::io::remove(path).await?;
        }
        Operation::Accept { listener } => {
            let Handle::Listener(listener, _) = of_library(listener) else {
                unreachable!("only listeners accept")
            };
            *opened = Some(Handle::accepted(listener.shared_accept().await?)?);
        }
        Operation::Connect { address } => *opened = Some(connect(*address).await?),
        Operation::Receive { stream, buffer } => return receive(socket(stream), buffer).await,
        Operation::Send { stream, buffer, done_bytes } => {
            return send(socket(stream), &buffer[*done_bytes..]).await;
        }
        Operation::SendParts { stream, parts, done_bytes } => {
            let stream = socket(stream);
            let head = &parts[0][(*done_bytes).min(parts[0].len())..];
            let body = &parts[1][done_bytes.saturating_sub(parts[0].len())..];
            return Ok(send(stream, head).await? + send(stream, body).await?);
        }
        Operation::Shutdown { stream, how } => {
            let how = match how {
                Shutdown::Read => rustix::net::Shutdown::Read,
                Shutdown::Write => rustix::net::Shutdown::Write,
                Shutdown::Both => rustix::net::Shutdown::Both,
            };
            rustix::net::shutdown(stream.descriptor(), how)?;
        }
    }
    Ok(0)
}

fn of_library(handle: &operation::Handle) -> &Handle {
    match handle {
        operation::Handle::Glommio(handle) => handle,
        _ => unreachable!("handles never cross implementations"),
    }
}

fn socket(handle: &operation::Handle) -> &RefCell<TcpStream> {
    match of_library(handle) {
        Handle::Stream(stream) => stream,
        _ => unreachable!("only streams receive and send"),
    }
}

/// The library panics at what it cannot give to the kernel.
fn without_zero(path: &Path) -> io::Result<()> {
    match path.as_os_str().as_bytes().contains(&0) {
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path holds a zero byte")),
        false => Ok(()),
    }
}

/// A call that blocks, on the library's thread for them.
async fn blocking<T, E>(call: impl FnOnce() -> Result<T, E> + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    E: Send + 'static,
    io::Error: From<E>,
{
    Ok(glommio::executor().spawn_blocking(call).await?)
}

async fn open(
    path: &Path,
    options: &file::OpenOptions,
    devices: &KnownDevices,
) -> io::Result<Handle> {
    without_zero(path)?;
    let (read, write) = options.access();
    let (create, create_new, truncate) = options.creation();
    let mut library = OpenOptions::new();
    library.read(read).write(write).create(create).create_new(create_new).truncate(truncate);
    library.mode(FILE_MODE);
    if options.is_buffered() {
        return Ok(Handle::Buffered(library.buffered_open(path).await?));
    }
    devices.learn(path).await?;
    Ok(Handle::Direct(library.dma_open(path).await?))
}

async fn read(file: &Handle, buffer: &mut Buffer, offset_bytes: u64) -> io::Result<usize> {
    let bytes = match file {
        Handle::Direct(file) => file.read_at_aligned(offset_bytes, buffer.len()).await?,
        Handle::Buffered(file) => file.read_at(offset_bytes, buffer.len()).await?,
        Handle::Listener(..) | Handle::Stream(_) => unreachable!("only files are read"),
    };
    buffer[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len())
}

/// Durable once it ends, if so asked: there is no RWF_DSYNC, and a flush after the write makes as much durable and more.
async fn write(file: &Handle, rest: &[u8], offset_bytes: u64, durable: bool) -> io::Result<usize> {
    let count = match file {
        Handle::Direct(direct) => {
            let mut copy = direct.alloc_dma_buffer(rest.len());
            copy.as_bytes_mut().copy_from_slice(rest);
            direct.write_at(copy, offset_bytes).await?
        }
        Handle::Buffered(buffered) => buffered.write_at(rest.to_vec(), offset_bytes).await?,
        Handle::Listener(..) | Handle::Stream(_) => unreachable!("only files are written"),
    };
    if durable {
        flush(file).await?;
    }
    Ok(count)
}

async fn flush(file: &Handle) -> io::Result<()> {
    match file {
        Handle::Direct(file) => file.fdatasync().await?,
        Handle::Buffered(file) => file.fdatasync().await?,
        Handle::Listener(..) | Handle::Stream(_) => unreachable!("only files are flushed"),
    }
    Ok(())
}

/// The library sets no options before it connects, so it is given the time that they would allow.
async fn connect(address: SocketAddr) -> io::Result<Handle> {
    let timeout = Duration::from_millis(u64::from(UNACKNOWLEDGED_MS_MAX));
    let stream = TcpStream::connect_timeout(address, timeout).await?;
    let handle = Handle::Stream(RefCell::new(stream));
    set_tcp_options(handle.descriptor())?;
    Ok(handle)
}

/// Receives into the spare capacity, which has to hold something first.
async fn receive(stream: &RefCell<TcpStream>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let len_bytes = buffer.len();
    buffer.resize(buffer.capacity().min(len_bytes + RECEIVE_BYTES_MAX), 0);
    let spare = &mut buffer[len_bytes..];
    let result = poll_fn(|context| Pin::new(&mut *stream.borrow_mut()).poll_read(context, spare));
    let result = result.await;
    buffer.truncate(len_bytes + *result.as_ref().unwrap_or(&0));
    result
}

/// Sends everything.
async fn send(stream: &RefCell<TcpStream>, bytes: &[u8]) -> io::Result<usize> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = poll_fn(|context| Pin::new(&mut *stream.borrow_mut()).poll_write(context, rest));
        match sent.await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => rest = &rest[count..],
        }
    }
    Ok(bytes.len())
}
