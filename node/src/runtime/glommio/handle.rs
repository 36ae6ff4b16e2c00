//! Files and sockets as the library has them, made from and seen as descriptors.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::io::{BufferedFile, DmaFile};
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};

/// An open file or socket. Belongs to the executor that made it: dropping it closes it in the ring's next turn.
#[derive(Debug)]
pub enum Handle {
    /// A file of direct I/O.
    Direct(DmaFile),
    /// A file of the page cache, or a directory.
    Buffered(BufferedFile),
    /// A listening socket. It does not give out its descriptor: the second is for shutting it down.
    Listener(TcpListener, OwnedFd),
    /// A connected socket of any kind. Borrowed while it is polled only, so that a receive and a send share it.
    Stream(RefCell<TcpStream>),
}

impl Handle {
    /// A listening socket, made by ourselves: the library's own allows a second listener on the same port, always.
    pub(in super::super) fn listener(socket: OwnedFd) -> io::Result<Handle> {
        let descriptor = socket.try_clone()?;
        // SAFETY: the descriptor is given away by its only owner.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Handle::Listener(listener, descriptor))
    }

    /// A connected socket.
    pub(in super::super) fn stream(socket: OwnedFd) -> Handle {
        Handle::Stream(RefCell::new(stream(socket)))
    }

    /// A connection that was accepted just now.
    pub(super) fn accepted(stream: AcceptedTcpStream) -> io::Result<Handle> {
        let handle = Handle::Stream(RefCell::new(stream.bind_to_executor()));
        // The library accepts without it.
        rustix::io::fcntl_setfd(handle.descriptor(), rustix::io::FdFlags::CLOEXEC)?;
        Ok(handle)
    }

    /// The kernel's descriptor.
    pub(in super::super) fn descriptor(&self) -> BorrowedFd<'_> {
        let raw = match self {
            Handle::Direct(file) => file.as_raw_fd(),
            Handle::Buffered(file) => file.as_raw_fd(),
            Handle::Listener(_, descriptor) => return descriptor.as_fd(),
            Handle::Stream(stream) => stream.borrow().as_raw_fd(),
        };
        // SAFETY: the file or stream owns the descriptor, is never replaced, and closes it when dropped, which the borrow of
        // `self` forbids.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

/// A connected socket of any kind: the library receives and sends with plain calls, and polls when these would wait.
pub(super) fn stream(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is given away by its only owner.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}
