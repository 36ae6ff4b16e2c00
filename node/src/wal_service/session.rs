//! One connection on its owning shard: authentication, then commands, until one of them takes the connection over.

use std::io;
use std::net::Shutdown;

use firn_core::consensus::postgres_history::PostgresHistory;
use firn_core::types::{PostgresVersion, Term, TimelineKey};
use firn_core::wire::postgres::message::{ColumnType, Encode, Frontend, MessageError};
use firn_core::wire::postgres::startup::StartupParameters;
use serde::Serialize;
use thiserror::Error;
use tracing::Instrument;

use crate::auth::{AuthError, Grant};
use crate::runtime::Stream;
use crate::shard::Shard;
use crate::wal_service::command::{self, Command, Question};
use crate::wal_service::connections::Place;
use crate::wal_service::handover::Handover;
use crate::wal_service::push;
use crate::wal_service::receive::{ReceiveError, Received};
use crate::wal_service::send::{self, After};
use crate::wal_service::walsender::{self, Refusal, TemporarySlots};

/// SQLSTATE `internal_error`: what the reference acceptor says of every ordinary error.
pub const INTERNAL_ERROR: &str = "XX000";
/// SQLSTATE `successful_completion`: a stream that ends as it should.
pub const SUCCESSFUL: &str = "00000";
/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// Longest password message; tokens have some hundred bytes, and `auth` refuses those of more than 8 KiB.
const PASSWORD_BYTES_MAX: usize = 16 * 1024;

/// Longest text of a parsed statement that is kept until it is executed.
const STATEMENT_BYTES_MAX: usize = 16 * 1024;

/// An authenticated connection.
pub struct Session {
    /// The shard that owns the connection's tenant.
    pub shard: Shard,
    /// The socket.
    pub stream: Stream,
    /// Bytes from it.
    pub received: Received,
    /// The connection's place among the shard's connections.
    pub place: Place,
    /// What the startup message said.
    pub parameters: StartupParameters,
    /// Slots that end with the connection.
    temporary_slots: TemporarySlots,
}

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// No more messages.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The socket failed.
    #[error("send: {0}")]
    Send(io::Error),
    /// A message that has no place here.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A first message other than the password.
    #[error("expected a password message")]
    NoPassword,
    /// The token is not good.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Serves a connection until it ends.
pub async fn serve(shard: Shard, handover: Handover) {
    let Handover { stream, peer, received, parameters } = handover;
    let stream = Stream::from_raw(shard.runtime(), stream);
    let counters = &shard.metrics().counters;
    let Some(place) = shard.connections().enter(&stream) else {
        counters.connections_refused.increment();
        // The client may be gone; it is dropped either way.
        let _ = send_error(&stream, TOO_MANY_CONNECTIONS, "too many connections").await;
        return;
    };
    counters.connections.increment();
    let text = |id: Option<String>| id.unwrap_or_default();
    let span = tracing::info_span!(
        "connection",
        shard = shard.number(),
        %peer,
        tenant = text(parameters.tenant_id.map(|id| id.to_string())),
        timeline = text(parameters.timeline_id.map(|id| id.to_string())),
    );
    let session = Session {
        shard: shard.clone(),
        stream: stream.clone(),
        received: Received::new(received, place.room()),
        place,
        parameters,
        temporary_slots: TemporarySlots::default(),
    };
    let result = session.run().instrument(span.clone()).await;
    counters.connections.decrement();
    span.in_scope(|| match result {
        Ok(()) | Err(SessionError::Receive(ReceiveError::Closed)) => {
            tracing::debug!("connection ended");
        }
        Err(error) => tracing::info!(%error, "connection ended"),
    });
    // The client may have closed it already.
    let _ = stream.shutdown(Shutdown::Both).await;
}

impl Session {
    async fn run(mut self) -> Result<(), SessionError> {
        let grant = match self.authenticate().await {
            Ok(grant) => grant,
            Err(error) => {
                self.shard.metrics().counters.connections_refused.increment();
                let text = match &error {
                    SessionError::Auth(_) | SessionError::NoPassword => "JWT authentication error",
                    _ => return Err(error),
                };
                self.send_error(INTERNAL_ERROR, text).await?;
                return Err(error);
            }
        };
        self.place.authenticated();
        self.commands(grant).await
    }

    async fn authenticate(&mut self) -> Result<Grant, SessionError> {
        let mut greeting = Vec::new();
        let credentials = self.shard.credentials();
        let Some(keys) = &credentials.public_keys else {
            self.accept(&mut greeting);
            self.send(greeting).await?;
            return Ok(Grant::Node);
        };
        greeting.authentication_password();
        self.send(greeting).await?;
        let now_unix_s = u64::try_from(self.shard.runtime().unix_time_us() / 1_000_000);
        let grant = loop {
            if let Some(message) = self.received.next_message()? {
                break match Frontend::from_message(message)? {
                    Frontend::Password(token) => keys.verify(token, now_unix_s.unwrap_or(0))?,
                    _ => return Err(SessionError::NoPassword),
                };
            }
            // Nobody who is not let in yet takes memory.
            if self.received.expected_bytes() > PASSWORD_BYTES_MAX {
                return Err(SessionError::NoPassword);
            }
            self.received.fill(&self.stream).await?;
        };
        if let Some(tenant_id) = self.parameters.tenant_id {
            grant.check_tenant(tenant_id)?;
        }
        let mut accepted = Vec::new();
        self.accept(&mut accepted);
        self.send(accepted).await?;
        Ok(grant)
    }

    /// The end of authentication. Stock clients look at how integers are written, and ask only what a server of that
    /// version understands.
    fn accept(&self, greeting: &mut Vec<u8>) {
        let version = self.cluster_version().filter(|_| self.parameters.replication);
        let version = walsender::server_version(version.unwrap_or(PostgresVersion(0)));
        greeting.authentication_ok();
        greeting.parameter_status("client_encoding", "UTF8");
        greeting.parameter_status("integer_datetimes", "on");
        greeting.parameter_status("server_version", &version);
        greeting.ready_for_query();
    }

    fn cluster_version(&self) -> Option<PostgresVersion> {
        let tenant_id = self.parameters.tenant_id?;
        let timeline_id = self.parameters.timeline_id?;
        let timeline = self.shard.timeline(TimelineKey { tenant_id, timeline_id }).ok()?;
        Some(timeline.with_acceptor(|acceptor| acceptor.state().postgres_version))
    }

    /// Answers commands until the client leaves or one of them takes the connection over.
    async fn commands(mut self, grant: Grant) -> Result<(), SessionError> {
        let mut statement = String::new();
        // In the extended protocol an error makes the server pass over everything up to the Sync.
        let mut failed = false;
        loop {
            let Some(message) = self.received.next_message()? else {
                self.received.fill(&self.stream).await?;
                self.place.heard();
                continue;
            };
            let message = Frontend::from_message(message)?;
            let mut answer = Vec::new();
            let (text, simple) = match message {
                Frontend::Query(text) => (text.to_string(), true),
                Frontend::Execute if !failed => (std::mem::take(&mut statement), false),
                Frontend::Terminate => return Ok(()),
                Frontend::Sync => {
                    failed = false;
                    answer.ready_for_query();
                    self.send(answer).await?;
                    continue;
                }
                Frontend::Parse(text) if !failed => {
                    if text.len() > STATEMENT_BYTES_MAX {
                        failed = true;
                        answer.error_response(INTERNAL_ERROR, "statement too long");
                    } else {
                        statement = text.to_string();
                        answer.message(b'1', |_| {});
                    }
                    self.send(answer).await?;
                    continue;
                }
                Frontend::Describe(true) if !failed => {
                    answer.message(b't', |out| out.extend_from_slice(&[0; 2]));
                    answer.message(b'n', |_| {});
                    self.send(answer).await?;
                    continue;
                }
                Frontend::Bind if !failed => {
                    answer.message(b'2', |_| {});
                    self.send(answer).await?;
                    continue;
                }
                Frontend::Close if !failed => {
                    answer.message(b'3', |_| {});
                    self.send(answer).await?;
                    continue;
                }
                // A client's library may end an ended stream once more.
                Frontend::CopyFail | Frontend::CopyDone | Frontend::CopyData(_) => continue,
                Frontend::Flush => continue,
                _ if failed => continue,
                _ => {
                    failed = true;
                    self.send_error(INTERNAL_ERROR, "unsupported message").await?;
                    continue;
                }
            };
            match self.target(&text, grant) {
                Ok((Command::StartWalPush { protocol_version, allow_timeline_creation }, key)) => {
                    self.place.serves(key);
                    return push::serve(self, key, protocol_version, allow_timeline_creation).await;
                }
                Ok((Command::StartReplication(start), key)) => match self.shard.timeline(key) {
                    Ok(timeline) => {
                        self.place.serves(key);
                        match send::serve(&mut self, &timeline, &start, &mut answer).await? {
                            After::NextCommand => {}
                            After::Close => return Ok(()),
                        }
                    }
                    Err(error) => answer.error_response(INTERNAL_ERROR, &error.to_string()),
                },
                Ok((Command::Walsender(question), key)) => {
                    if let Err((code, text)) = self.walsender(&question, key, &mut answer) {
                        failed = !simple;
                        answer.error_response(code, &text);
                    }
                }
                Ok((Command::SetPostgresHistory { term, history }, key)) => {
                    match self.set_postgres_history(key, term, &history).await {
                        Ok(()) => answer.command_complete("SET_POSTGRES_HISTORY"),
                        Err(text) => {
                            failed = !simple;
                            answer.error_response(INTERNAL_ERROR, &text);
                        }
                    }
                }
                Ok((Command::PostgresHistory, key)) => self.postgres_history(key, &mut answer),
                Ok((Command::SetDatestyle, _)) => answer.command_complete("SELECT 1"),
                Ok((Command::IdentifySystem, key)) => self.identify_system(key, &mut answer),
                Ok((Command::TimelineStatus, key)) => self.timeline_status(key, &mut answer),
                Ok((Command::TimelineState, key)) => match self.shard.timeline(key) {
                    Ok(timeline) => answer_json(&mut answer, &timeline.status(), "TIMELINE_STATE"),
                    Err(error) => answer.error_response(INTERNAL_ERROR, &error.to_string()),
                },
                Ok((Command::ExchangePositions(report), _)) => {
                    let own = self.shard.exchange().answer(&self.shard, report).await;
                    answer_json(&mut answer, &own, "EXCHANGE_POSITIONS");
                }
                Err(text) => {
                    failed = !simple;
                    answer.error_response(INTERNAL_ERROR, &text);
                }
            }
            if simple {
                answer.ready_for_query();
            }
            self.send(answer).await?;
        }
    }

    /// What a command asks for, and of which timeline; or the text of the refusal.
    fn target(&self, text: &str, grant: Grant) -> Result<(Command, TimelineKey), String> {
        let command = command::parse(text).map_err(|error| error.to_string())?;
        if command == Command::SetDatestyle {
            return Ok((command, TimelineKey::default()));
        }
        if let Command::ExchangePositions(_) = command {
            grant.check_node().map_err(|error| error.to_string())?;
            return Ok((command, TimelineKey::default()));
        }
        let tenant_id = self.parameters.tenant_id.ok_or("tenantid is required")?;
        let timeline_id = self.parameters.timeline_id.ok_or("timelineid is required")?;
        grant.check_tenant(tenant_id).map_err(|error| error.to_string())?;
        Ok((command, TimelineKey { tenant_id, timeline_id }))
    }

    /// What a stock client asks before it streams.
    fn walsender(
        &mut self,
        question: &Question,
        key: TimelineKey,
        answer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let timeline = self.shard.timeline(key);
        let timeline = timeline.map_err(|error| (INTERNAL_ERROR, error.to_string()))?;
        walsender::answer(&timeline, question, &mut self.temporary_slots, answer)
    }

    async fn set_postgres_history(
        &self,
        key: TimelineKey,
        term: Term,
        history: &PostgresHistory,
    ) -> Result<(), String> {
        let timeline = self.shard.timeline(key).map_err(|error| error.to_string())?;
        let set = timeline.set_postgres_history(term, history).await;
        set.map_err(|error| error.to_string())
    }

    fn postgres_history(&self, key: TimelineKey, answer: &mut Vec<u8>) {
        let timeline = match self.shard.timeline(key) {
            Ok(timeline) => timeline,
            Err(error) => return answer.error_response(INTERNAL_ERROR, &error.to_string()),
        };
        let history = timeline.with_acceptor(|acceptor| acceptor.state().postgres_history.clone());
        let json =
            serde_json::to_string(&history).expect("a history has no keys that are not texts");
        answer.row_description(&[("history", ColumnType::Text)]);
        answer.data_row(&[Some(&json)]);
        answer.command_complete("POSTGRES_HISTORY");
    }

    fn identify_system(&self, key: TimelineKey, answer: &mut Vec<u8>) {
        let timeline = match self.shard.timeline(key) {
            Ok(timeline) => timeline,
            Err(error) => return answer.error_response(INTERNAL_ERROR, &error.to_string()),
        };
        let status = timeline.status();
        let name = &self.parameters.application_name;
        let is_peer = name == "wal_proposer_recovery" || name.starts_with("safekeeper");
        let position = if is_peer { status.flush_lsn } else { status.commit_lsn };
        answer.row_description(&[
            ("systemid", ColumnType::Text),
            ("timeline", ColumnType::Int4),
            ("xlogpos", ColumnType::Text),
            ("dbname", ColumnType::Text),
        ]);
        let system_id = status.pg_info.system_id.to_string();
        let postgres_timeline = timeline.settled_postgres_history().last().0.to_string();
        let position = position.to_string();
        answer.data_row(&[Some(&system_id), Some(&postgres_timeline), Some(&position), None]);
        answer.command_complete("IDENTIFY_SYSTEM");
    }

    fn timeline_status(&self, key: TimelineKey, answer: &mut Vec<u8>) {
        answer
            .row_description(&[("flush_lsn", ColumnType::Text), ("commit_lsn", ColumnType::Text)]);
        if let Ok(timeline) = self.shard.timeline(key) {
            let status = timeline.status();
            let (flush, commit) = (status.flush_lsn.to_string(), status.commit_lsn.to_string());
            answer.data_row(&[Some(&flush), Some(&commit)]);
        }
        answer.command_complete("TIMELINE_STATUS");
    }

    /// Sends bytes.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), SessionError> {
        self.stream.send_all(bytes).await.0.map_err(SessionError::Send)
    }

    /// Sends an ErrorResponse.
    pub async fn send_error(&self, code: &str, text: &str) -> Result<(), SessionError> {
        send_error(&self.stream, code, text).await.map_err(SessionError::Send)
    }
}

/// One row with one column of JSON.
fn answer_json(answer: &mut Vec<u8>, value: &impl Serialize, command: &str) {
    let json = serde_json::to_string(value).expect("its keys are texts");
    answer.row_description(&[("json", ColumnType::Text)]);
    answer.data_row(&[Some(&json)]);
    answer.command_complete(command);
}

async fn send_error(stream: &Stream, code: &str, text: &str) -> io::Result<()> {
    let mut answer = Vec::new();
    answer.error_response(code, text);
    stream.send_all(answer).await.0
}
