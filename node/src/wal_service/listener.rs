//! Accepting connections, their first packets, and the way to the shard that owns the tenant.
//!
//! Only shard 0 listens: an accept and a startup message cost microseconds, once per connection.

use std::sync::Arc;
use std::time::Duration;

use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::startup::{self, StartupPacket, StartupParameters};

use rustls::{ServerConfig, ServerConnection};

use crate::runtime::{Listener, Stream, TaskClass};
use crate::shard::Shard;
use crate::shard::request::Request;
use crate::tls::APPLICATION_PROTOCOL;
use crate::wal_service::handover::Handover;
use crate::wal_service::session;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Packets before the startup message: one request for TLS and one for GSSAPI, and a TLS handshake; a client that asks on is broken.
const NEGOTIATIONS_MAX: usize = 4;

/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";
/// SQLSTATE `invalid_authorization_specification`, Postgres' own for a client that pg_hba.conf wants encrypted.
const INVALID_AUTHORIZATION: &str = "28000";
/// SQLSTATE `protocol_violation`.
const PROTOCOL_VIOLATION: &str = "08P01";

/// Accepts connections for ever.
pub async fn accept(shard: Shard, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                shard.metrics().counters.connections_accepted.increment();
                let starting = start(shard.clone(), stream);
                shard.runtime().spawn(TaskClass::Latency, starting).detach();
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the Postgres port");
                shard.runtime().sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn start(shard: Shard, stream: Stream) {
    let peer = stream.peer_addr();
    let Some(place) = shard.connections().enter(&stream) else {
        refuse(&shard, &stream, TOO_MANY_CONNECTIONS, "too many connections").await;
        return;
    };
    let Some((parameters, received)) = negotiate(&shard, &stream).await else { return };
    drop(place);

    let owner = parameters.tenant_id.map_or(shard.number(), |id| shard.node().shard_of(id));
    let raw = match stream.into_raw() {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!(%peer, %error, "a connection could not change its shard");
            return;
        }
    };
    let handover = Handover { stream: raw, peer, received, parameters };
    if owner == shard.number() {
        session::serve(shard, handover).await;
    } else if shard.node().sender(owner).send(Request::Connection(handover)).await.is_err() {
        tracing::error!(%peer, owner, "the shard that owns a connection's tenant has stopped");
    }
}

/// Takes packets until the startup message. `None`: the connection is over, and the client knows why if it can be told.
async fn negotiate(shard: &Shard, stream: &Stream) -> Option<(StartupParameters, Vec<u8>)> {
    let tls = shard.credentials().server.clone();
    let mut received = Vec::with_capacity(startup::STARTUP_BYTES_MAX + 1);
    for _ in 0..NEGOTIATIONS_MAX {
        let (packet, length) = loop {
            let begins_with_tls = received.first() == Some(&startup::TLS_HANDSHAKE);
            if let Some(tls) = tls.as_ref().filter(|_| begins_with_tls && !stream.is_encrypted()) {
                encrypt(shard, stream, tls, &received).await?;
                received.clear();
                if stream.application_protocol().as_deref() != Some(APPLICATION_PROTOCOL) {
                    let text = "direct TLS without the application protocol postgresql";
                    refuse(shard, stream, PROTOCOL_VIOLATION, text).await;
                    return None;
                }
            }
            match startup::decode(&received) {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                Err(error) => {
                    refuse(shard, stream, PROTOCOL_VIOLATION, &error.to_string()).await;
                    return None;
                }
            }
            // An incomplete packet is shorter than the buffer: `decode` refuses longer ones.
            let (result, buffer) = stream.recv(received).await;
            received = buffer;
            if !matches!(result, Ok(1..)) {
                shard.metrics().counters.connections_refused.increment();
                return None;
            }
        };
        received.drain(..length);
        match packet {
            StartupPacket::SslRequest => match tls.as_ref().filter(|_| !stream.is_encrypted()) {
                Some(tls) => {
                    // Whatever came in clear behind the request could be anybody's.
                    if !received.is_empty() {
                        let text = "unencrypted bytes after the request for TLS";
                        refuse(shard, stream, PROTOCOL_VIOLATION, text).await;
                        return None;
                    }
                    stream.send_all(vec![b'S']).await.0.ok()?;
                    encrypt(shard, stream, tls, &[]).await?;
                }
                None => stream.send_all(vec![b'N']).await.0.ok()?,
            },
            StartupPacket::GssEncryptionRequest => stream.send_all(vec![b'N']).await.0.ok()?,
            StartupPacket::CancelRequest => return None,
            StartupPacket::Startup(_) if shard.options().tls_required && !stream.is_encrypted() => {
                let text = "this port requires TLS: use sslmode=require or more";
                refuse(shard, stream, INVALID_AUTHORIZATION, text).await;
                return None;
            }
            StartupPacket::Startup(parameters) => return Some((parameters, received)),
        }
    }
    refuse(shard, stream, PROTOCOL_VIOLATION, "too many encryption requests").await;
    None
}

/// Performs the server's side of a TLS handshake; `received` is what came of it already.
async fn encrypt(
    shard: &Shard,
    stream: &Stream,
    tls: &Arc<ServerConfig>,
    received: &[u8],
) -> Option<()> {
    let encrypted = match ServerConnection::new(tls.clone()) {
        Ok(connection) => stream.encrypt(connection, received).await,
        Err(error) => Err(std::io::Error::other(error)),
    };
    encrypted
        .map_err(|error| {
            shard.metrics().counters.connections_refused.increment();
            tracing::info!(peer = %stream.peer_addr(), %error, "TLS handshake failed");
        })
        .ok()
}

async fn refuse(shard: &Shard, stream: &Stream, code: &str, text: &str) {
    shard.metrics().counters.connections_refused.increment();
    tracing::info!(peer = %stream.peer_addr(), reason = text, "connection refused");
    let mut answer = Vec::new();
    answer.error_response(code, text);
    // The client may be gone; it is dropped either way.
    let _ = stream.send_all(answer).await;
}
