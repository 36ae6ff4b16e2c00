//! What a shard asks of the outside: typed operations that own all they need until their completion.
//!
//! Invariant: the reactor owns an operation from submission to completion. A dropped [`Pending`] leaves it there, so a
//! device or kernel never writes into freed memory, and descriptors close only when no operation uses them.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::buffer::Buffer;
use super::file::OpenOptions;
use super::reactor::Reactor;
use super::{glommio, sim};

/// An open file or socket of whichever implementation runs.
#[derive(Debug)]
pub(super) enum Handle {
    /// Of the kernel.
    Descriptor(OwnedFd),
    /// Of the kernel, in glommio's hands. Boxed: it is larger than all others.
    Glommio(Box<glommio::Handle>),
    /// A file of a simulated disk.
    SimFile(sim::Inode),
    /// A directory of a simulated disk, by its path.
    SimDirectory(PathBuf),
    /// A socket of a simulated network.
    SimSocket(sim::Socket),
}

impl Handle {
    /// The kernel's descriptor.
    ///
    /// # Panics
    /// If another implementation made it: handles never cross implementations.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Descriptor(descriptor) => descriptor.as_fd(),
            Handle::Glommio(handle) => handle.descriptor(),
            _ => unreachable!("the kernel is given only what it made"),
        }
    }
}

/// A request with everything that it needs.
#[derive(Debug)]
pub(super) enum Operation {
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    /// Reads into the whole buffer; may be short only at the end of the file.
    Read {
        file: Rc<Handle>,
        buffer: Buffer,
        offset_bytes: u64,
    },
    /// Writes `buffer[done_bytes..]` at `offset_bytes`; durable before it completes if so asked.
    Write {
        file: Rc<Handle>,
        buffer: Buffer,
        done_bytes: usize,
        offset_bytes: u64,
        durable: bool,
    },
    Flush {
        file: Rc<Handle>,
        data_only: bool,
    },
    Fallocate {
        file: Rc<Handle>,
        offset_bytes: u64,
        len_bytes: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile {
        path: PathBuf,
    },
    Accept {
        listener: Rc<Handle>,
    },
    Connect {
        address: SocketAddr,
    },
    /// Receives into the buffer's spare capacity.
    Receive {
        stream: Rc<Handle>,
        buffer: Vec<u8>,
    },
    /// Sends `buffer[done_bytes..]`.
    Send {
        stream: Rc<Handle>,
        buffer: Vec<u8>,
        done_bytes: usize,
    },
    /// Sends both parts as if they were one buffer, from `done_bytes` on.
    SendParts {
        stream: Rc<Handle>,
        /// Boxed: they are the largest thing that an operation holds.
        parts: Box<[Bytes; 2]>,
        done_bytes: usize,
    },
    Shutdown {
        stream: Rc<Handle>,
        how: Shutdown,
    },
}

/// How an operation ended: its resources come back whatever the result.
#[derive(Debug)]
pub(super) struct Completion {
    /// Bytes moved, or 0 where there are none to count.
    pub(super) result: io::Result<usize>,
    pub(super) operation: Operation,
    /// What `Open`, `Accept` and `Connect` made.
    pub(super) opened: Option<Handle>,
}

impl Completion {
    /// The handle that an opening operation made.
    pub(super) fn into_opened(self) -> io::Result<Rc<Handle>> {
        self.result?;
        Ok(Rc::new(self.opened.expect("an operation that opens has a handle when it succeeds")))
    }
}

/// A submitted operation as a future. Allocates nothing: its state is the reactor's slab entry.
#[derive(Debug)]
pub(super) struct Pending {
    reactor: Rc<Reactor>,
    index: Option<usize>,
}

impl Pending {
    pub(super) fn submit(reactor: &Rc<Reactor>, operation: Operation) -> Pending {
        let index = Some(reactor.submit(operation));
        Pending { reactor: reactor.clone(), index }
    }

    pub(super) fn submit_linked(
        reactor: &Rc<Reactor>,
        first: Operation,
        second: Operation,
    ) -> (Pending, Pending) {
        let (first, second) = reactor.submit_linked(first, second);
        let pending = |index| Pending { reactor: reactor.clone(), index: Some(index) };
        (pending(first), pending(second))
    }
}

impl Future for Pending {
    type Output = Completion;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let index = self.index.expect("a future is not polled after it was ready");
        let completion = self.reactor.poll(index, context);
        if completion.is_ready() {
            self.index = None;
        }
        completion
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.reactor.abandon(index);
        }
    }
}
