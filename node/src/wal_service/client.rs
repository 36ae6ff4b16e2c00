//! A node as a client of other nodes' Postgres ports: how a fence and a catch-up reach a timeline's other members.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use firn_core::api::TimelineStatus;
use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::types::{Lsn, Term, TimelineKey};
use firn_core::wire::postgres::message::{Backend, Encode, MessageError};
use firn_core::wire::postgres::startup::encode_startup;
use rustls::ClientConfig;
use thiserror::Error;

use crate::runtime::{Runtime, Stream};
use crate::tls;
use crate::wal_service::command;
use crate::wal_service::receive::{ReceiveError, Received};

/// How long a connection and its startup may take: milliseconds, but for a node that is cut off or does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why another acceptor could not be talked to.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No connection in time.
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    /// No more messages.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// Bytes that are not Postgres' protocol.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It refused.
    #[error("refused: {message} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// Its text.
        message: String,
    },
    /// It asks for a token and there is none.
    #[error("asks for a token: start this node with --auth-token")]
    NoToken,
    /// An answer that does not belong here.
    #[error("unexpected answer {0}")]
    Unexpected(String),
}

/// A connection to an acceptor, about one timeline.
#[derive(Debug)]
pub struct AcceptorClient {
    stream: Stream,
    received: Received,
}

impl AcceptorClient {
    /// Connects, through TLS if there is something to trust, and authenticates, within [`CONNECT_TIMEOUT`]; without a
    /// timeline for what concerns the node.
    pub async fn connect(
        runtime: &Runtime,
        address: &str,
        key: Option<TimelineKey>,
        application_name: &str,
        token: Option<&str>,
        trusted: Option<&Arc<ClientConfig>>,
    ) -> Result<AcceptorClient, ClientError> {
        let starting = Self::start(runtime, address, key, application_name, token, trusted);
        runtime.within(CONNECT_TIMEOUT, starting).await.unwrap_or(Err(ClientError::Timeout))
    }

    async fn start(
        runtime: &Runtime,
        address: &str,
        key: Option<TimelineKey>,
        application_name: &str,
        token: Option<&str>,
        trusted: Option<&Arc<ClientConfig>>,
    ) -> Result<AcceptorClient, ClientError> {
        let stream = tls::connect(runtime, address, trusted).await?;
        let options = key.map_or(String::new(), |key| {
            format!("-c timeline_id={} tenant_id={}", key.timeline_id, key.tenant_id)
        });
        let startup = encode_startup(&[
            ("user", "firn"),
            ("database", "replication"),
            ("application_name", application_name),
            ("options", &options),
        ]);
        stream.send_all(startup).await.0?;
        let mut client = AcceptorClient { stream, received: Received::default() };
        loop {
            match client.next_message().await? {
                Backend::ReadyForQuery => return Ok(client),
                Backend::Authentication(0) | Backend::Other(_) => {}
                Backend::Authentication(3) => {
                    let mut password = Vec::new();
                    password.password(token.ok_or(ClientError::NoToken)?);
                    client.stream.send_all(password).await.0?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Becomes a proposer's connection, protocol version 3, which never makes timelines.
    pub async fn start_wal_push(&mut self) -> Result<(), ClientError> {
        let options = "(proto_version '3', allow_timeline_creation 'false')";
        self.start_copy(&format!("START_WAL_PUSH {options}")).await
    }

    /// Becomes a reader's connection: of committed WAL, or of all that is durable in a term.
    pub async fn start_replication(
        &mut self,
        start: Lsn,
        term: Option<Term>,
    ) -> Result<(), ClientError> {
        let term = term.map_or(String::new(), |term| format!(" (term='{term}')"));
        self.start_copy(&format!("START_REPLICATION PHYSICAL {start}{term}")).await
    }

    /// Runs a command: the last row's first value, empty when the answer has none.
    pub async fn ask(&mut self, command: &str) -> Result<String, ClientError> {
        let mut query = Vec::new();
        query.query(command);
        self.stream.send_all(query).await.0?;
        let mut answer = String::new();
        loop {
            match self.next_message().await? {
                Backend::DataRow(row) => {
                    answer = row.into_iter().next().flatten().unwrap_or_default().to_string();
                }
                Backend::ReadyForQuery => return Ok(answer),
                Backend::Other(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// What it says of the timeline.
    pub async fn timeline_status(&mut self) -> Result<TimelineStatus, ClientError> {
        let row = self.ask("TIMELINE_STATE").await?;
        serde_json::from_str(&row).map_err(|_| ClientError::Unexpected(echo(&row)))
    }

    /// Which Postgres timelines wrote its log.
    pub async fn postgres_history(&mut self) -> Result<PostgresHistory, ClientError> {
        let row = self.ask("POSTGRES_HISTORY").await?;
        let history = serde_json::from_str::<PostgresHistory>(&row).ok();
        let history = history.filter(|history| history.validate().is_ok());
        history.ok_or_else(|| ClientError::Unexpected(echo(&row)))
    }

    /// Tells it which Postgres timelines wrote the log, as the elected proposer of `term`.
    pub async fn set_postgres_history(
        &mut self,
        term: Term,
        history: &PostgresHistory,
    ) -> Result<(), ClientError> {
        self.ask(&command::set_postgres_history(term, history)).await.map(drop)
    }

    /// Runs a command that turns the connection into a stream in both directions.
    pub async fn start_copy(&mut self, command: &str) -> Result<(), ClientError> {
        let mut query = Vec::new();
        query.query(command);
        self.stream.send_all(query).await.0?;
        loop {
            match self.next_message().await? {
                Backend::CopyBoth => return Ok(()),
                Backend::Other(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The socket, to send messages while others are received.
    pub fn sender(&self) -> Stream {
        self.stream.clone()
    }

    /// The next message of the stream.
    pub async fn next_data(&mut self) -> Result<&[u8], ClientError> {
        match self.next_message().await? {
            Backend::CopyData(payload) => Ok(payload),
            other => Err(unexpected(&other)),
        }
    }

    async fn next_message(&mut self) -> Result<Backend<'_>, ClientError> {
        while !self.received.has_message()? {
            self.received.fill(&self.stream).await?;
        }
        let message = self.received.next_message()?.expect("a whole message was seen");
        match Backend::from_message(message)? {
            Backend::Error { code, message } => {
                Err(ClientError::Refused { code: code.into(), message: message.into() })
            }
            other => Ok(other),
        }
    }
}

fn unexpected(message: &Backend<'_>) -> ClientError {
    // A debug text of a data message would be as long as its WAL.
    ClientError::Unexpected(echo(&format!("{message:?}")))
}

fn echo(text: &str) -> String {
    text[..text.floor_char_boundary(80)].to_string()
}
