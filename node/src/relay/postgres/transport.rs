//! Bytes to and from a server, plain or through TLS.

use std::io;

use bytes::Bytes;
use rustls::ClientConnection;

use crate::runtime::Stream;

/// Bytes asked of the kernel at once: two of a primary's largest WAL messages.
const RECEIVE_BYTES: usize = 256 * 1024;

/// One connection's bytes. Clones are the same connection: one may receive while another sends, each one at a time.
#[derive(Clone)]
pub struct Transport(Stream);

impl Transport {
    /// The stream as it is: in clear, or encrypted already.
    pub fn new(stream: Stream) -> Transport {
        Transport(stream)
    }

    /// Performs the TLS handshake of `connection` on the stream.
    pub async fn encrypted(stream: Stream, connection: ClientConnection) -> io::Result<Transport> {
        stream.encrypt(connection, &[]).await?;
        Ok(Transport(stream))
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.0
    }

    /// Sends all bytes.
    pub async fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.0.send_all(bytes).await.0
    }

    /// Sends both parts as one message; in clear neither is copied.
    pub async fn send_parts(&self, head: Vec<u8>, body: Bytes) -> io::Result<()> {
        self.0.send_parts(head.into(), body).await
    }

    /// Appends at least one byte to `received`; 0 when the peer sends no more.
    pub async fn receive(&self, received: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = std::mem::take(received);
        buffer.reserve(RECEIVE_BYTES);
        let (result, buffer) = self.0.recv(buffer).await;
        *received = buffer;
        result
    }
}
