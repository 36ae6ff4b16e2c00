//! From an operation to the ring's entry: the only place that gives the kernel addresses.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use rustix::net::{AddressFamily, SocketFlags, SocketType, addr::SocketAddrArg};

use super::super::file::FILE_MODE;
use super::super::network::set_tcp_options;
use super::super::operation::{Completion, Handle, Operation};

/// Ring operations count bytes in 32 bits; the kernel itself stops at 2 GiB less a page.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// An operation in flight, with what the kernel's form of it points to. Nothing in it moves in memory while the kernel
/// holds addresses: all of them are of heap blocks that it owns.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) operation: Operation,
    /// Paths of the operation.
    _paths: [Option<CString>; 2],
    /// The address that `Connect` goes to, in the kernel's form.
    _address: Option<Box<AddressBytes>>,
    /// What `SendParts` points to besides its bytes.
    _message: Option<Box<Message>>,
    /// The socket that `Connect` will give out.
    socket: Option<OwnedFd>,
}

#[derive(Debug)]
#[repr(C, align(8))]
struct AddressBytes {
    bytes: [u8; size_of::<libc::sockaddr_storage>()],
    len_bytes: u32,
}

/// The kernel's form of a message in two parts.
#[derive(Debug)]
struct Message {
    header: libc::msghdr,
    vectors: [libc::iovec; 2],
}

impl Message {
    /// What is left of the parts after `done_bytes`. Its addresses are of the parts' own heap blocks and of the box.
    fn new(parts: &[Bytes; 2], done_bytes: usize) -> Box<Message> {
        let mut skipped = done_bytes;
        let vectors = parts.each_ref().map(|part| {
            let rest = &part[skipped.min(part.len())..];
            skipped -= part.len() - rest.len();
            libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() }
        });
        // SAFETY: a message header is integers and pointers, for which zero means "none".
        let header = unsafe { std::mem::zeroed() };
        let mut message = Box::new(Message { header, vectors });
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = message.vectors.len() as _;
        message
    }
}

/// Makes the ring entry of an operation; errors are those of making a socket, and of paths that hold a zero byte.
pub(super) fn prepare(mut operation: Operation) -> Result<(Prepared, squeue::Entry), Completion> {
    let mut paths = [None, None];
    let mut address_bytes = None;
    let mut message = None;
    let mut socket = None;
    let cwd = types::Fd(libc::AT_FDCWD);
    let prepared: io::Result<squeue::Entry> = (|| {
        Ok(match &mut operation {
            Operation::Open { path, options } => {
                let path = paths[0].insert(c_path(path)?);
                opcode::OpenAt::new(cwd, path.as_ptr())
                    .flags(options.open_flags())
                    .mode(FILE_MODE)
                    .build()
            }
            Operation::Read { file, buffer, offset_bytes } => {
                let len = transfer_len(buffer.len());
                opcode::Read::new(descriptor(file), buffer.start(), len)
                    .offset(*offset_bytes)
                    .build()
            }
            Operation::Write { file, buffer, done_bytes, offset_bytes, durable } => {
                let rest = &buffer[*done_bytes..];
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(descriptor(file), rest.as_ptr(), transfer_len(rest.len()))
                    .offset(*offset_bytes)
                    .rw_flags(flags)
                    .build()
            }
            Operation::Flush { file, data_only } => {
                let flags = match data_only {
                    true => types::FsyncFlags::DATASYNC,
                    false => types::FsyncFlags::empty(),
                };
                opcode::Fsync::new(descriptor(file)).flags(flags).build()
            }
            Operation::Fallocate { file, offset_bytes, len_bytes } => {
                opcode::Fallocate::new(descriptor(file), *len_bytes).offset(*offset_bytes).build()
            }
            Operation::Rename { from, to } => {
                let (first, second) = paths.split_at_mut(1);
                let from = first[0].insert(c_path(from)?);
                let to = second[0].insert(c_path(to)?);
                opcode::RenameAt::new(cwd, from.as_ptr(), cwd, to.as_ptr()).build()
            }
            Operation::RemoveFile { path } => {
                let path = paths[0].insert(c_path(path)?);
                opcode::UnlinkAt::new(cwd, path.as_ptr()).build()
            }
            Operation::Accept { listener } => {
                let null = std::ptr::null_mut();
                opcode::Accept::new(descriptor(listener), null, std::ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Operation::Connect { address } => {
                let socket = socket.insert(new_socket(address)?);
                let address = address_bytes.insert(address_in_kernel_form(address));
                let start = address.bytes.as_ptr().cast();
                opcode::Connect::new(types::Fd(socket.as_raw_fd()), start, address.len_bytes)
                    .build()
            }
            Operation::Receive { stream, buffer } => {
                let spare = buffer.spare_capacity_mut();
                let start = spare.as_mut_ptr().cast();
                opcode::Recv::new(descriptor(stream), start, transfer_len(spare.len())).build()
            }
            Operation::Send { stream, buffer, done_bytes } => {
                let rest = &buffer[*done_bytes..];
                opcode::Send::new(descriptor(stream), rest.as_ptr(), transfer_len(rest.len()))
                    .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                    .build()
            }
            Operation::SendParts { stream, parts, done_bytes } => {
                let message = message.insert(Message::new(parts, *done_bytes));
                opcode::SendMsg::new(descriptor(stream), &message.header)
                    .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
                    .build()
            }
            Operation::Shutdown { stream, how } => {
                let how = match how {
                    Shutdown::Read => libc::SHUT_RD,
                    Shutdown::Write => libc::SHUT_WR,
                    Shutdown::Both => libc::SHUT_RDWR,
                };
                opcode::Shutdown::new(descriptor(stream), how).build()
            }
        })
    })();
    match prepared {
        Ok(entry) => {
            let prepared = Prepared {
                operation,
                _paths: paths,
                _address: address_bytes,
                _message: message,
                socket,
            };
            Ok((prepared, entry))
        }
        Err(error) => Err(Completion { result: Err(error), operation, opened: None }),
    }
}

impl Prepared {
    /// The completion for the kernel's result. To be called once, with the result of this very operation.
    pub(super) fn complete(mut self, kernel_result: i32) -> Completion {
        let result = match usize::try_from(kernel_result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-kernel_result)),
        };
        let opened = match (&mut self.operation, &result) {
            (Operation::Open { .. } | Operation::Accept { .. }, Ok(_)) => {
                // SAFETY: the kernel made this descriptor for this operation, and nobody else was told of it.
                Some(Handle::Descriptor(unsafe { OwnedFd::from_raw_fd(kernel_result) }))
            }
            (Operation::Connect { .. }, Ok(_)) => self.socket.take().map(Handle::Descriptor),
            (Operation::Receive { buffer, .. }, Ok(count)) => {
                assert!(*count <= buffer.capacity() - buffer.len(), "received within the buffer");
                // SAFETY: the kernel wrote `count` bytes from the buffer's old end on, within its capacity.
                unsafe { buffer.set_len(buffer.len() + count) };
                None
            }
            _ => None,
        };
        Completion { result, operation: self.operation, opened }
    }
}

/// Puts an entry into the submission queue; false if it is full.
pub(super) fn try_push(ring: &mut io_uring::IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: every entry comes from `prepare`, whose `Prepared` owns the memory that it names and stays in the
    // reactor until the entry's completion, or names no memory at all (the wake poll, cancellations).
    unsafe { ring.submission().push(entry) }.is_ok()
}

fn transfer_len(len_bytes: usize) -> u32 {
    len_bytes.min(TRANSFER_BYTES_MAX) as u32
}

fn descriptor(handle: &Handle) -> types::Fd {
    types::Fd(handle.descriptor().as_raw_fd())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path holds a zero byte"))
}

fn new_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_tcp_options(&socket)?;
    Ok(socket)
}

fn address_in_kernel_form(address: &SocketAddr) -> Box<AddressBytes> {
    let storage = address.as_any();
    let mut bytes = [0; size_of::<libc::sockaddr_storage>()];
    let len_bytes = storage.addr_len();
    let used = &mut bytes[..len_bytes as usize];
    // SAFETY: `as_ptr` points to `addr_len` initialised bytes of `storage`, which lives through the copy, and `used` is
    // memory of exactly that length of our own.
    unsafe {
        std::ptr::copy_nonoverlapping(storage.as_ptr().cast::<u8>(), used.as_mut_ptr(), used.len());
    }
    Box::new(AddressBytes { bytes, len_bytes })
}
