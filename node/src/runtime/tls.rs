//! TLS inside a [`super::Stream`]: rustls' buffers between the caller's bytes and the socket's.
//!
//! rustls does no I/O. All of a connection's TLS state is this value, so an encrypted stream moves between shards like any
//! other. What is received is decrypted at once; what is to be sent is encrypted in pieces, each sent before the next, so
//! that memory stays bounded whatever callers send. Receiving never sends: what TLS itself wants to say (an answer to a
//! key update, a fatal alert) goes out ahead of the next bytes, or with the end.
//!
//! Not for the simulator: ring draws its own chance.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Write};

use rustls::Connection;
use rustls::pki_types::CertificateDer;

/// Encrypted bytes received at once: two of the largest records.
const RECEIVE_BYTES: usize = 32 * 1024;

/// Plain bytes encrypted before they are sent: two records. Below rustls' own limit of 64 KiB on what waits in it.
const SEND_BYTES: usize = 32 * 1024;

/// The TLS of one stream. Nothing in it is borrowed across an await.
#[derive(Debug)]
pub(super) struct Tls {
    connection: RefCell<Connection>,
    /// Decrypted bytes that found no room in a caller's buffer: of one receive at most.
    decrypted: RefCell<Vec<u8>>,
    /// Kept for the next receive.
    receive_buffer: RefCell<Vec<u8>>,
    /// Kept for the next send.
    send_buffer: RefCell<Vec<u8>>,
    /// The peer said that it sends no more.
    peer_closed: Cell<bool>,
}

impl Tls {
    pub(super) fn new(connection: Connection) -> Tls {
        Tls {
            connection: RefCell::new(connection),
            decrypted: RefCell::default(),
            receive_buffer: RefCell::default(),
            send_buffer: RefCell::default(),
            peer_closed: Cell::new(false),
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.borrow().is_handshaking()
    }

    /// The protocol that both sides agreed on, if the client offered any.
    pub(super) fn application_protocol(&self) -> Option<Vec<u8>> {
        self.connection.borrow().alpn_protocol().map(<[u8]>::to_vec)
    }

    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let connection = self.connection.borrow();
        connection.peer_certificates()?.first().cloned()
    }

    /// Whether the peer said that it sends no more, while nothing of what it sent waits.
    pub(super) fn has_ended(&self) -> bool {
        self.peer_closed.get() && self.decrypted.borrow().is_empty()
    }

    /// A buffer to receive encrypted bytes into.
    pub(super) fn take_receive_buffer(&self) -> Vec<u8> {
        let mut buffer = self.receive_buffer.take();
        buffer.clear();
        buffer.reserve_exact(RECEIVE_BYTES);
        buffer
    }

    pub(super) fn keep_receive_buffer(&self, buffer: Vec<u8>) {
        self.receive_buffer.replace(buffer);
    }

    /// Moves decrypted bytes that wait into the spare capacity of `buffer`; how many.
    pub(super) fn take_decrypted(&self, buffer: &mut Vec<u8>) -> usize {
        let mut waiting = self.decrypted.borrow_mut();
        let count = waiting.len().min(buffer.capacity() - buffer.len());
        buffer.extend(waiting.drain(..count));
        count
    }

    /// Decrypts what was received into the spare capacity of `buffer`, and keeps what does not fit.
    ///
    /// # Errors
    /// If the bytes are not TLS, or break it; the alert for the peer waits to be sent.
    pub(super) fn decrypt(&self, mut encrypted: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        let mut waiting = self.decrypted.borrow_mut();
        while !encrypted.is_empty() {
            // rustls takes in no more while it holds decrypted bytes, so they are taken out each time.
            if connection.read_tls(&mut encrypted)? == 0 {
                break;
            }
            let state = connection.process_new_packets().map_err(io::Error::other)?;
            self.peer_closed.set(state.peer_has_closed());
            let mut left = state.plaintext_bytes_to_read();
            let mut reader = connection.reader();
            while left > 0 {
                let piece = reader.fill_buf()?;
                let room = buffer.capacity() - buffer.len();
                let fits = if waiting.is_empty() { room.min(piece.len()) } else { 0 };
                buffer.extend_from_slice(&piece[..fits]);
                waiting.extend_from_slice(&piece[fits..]);
                let count = piece.len();
                reader.consume(count);
                left -= count;
            }
        }
        Ok(())
    }

    /// Encrypts the next piece of `plain`, after what TLS itself has to say: the bytes to send, none when there is nothing,
    /// and how many of `plain` are in them.
    pub(super) fn encrypt(&self, plain: &[u8]) -> io::Result<(Vec<u8>, usize)> {
        let mut connection = self.connection.borrow_mut();
        let mut encrypted = self.send_buffer.take();
        encrypted.clear();
        while connection.wants_write() {
            connection.write_tls(&mut encrypted)?;
        }
        let piece = &plain[..plain.len().min(SEND_BYTES)];
        connection.writer().write_all(piece)?;
        while connection.wants_write() {
            connection.write_tls(&mut encrypted)?;
        }
        Ok((encrypted, piece.len()))
    }

    pub(super) fn keep_send_buffer(&self, buffer: Vec<u8>) {
        self.send_buffer.replace(buffer);
    }

    /// The bytes that tell the peer that no more will come.
    pub(super) fn close(&self) -> Vec<u8> {
        self.connection.borrow_mut().send_close_notify();
        // What cannot be said at the end is not said.
        self.encrypt(&[]).map(|(bytes, _)| bytes).unwrap_or_default()
    }
}
