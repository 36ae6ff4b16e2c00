//! TCP, with TCP_NODELAY always, and connections to Unix sockets: listeners and streams of one shard, in clear or through
//! TLS.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustix::net::SendFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use rustls::pki_types::CertificateDer;

use super::Runtime;
use super::operation::{Completion, Handle, Operation, Pending};
use super::reactor::Reactor;
use super::tls::Tls;
use super::{glommio, sim};

/// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 1024;

/// A peer that is gone without a word is asked whether it lives after this long without one, again every so often, and given
/// up after so many questions: a minute in all, as Postgres' walsenders give up their readers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_QUESTIONS: u32 = 3;
/// What was sent and not acknowledged for so long ends a connection, where the kernel would try for a quarter of an hour.
pub(super) const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;

/// A listening socket of one shard. Dropping it closes the port.
#[derive(Debug)]
pub struct Listener {
    runtime: Runtime,
    handle: Rc<Handle>,
    local_addr: SocketAddr,
    unfinished: Unfinished,
}

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Tcp(address) => address.fmt(f),
            PeerAddress::Unix => f.write_str("a Unix socket"),
        }
    }
}

/// A connected stream of one shard. Clones are the same stream; it closes when the last is dropped.
///
/// At most one `recv` and one `send_all` at a time, from any clones.
#[derive(Debug, Clone)]
pub struct Stream(Rc<StreamState>);

#[derive(Debug)]
struct StreamState {
    runtime: Runtime,
    handle: Rc<Handle>,
    peer_addr: PeerAddress,
    /// The receive whose future was dropped: its bytes belong to the next `recv`.
    unfinished: Unfinished,
    /// Bytes received that found no room in the caller's buffer.
    received: RefCell<Vec<u8>>,
    receiving: Cell<bool>,
    sending: Cell<bool>,
    /// Set once, by [`Stream::encrypt`].
    tls: OnceCell<Box<Tls>>,
    /// The socket went to another shard: it does not end with this.
    moved: Cell<bool>,
}

/// A stream between shards: see [`Stream::into_raw`].
#[derive(Debug)]
pub struct RawStream {
    socket: RawSocket,
    peer_addr: PeerAddress,
    received: Vec<u8>,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
enum RawSocket {
    Descriptor(OwnedFd),
    Simulated(sim::Socket),
}

impl Runtime {
    /// Listens on `host:port`; port 0 takes a free one, see [`Listener::local_addr`].
    ///
    /// # Errors
    /// If the address is not one, is in use or not this machine's; the error names it.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        let named = |error: io::Error| at_address("listen on", address, error);
        let resolved = self.resolve(address).await.map_err(named)?;
        let (handle, local_addr) = match self.simulated() {
            Some(machine) => machine.listen(resolved).map_err(named)?,
            None => {
                let (socket, local_addr) = listening_socket(resolved).map_err(named)?;
                (self.listener_handle(socket).map_err(named)?, local_addr)
            }
        };
        let handle = Rc::new(handle);
        let unfinished = Unfinished::default();
        Ok(Listener { runtime: self.clone(), handle, local_addr, unfinished })
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// If the name is unknown or the peer cannot be reached; the error names the address.
    pub async fn connect(&self, address: &str) -> io::Result<Stream> {
        let named = |error: io::Error| at_address("connect to", address, error);
        let resolved = self.resolve(address).await.map_err(named)?;
        let completion = self.perform(Operation::Connect { address: resolved }).await;
        let handle = completion.into_opened().map_err(named)?;
        Ok(Stream::new(self, handle, PeerAddress::Tcp(resolved), Vec::new()))
    }

    /// Connects to the Unix socket at `path`; a path that begins with `@` is an abstract name. The simulator has none.
    ///
    /// # Errors
    /// If nobody listens there, or as many connections wait there already as its listener takes; the error names the
    /// path.
    pub fn connect_unix(&self, path: &str) -> io::Result<Stream> {
        let connected = match self.simulated() {
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
            None => unix_socket(path).map(|socket| self.stream_handle(socket)),
        };
        let handle = connected.map_err(|error| at_address("connect to", path, error))?;
        Ok(Stream::new(self, Rc::new(handle), PeerAddress::Unix, Vec::new()))
    }

    /// A connected socket in the hands of this shard's implementation.
    fn stream_handle(&self, socket: OwnedFd) -> Handle {
        match &*self.0.reactor {
            Reactor::Glommio(_) => Handle::Glommio(Box::new(glommio::Handle::stream(socket))),
            _ => Handle::Descriptor(socket),
        }
    }

    /// As [`Self::stream_handle`], of a listening socket.
    fn listener_handle(&self, socket: OwnedFd) -> io::Result<Handle> {
        match &*self.0.reactor {
            Reactor::Glommio(_) => {
                Ok(Handle::Glommio(Box::new(glommio::Handle::listener(socket)?)))
            }
            _ => Ok(Handle::Descriptor(socket)),
        }
    }

    /// Addresses are used as they are; names are looked up on other threads.
    async fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        if let Ok(address) = address.parse() {
            return Ok(address);
        }
        if let Some(machine) = self.simulated() {
            return machine.resolve(address);
        }
        self.0.resolver.resolve(address).await
    }
}

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection. Dropping the future loses none: the next call gets it.
    ///
    /// # Errors
    /// Those of accept(2); most concern one connection only, so callers go on after a pause.
    pub async fn accept(&self) -> io::Result<Stream> {
        let listener = self.handle.clone();
        let completion = self
            .unfinished
            .resume_or(|| self.runtime.perform(Operation::Accept { listener }))
            .await;
        let handle = completion.into_opened()?;
        let peer_addr = match self.runtime.simulated() {
            Some(machine) => machine.peer_addr(&handle)?,
            None => accepted(&handle)?,
        };
        Ok(Stream::new(&self.runtime, handle, PeerAddress::Tcp(peer_addr), Vec::new()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        end_operations(&self.runtime, &self.handle);
    }
}

impl Stream {
    fn new(
        runtime: &Runtime,
        handle: Rc<Handle>,
        peer_addr: PeerAddress,
        received: Vec<u8>,
    ) -> Stream {
        Stream(Rc::new(StreamState {
            runtime: runtime.clone(),
            handle,
            peer_addr,
            unfinished: Unfinished::default(),
            received: RefCell::new(received),
            receiving: Cell::new(false),
            sending: Cell::new(false),
            tls: OnceCell::new(),
            moved: Cell::new(false),
        }))
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> PeerAddress {
        self.0.peer_addr
    }

    /// Performs a TLS handshake as the side that `connection` is of. From then on everything on this stream and its clones
    /// is encrypted, also after it moved to another shard. `received` is what the peer sent of the handshake already.
    ///
    /// # Errors
    /// Those of the socket, and of rustls when the peer breaks TLS, which it is told. The stream is good for dropping only.
    ///
    /// # Panics
    /// If the stream is encrypted already, or of the simulator.
    pub async fn encrypt(
        &self,
        connection: impl Into<rustls::Connection>,
        received: &[u8],
    ) -> io::Result<()> {
        assert!(self.0.runtime.simulated().is_none(), "the simulator has no TLS");
        let connection = connection.into();
        let set = self.0.tls.set(Box::new(Tls::new(connection)));
        assert!(set.is_ok(), "a stream is encrypted once");
        let tls = self.0.tls.get().expect("it was just set");
        // What comes behind the handshake, none of it read yet, waits inside.
        let mut nothing = Vec::new();
        let mut decrypted = tls.decrypt(received, &mut nothing);
        loop {
            // An alert goes out also, and above all, after an error.
            self.send_encrypted(tls, &[]).await?;
            decrypted?;
            if !tls.is_handshaking() {
                return Ok(());
            }
            let (result, bytes) = self.receive(tls.take_receive_buffer()).await;
            if result? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            decrypted = tls.decrypt(&bytes, &mut nothing);
            tls.keep_receive_buffer(bytes);
        }
    }

    /// Whether TLS encrypts the stream.
    pub fn is_encrypted(&self) -> bool {
        self.0.tls.get().is_some()
    }

    /// The protocol that TLS agreed on (ALPN), if the client offered any.
    pub fn application_protocol(&self) -> Option<Vec<u8>> {
        self.0.tls.get()?.application_protocol()
    }

    /// The certificate that the peer showed.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.0.tls.get()?.peer_certificate()
    }

    /// Receives at least one byte into the buffer's spare capacity, after what it holds; 0 means that the peer sends no
    /// more. Dropping the future loses no byte: the next call gets them (the buffer given is lost).
    ///
    /// # Errors
    /// Those of recv(2).
    ///
    /// # Panics
    /// If the buffer has no spare capacity, or another `recv` on this stream is not finished.
    pub async fn recv(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let Some(tls) = self.0.tls.get() else { return self.receive(buffer).await };
        assert!(buffer.capacity() > buffer.len(), "a receive needs room");
        let before = buffer.len();
        if tls.take_decrypted(&mut buffer) == 0 {
            // Records may carry nothing for the caller.
            while buffer.len() == before && !tls.has_ended() {
                let (result, bytes) = self.receive(tls.take_receive_buffer()).await;
                match result {
                    // Every message of the protocols above has a length, so an end without TLS' own is noticed there.
                    Ok(0) | Err(_) => return (result, buffer),
                    Ok(_) => {}
                }
                let decrypted = tls.decrypt(&bytes, &mut buffer);
                tls.keep_receive_buffer(bytes);
                if let Err(error) = decrypted {
                    return (Err(error), buffer);
                }
            }
        }
        (Ok(buffer.len() - before), buffer)
    }

    /// Receives from the socket.
    async fn receive(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(buffer.capacity() > buffer.len(), "a receive needs room");
        assert!(!self.0.receiving.replace(true), "one receive at a time");
        let _receiving = Receiving(&self.0.receiving);
        if self.0.received.borrow().is_empty() {
            let resumed = self.0.unfinished.resume();
            let Some(pending) = resumed else {
                let stream = self.0.handle.clone();
                let operation = Operation::Receive { stream, buffer };
                let pending = self.0.runtime.perform(operation);
                return received(self.0.unfinished.wait(pending).await);
            };
            let (result, bytes) = received(self.0.unfinished.wait(pending).await);
            // Only the end of an earlier receive: what its buffer held before is gone with its caller.
            let count = match result {
                Ok(0) | Err(_) => return (result, buffer),
                Ok(count) => count,
            };
            let tail = &bytes[bytes.len() - count..];
            self.0.received.borrow_mut().extend_from_slice(tail);
        }
        let mut waiting = self.0.received.borrow_mut();
        let count = waiting.len().min(buffer.capacity() - buffer.len());
        buffer.extend(waiting.drain(..count));
        (Ok(count), buffer)
    }

    /// Sends the whole buffer. After an error, or when the future is dropped, any part of it may have been sent: the
    /// stream is good for dropping only.
    ///
    /// # Errors
    /// Those of send(2).
    pub async fn send_all(&self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self.0.tls.get() {
            None => self.send(buffer).await,
            Some(tls) => (self.send_encrypted(tls, &buffer).await, buffer),
        }
    }

    /// Encrypts and sends, piece by piece, and what TLS itself has to say before.
    async fn send_encrypted(&self, tls: &Tls, mut plain: &[u8]) -> io::Result<()> {
        self.0.sending.set(true);
        let _sending = Sending(&self.0.sending);
        loop {
            let (encrypted, count) = tls.encrypt(plain)?;
            plain = &plain[count..];
            if encrypted.is_empty() {
                return Ok(());
            }
            let (result, buffer) = self.send(encrypted).await;
            tls.keep_send_buffer(buffer);
            result?;
            if plain.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends to the socket.
    async fn send(&self, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut done_bytes = 0;
        while done_bytes < buffer.len() {
            let stream = self.0.handle.clone();
            let operation = Operation::Send { stream, buffer, done_bytes };
            let completion = self.0.runtime.perform(operation).await;
            let Operation::Send { buffer: returned, .. } = completion.operation else {
                unreachable!("a completion returns its own operation")
            };
            buffer = returned;
            match completion.result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(count) => done_bytes += count,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Sends `head` and then `body` as one, without copying either: `body` may be shared with other streams. As with
    /// [`Self::send_all`], the stream is good for dropping only after an error.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub async fn send_parts(&self, head: Bytes, body: Bytes) -> io::Result<()> {
        if let Some(tls) = self.0.tls.get() {
            self.send_encrypted(tls, &head).await?;
            return self.send_encrypted(tls, &body).await;
        }
        let len_bytes = head.len() + body.len();
        let mut parts = Box::new([head, body]);
        let mut done_bytes = 0;
        while done_bytes < len_bytes {
            let stream = self.0.handle.clone();
            let operation = Operation::SendParts { stream, parts, done_bytes };
            let completion = self.0.runtime.perform(operation).await;
            let Operation::SendParts { parts: returned, .. } = completion.operation else {
                unreachable!("a completion returns its own operation")
            };
            parts = returned;
            match completion.result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done_bytes += count,
            }
        }
        Ok(())
    }

    /// Ends one or both directions; a waiting `recv` of a direction that ends gets 0.
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub async fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.0.say_end();
        }
        let stream = self.0.handle.clone();
        self.0.runtime.perform(Operation::Shutdown { stream, how }).await.result.map(drop)
    }

    /// Takes the stream off its shard, to be sent to another one. Bytes received but not fetched travel along.
    ///
    /// # Errors
    /// `ResourceBusy` if another clone lives or a receive or send is not finished.
    pub fn into_raw(self) -> io::Result<RawStream> {
        let busy = |what| io::Error::new(io::ErrorKind::ResourceBusy, what);
        if self.0.unfinished.is_some() {
            return Err(busy("a receive on the stream is not finished"));
        }
        let Ok(state) = Rc::try_unwrap(self.0) else {
            return Err(busy("the stream has another clone"));
        };
        let mut state = state;
        let (peer_addr, received) = (state.peer_addr, state.received.take());
        let handle = state.handle.clone();
        let tls = state.tls.take();
        state.moved.set(true);
        drop(state);
        let handle = Rc::try_unwrap(handle)
            .map_err(|_| busy("an operation on the stream is not finished"))?;
        let socket = match handle {
            Handle::Descriptor(descriptor) => RawSocket::Descriptor(descriptor),
            Handle::SimSocket(socket) => RawSocket::Simulated(socket),
            handle => RawSocket::Descriptor(handle.descriptor().try_clone_to_owned()?),
        };
        Ok(RawStream { socket, peer_addr, received, tls })
    }

    /// Puts a stream on this shard.
    pub fn from_raw(runtime: &Runtime, raw: RawStream) -> Stream {
        let handle = match raw.socket {
            RawSocket::Descriptor(descriptor) => runtime.stream_handle(descriptor),
            RawSocket::Simulated(socket) => Handle::SimSocket(socket),
        };
        let stream = Stream::new(runtime, Rc::new(handle), raw.peer_addr, raw.received);
        if let Some(tls) = raw.tls {
            let set = stream.0.tls.set(tls);
            assert!(set.is_ok(), "a new stream is not encrypted");
        }
        stream
    }
}

impl StreamState {
    /// Tells a TLS peer, once, that no more comes, if that can be done without waiting: without it OpenSSL takes the end
    /// for an error.
    fn say_end(&self) {
        let Some(tls) = self.tls.get().filter(|_| !self.sending.replace(true)) else { return };
        let bytes = tls.close();
        // Whoever cannot be told learns it from the socket.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(self.handle.descriptor(), &bytes, flags);
    }
}

impl Drop for StreamState {
    fn drop(&mut self) {
        drop(self.unfinished.resume());
        if !self.moved.get() {
            self.say_end();
            end_operations(&self.runtime, &self.handle);
        }
    }
}

struct Receiving<'a>(&'a Cell<bool>);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

struct Sending<'a>(&'a Cell<bool>);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Where an operation waits whose future was dropped before it completed, for the next caller to go on with.
#[derive(Debug, Default)]
struct Unfinished(RefCell<Option<Pending>>);

impl Unfinished {
    fn is_some(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn resume(&self) -> Option<Pending> {
        self.0.borrow_mut().take()
    }

    fn resume_or(&self, submit: impl FnOnce() -> Pending) -> Resumable<'_> {
        let pending = self.resume().unwrap_or_else(submit);
        self.wait(pending)
    }

    fn wait(&self, pending: Pending) -> Resumable<'_> {
        Resumable { unfinished: self, pending: Some(pending) }
    }
}

struct Resumable<'a> {
    unfinished: &'a Unfinished,
    pending: Option<Pending>,
}

impl Future for Resumable<'_> {
    type Output = Completion;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let pending = self.pending.as_mut().expect("a future is not polled after it was ready");
        let completion = Pin::new(pending).poll(context);
        if completion.is_ready() {
            self.pending = None;
        }
        completion
    }
}

impl Drop for Resumable<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            *self.unfinished.0.borrow_mut() = Some(pending);
        }
    }
}

fn received(completion: Completion) -> (io::Result<usize>, Vec<u8>) {
    let Operation::Receive { buffer, .. } = completion.operation else {
        unreachable!("a completion returns its own operation")
    };
    (completion.result, buffer)
}

/// Makes operations in flight on a socket complete, so that it closes: they hold it open.
fn end_operations(runtime: &Runtime, handle: &Rc<Handle>) {
    if Rc::strong_count(handle) == 1 {
        return;
    }
    match runtime.simulated() {
        Some(machine) => machine.end_operations(handle),
        // An error means that there is no connection any more, which ends them too.
        None => drop(rustix::net::shutdown(handle.descriptor(), rustix::net::Shutdown::Both)),
    }
}

fn listening_socket(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    let local_addr = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((socket, local_addr))
}

/// Connects without waiting, which a Unix socket only does for want of room: whoever wants may try again.
fn unix_socket(path: &str) -> io::Result<OwnedFd> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    // The ring waits by itself, and only on sockets that block.
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// How every TCP connection behaves: small messages go at once, and a peer that is gone is noticed.
pub(super) fn set_tcp_options(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_QUESTIONS)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}

/// Prepares an accepted socket and says who is at its other end.
fn accepted(handle: &Handle) -> io::Result<SocketAddr> {
    set_tcp_options(handle.descriptor())?;
    let peer = rustix::net::getpeername(handle.descriptor())?;
    Ok(peer.ok_or(rustix::io::Errno::NOTCONN)?.try_into()?)
}

fn at_address(what: &'static str, address: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {address}: {error}"))
}

#[cfg(test)]
mod tests;
