//! Accepting connections, their first packets, and the way to the shard that owns the tenant.
//!
//! Only shard 0 listens: an accept and a startup message cost microseconds, once per connection.

use std::time::Duration;

use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::startup::{self, StartupPacket, StartupParameters};

use crate::runtime::{Listener, Stream, TaskClass};
use crate::shard::Shard;
use crate::shard::request::Request;
use crate::wal_service::handover::Handover;
use crate::wal_service::session;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Packets before the startup message: one request for TLS and one for GSSAPI; a client that asks on is broken.
const NEGOTIATIONS_MAX: usize = 4;

/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";
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
    let mut received = Vec::with_capacity(startup::STARTUP_BYTES_MAX + 1);
    for _ in 0..NEGOTIATIONS_MAX {
        let (packet, length) = loop {
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
            StartupPacket::SslRequest | StartupPacket::GssEncryptionRequest => {
                stream.send_all(vec![b'N']).await.0.ok()?;
            }
            StartupPacket::CancelRequest => return None,
            StartupPacket::Startup(parameters) => return Some((parameters, received)),
        }
    }
    refuse(shard, stream, PROTOCOL_VIOLATION, "too many encryption requests").await;
    None
}

async fn refuse(shard: &Shard, stream: &Stream, code: &str, text: &str) {
    shard.metrics().counters.connections_refused.increment();
    tracing::info!(peer = %stream.peer_addr(), reason = text, "connection refused");
    let mut answer = Vec::new();
    answer.error_response(code, text);
    // The client may be gone; it is dropped either way.
    let _ = stream.send_all(answer).await;
}
