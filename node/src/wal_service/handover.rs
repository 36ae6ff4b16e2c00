//! A connection on its way from the shard that accepted it to the shard that owns its timeline.

use firn_core::wire::postgres::startup::StartupParameters;

use crate::runtime::{PeerAddress, RawStream};

/// A socket with its startup message taken in.
#[derive(Debug)]
pub struct Handover {
    /// The socket.
    pub stream: RawStream,
    /// Who is at its other end.
    pub peer: PeerAddress,
    /// What was received behind the startup message.
    pub received: Vec<u8>,
    /// What the startup message says.
    pub parameters: StartupParameters,
}
