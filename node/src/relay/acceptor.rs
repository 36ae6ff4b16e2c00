//! Sessions with acceptors, outside of the proposer's own streams.

use std::sync::Arc;
use std::time::Duration;

use firn_core::types::{Lsn, TimelineKey};
use rustls::ClientConfig;
use thiserror::Error;

use super::postgres::connection::{Connection, ConnectionError, within};
use crate::runtime::Runtime;

/// Time for an acceptor to let us in or to answer a question.
pub const ACCEPTOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an acceptor could not be asked.
#[derive(Debug, Error)]
pub enum AcceptorError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// An answer that does not say what it should.
    #[error("answered {found:?} to TIMELINE_STATUS")]
    Answer {
        /// The answer.
        found: String,
    },
    /// Its WAL stream.
    #[error("sent a broken WAL stream: {0}")]
    Stream(String),
    /// It knows nothing of the timeline.
    #[error(
        "does not hold timeline {key}: create it first (firn timeline create), or, if this node lost its disk, replace it (firn timeline members)"
    )]
    NoTimeline {
        /// The timeline.
        key: TimelineKey,
    },
}

/// How to talk to acceptors.
#[derive(Debug, Clone, Default)]
pub struct AcceptorOptions {
    /// Token to show where they ask for one.
    pub auth_token: Option<String>,
    /// What is trusted of them: they are spoken to through TLS.
    pub trusted: Option<Arc<ClientConfig>>,
}

/// A session about one timeline.
pub async fn open_acceptor(
    runtime: &Runtime,
    options: &AcceptorOptions,
    address: &str,
    key: TimelineKey,
) -> Result<Connection, AcceptorError> {
    let scope = format!("-c timeline_id={} tenant_id={}", key.timeline_id, key.tenant_id);
    let parameters = [
        ("user", "firn"),
        ("database", "replication"),
        ("application_name", "firn-relay"),
        ("options", scope.as_str()),
    ];
    let token = options.auth_token.clone();
    Ok(Connection::open_acceptor(
        runtime,
        address,
        &parameters,
        token,
        options.trusted.as_ref(),
        ACCEPTOR_TIMEOUT,
    )
    .await?)
}

/// How far an acceptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptorPosition {
    /// End of its durable log.
    pub flush_lsn: Lsn,
    /// Committed, as far as it knows.
    pub commit_lsn: Lsn,
}

/// Asks an acceptor how far it is.
pub async fn position(
    runtime: &Runtime,
    options: &AcceptorOptions,
    address: &str,
    key: TimelineKey,
) -> Result<AcceptorPosition, AcceptorError> {
    let mut connection = open_acceptor(runtime, options, address, key).await?;
    let rows = within(runtime, ACCEPTOR_TIMEOUT, connection.query("TIMELINE_STATUS")).await?;
    let answer = || AcceptorError::Answer { found: format!("{rows:?}") };
    let row = rows.first().ok_or(AcceptorError::NoTimeline { key })?;
    match row.as_slice() {
        [Some(flush), Some(commit)] => Ok(AcceptorPosition {
            flush_lsn: flush.parse().map_err(|_| answer())?,
            commit_lsn: commit.parse().map_err(|_| answer())?,
        }),
        _ => Err(answer()),
    }
}
