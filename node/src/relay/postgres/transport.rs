//! Bytes to and from a server, plain or through TLS.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use bytes::Bytes;
use rustls::ClientConnection;

use crate::runtime::Stream;

/// Bytes asked of the kernel at once: two of a primary's largest WAL messages.
const RECEIVE_BYTES: usize = 256 * 1024;

/// One connection's bytes. Clones are the same connection: one may receive while another sends, each one at a time.
#[derive(Clone)]
pub struct Transport {
    stream: Stream,
    /// Never borrowed across an await.
    tls: Option<Rc<RefCell<ClientConnection>>>,
}

impl Transport {
    /// A connection in clear.
    pub fn plain(stream: Stream) -> Transport {
        Transport { stream, tls: None }
    }

    /// Performs the TLS handshake of `connection` on the stream.
    pub async fn encrypted(stream: Stream, connection: ClientConnection) -> io::Result<Transport> {
        let tls = Rc::new(RefCell::new(connection));
        let transport = Transport { stream, tls: Some(tls.clone()) };
        loop {
            transport.flush_tls(&tls).await?;
            if !tls.borrow().is_handshaking() {
                return Ok(transport);
            }
            if transport.receive_tls(&tls, &mut Vec::new()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The TLS connection, if there is one.
    pub fn tls(&self) -> Option<std::cell::Ref<'_, ClientConnection>> {
        self.tls.as_ref().map(|tls| tls.borrow())
    }

    /// Sends all bytes.
    pub async fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        let Some(tls) = &self.tls else { return self.stream.send_all(bytes).await.0 };
        tls.borrow_mut().writer().write_all(&bytes)?;
        self.flush_tls(tls).await
    }

    /// Sends both parts as one message; in clear neither is copied.
    pub async fn send_parts(&self, head: Vec<u8>, body: Bytes) -> io::Result<()> {
        if self.tls.is_some() {
            return self.send([&head[..], &body[..]].concat()).await;
        }
        self.stream.send_parts(head.into(), body).await
    }

    /// Appends at least one byte to `received`; 0 when the peer sends no more.
    pub async fn receive(&self, received: &mut Vec<u8>) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            let mut buffer = std::mem::take(received);
            buffer.reserve(RECEIVE_BYTES);
            let (result, buffer) = self.stream.recv(buffer).await;
            *received = buffer;
            return result;
        };
        let before = received.len();
        loop {
            let ended = self.receive_tls(tls, received).await? == 0;
            let count = received.len() - before;
            if count > 0 || ended {
                return Ok(count);
            }
        }
    }

    /// Sends what TLS wants sent.
    async fn flush_tls(&self, tls: &RefCell<ClientConnection>) -> io::Result<()> {
        let mut bytes = Vec::new();
        while tls.borrow().wants_write() {
            tls.borrow_mut().write_tls(&mut bytes)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.send_all(bytes).await.0
    }

    /// Receives encrypted bytes, and appends what they decrypt to; 0 when the peer sends no more.
    async fn receive_tls(
        &self,
        tls: &RefCell<ClientConnection>,
        received: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let (result, bytes) = self.stream.recv(Vec::with_capacity(TLS_RECEIVE_BYTES)).await;
        let count = result?;
        let mut rest = &bytes[..];
        let mut tls = tls.borrow_mut();
        // rustls takes in no more while it holds decrypted bytes, so they are taken out each time.
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let plaintext_bytes = state.plaintext_bytes_to_read();
            let start = received.len();
            received.resize(start + plaintext_bytes, 0);
            tls.reader().read_exact(&mut received[start..])?;
        }
        Ok(count)
    }
}

/// Encrypted bytes asked of the kernel at once: some records of at most 16 KiB each.
const TLS_RECEIVE_BYTES: usize = 64 * 1024;
