//! A session with a server: startup, authentication, simple queries, the switch to streaming.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use firn_core::wire::postgres::message::{self, Backend, Encode, Message, MessageError};
use firn_core::wire::postgres::startup::{SSL_REQUEST_PACKET, encode_startup};
use rustls::ClientConfig;
use thiserror::Error;

use super::authentication::{Authentication, AuthenticationError, BindingData, Step};
use super::conninfo::{ChannelBinding, Conninfo, ServerAddress, SslMode, password_from_file};
use super::tls::{TlsError, binding_data, client_connection};
use super::transport::Transport;
use crate::runtime::Runtime;
use crate::{small_file, tls};

/// Most rows of an answer that a relay has a use for: the walsenders of a server.
const ROWS_MAX: usize = 10_000;

/// Why a session failed. Each names its server once, in [`ConnectionError::At`].
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// Any of the others, with the server's address.
    #[error("{server}: {source}")]
    At {
        /// `host:port`, or the path of a Unix socket.
        server: String,
        /// What happened there.
        source: Box<ConnectionError>,
    },
    /// The network.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// No answer within the time that was given.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A message that is not one.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message that has no place here.
    #[error("unexpected message {tag:?} while {during}")]
    Unexpected {
        /// Its tag.
        tag: char,
        /// What was going on.
        during: &'static str,
    },
    /// The server's own refusal.
    #[error("{message} (SQLSTATE {code})")]
    Server {
        /// SQLSTATE.
        code: String,
        /// Its text.
        message: String,
    },
    /// TLS is wanted and the server has none.
    #[error("the server does not speak TLS, and sslmode asks for it")]
    NoTls,
    /// More bytes than the one of the answer to SSLRequest: someone may be injecting clear text.
    #[error("the server sent clear text behind its answer to the TLS request")]
    InjectedText,
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authentication failed on our side.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// Too long an answer.
    #[error("an answer of more than {ROWS_MAX} rows")]
    TooManyRows,
}

impl ConnectionError {
    /// The server's SQLSTATE, if the server refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            ConnectionError::At { source, .. } => source.code(),
            ConnectionError::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    fn at(self, server: &str) -> ConnectionError {
        ConnectionError::At { server: server.to_string(), source: Box::new(self) }
    }
}

/// One row of an answer, in text form.
pub type Row = Vec<Option<String>>;

/// A session that is ready for a query, or streaming.
pub struct Connection {
    transport: Transport,
    received: Vec<u8>,
    /// Bytes of `received` that were handed out.
    consumed: usize,
    process_id: Option<i32>,
}

impl Connection {
    /// Connects to the first of the servers that lets us in.
    pub async fn open(
        runtime: &Runtime,
        conninfo: &Conninfo,
        parameters: &[(&str, &str)],
    ) -> Result<Connection, ConnectionError> {
        let mut last_error = None;
        for server in &conninfo.servers {
            let name = server.unix_socket().unwrap_or(format!("{}:{}", server.host, server.port));
            let opened = Connection::open_one(runtime, conninfo, server, parameters);
            match within(runtime, conninfo.connect_timeout, opened).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last_error = Some(error.at(&name)),
            }
        }
        Err(last_error.expect("a connection string names a server"))
    }

    async fn open_one(
        runtime: &Runtime,
        conninfo: &Conninfo,
        server: &ServerAddress,
        parameters: &[(&str, &str)],
    ) -> Result<Connection, ConnectionError> {
        let transport = open_transport(runtime, conninfo, server).await?;
        let binding = if transport.stream().is_encrypted() {
            binding_data(transport.stream().peer_certificate())
        } else {
            BindingData::NoTls
        };
        let mut connection = Connection::new(transport);
        let mut all = vec![("user", conninfo.user.as_str())];
        all.extend_from_slice(parameters);
        let authentication = Authentication::new(
            &conninfo.user,
            password(conninfo, server),
            conninfo.channel_binding,
            binding,
        );
        connection.begin(&all, authentication).await?;
        Ok(connection)
    }

    /// Connects to an acceptor, through TLS if there is something to trust, with an optional password.
    pub async fn open_acceptor(
        runtime: &Runtime,
        address: &str,
        parameters: &[(&str, &str)],
        password: Option<String>,
        trusted: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Result<Connection, ConnectionError> {
        let opened = async {
            let transport = Transport::new(tls::connect(runtime, address, trusted).await?);
            let mut connection = Connection::new(transport);
            let binding = (ChannelBinding::Disable, BindingData::NoTls);
            let authentication = Authentication::new("relay", password, binding.0, binding.1);
            connection.begin(parameters, authentication).await?;
            Ok(connection)
        };
        within(runtime, timeout, opened).await
    }

    fn new(transport: Transport) -> Connection {
        Connection { transport, received: Vec::new(), consumed: 0, process_id: None }
    }

    /// The server process behind this session, as pg_stat_replication names it.
    pub fn process_id(&self) -> Option<i32> {
        self.process_id
    }

    /// Startup and authentication, until the server is ready for a query.
    async fn begin(
        &mut self,
        parameters: &[(&str, &str)],
        mut authentication: Authentication,
    ) -> Result<(), ConnectionError> {
        self.send(encode_startup(parameters)).await?;
        let mut authenticated = false;
        loop {
            let message = self.receive().await?;
            let answer = match message.tag {
                b'R' => authentication.answer(message.payload)?,
                b'E' => return Err(refusal(message)),
                b'Z' if authenticated => return Ok(()),
                b'K' if authenticated => {
                    let id = message.payload.first_chunk::<4>().copied();
                    self.process_id = id.map(i32::from_be_bytes);
                    continue;
                }
                b'S' if authenticated => continue,
                b'N' | b'v' => continue,
                tag => {
                    let during = "authenticating";
                    return Err(ConnectionError::Unexpected { tag: tag.into(), during });
                }
            };
            match answer {
                Step::Done => authenticated = true,
                Step::Send(bytes) if bytes.is_empty() => {}
                Step::Send(bytes) => self.send(bytes).await?,
            }
        }
    }

    /// The bytes' way, for a task that sends while another receives.
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// Sends messages as they are.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), ConnectionError> {
        Ok(self.transport.send(bytes).await?)
    }

    /// The next message.
    pub async fn receive(&mut self) -> Result<Message<'_>, ConnectionError> {
        let length_bytes = loop {
            if let Some((_, length_bytes)) = message::decode(&self.received[self.consumed..])? {
                break length_bytes;
            }
            self.received.drain(..self.consumed);
            self.consumed = 0;
            if self.transport.receive(&mut self.received).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        };
        let start = self.consumed;
        self.consumed += length_bytes;
        let decoded = message::decode(&self.received[start..])?;
        Ok(decoded.expect("a whole message was seen above").0)
    }

    /// Whether the next message is here already.
    pub fn has_message(&self) -> bool {
        matches!(message::decode(&self.received[self.consumed..]), Ok(Some(_)))
    }

    /// Runs a simple query and gives its rows.
    pub async fn query(&mut self, text: &str) -> Result<Vec<Row>, ConnectionError> {
        let mut query = Vec::new();
        query.query(text);
        self.send(query).await?;
        let mut rows: Vec<Row> = Vec::new();
        let mut refused = None;
        loop {
            let message = self.receive().await?;
            match Backend::from_message(message)? {
                Backend::DataRow(_) if rows.len() == ROWS_MAX => {
                    return Err(ConnectionError::TooManyRows);
                }
                Backend::DataRow(values) => {
                    rows.push(values.into_iter().map(|value| value.map(str::to_string)).collect());
                }
                Backend::Error { .. } => refused = Some(refusal(message)),
                Backend::ReadyForQuery => break,
                Backend::Other(_) => {}
                _ => {
                    let (tag, during) = (message.tag.into(), "awaiting rows");
                    return Err(ConnectionError::Unexpected { tag, during });
                }
            }
        }
        refused.map_or(Ok(rows), Err)
    }

    /// The one value of `SHOW name`.
    pub async fn show(&mut self, name: &str) -> Result<String, ConnectionError> {
        let rows = self.query(&format!("SHOW {name}")).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        let unexpected =
            ConnectionError::Unexpected { tag: 'Z', during: "awaiting the value of a setting" };
        value.ok_or(unexpected)
    }

    /// Sends a command that begins a stream in both directions, and awaits its beginning.
    pub async fn start_copy_both(&mut self, command: &str) -> Result<(), ConnectionError> {
        let mut query = Vec::new();
        query.query(command);
        self.send(query).await?;
        loop {
            let message = self.receive().await?;
            match Backend::from_message(message)? {
                Backend::CopyBoth => return Ok(()),
                Backend::Error { .. } => return Err(refusal(message)),
                Backend::Other(b'N' | b'S') => {}
                _ => {
                    let (tag, during) = (message.tag.into(), "awaiting the start of a stream");
                    return Err(ConnectionError::Unexpected { tag, during });
                }
            }
        }
    }
}

/// The error that an ErrorResponse carries.
pub fn refusal(message: Message<'_>) -> ConnectionError {
    match Backend::from_message(message) {
        Ok(Backend::Error { code, message }) => {
            ConnectionError::Server { code: code.to_string(), message: message.to_string() }
        }
        Ok(_) => {
            ConnectionError::Unexpected { tag: message.tag.into(), during: "awaiting an error" }
        }
        Err(error) => error.into(),
    }
}

/// Gives `work` so much time.
pub async fn within<T>(
    runtime: &Runtime,
    limit: Duration,
    work: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, ConnectionError> {
    runtime.within(limit, work).await.unwrap_or(Err(ConnectionError::Timeout(limit)))
}

async fn open_transport(
    runtime: &Runtime,
    conninfo: &Conninfo,
    server: &ServerAddress,
) -> Result<Transport, ConnectionError> {
    if let Some(path) = server.unix_socket() {
        // Never encrypted, whatever sslmode says, as with libpq: nobody else hears it.
        return Ok(Transport::new(runtime.connect_unix(&path)?));
    }
    let host = server.host_address.as_ref().unwrap_or(&server.host);
    let address = if host.contains(':') {
        format!("[{host}]:{}", server.port)
    } else {
        format!("{host}:{}", server.port)
    };
    let stream = runtime.connect(&address).await?;
    if conninfo.ssl_mode == SslMode::Disable {
        return Ok(Transport::new(stream));
    }
    stream.send_all(SSL_REQUEST_PACKET.to_vec()).await.0?;
    let (result, answer) = stream.recv(Vec::with_capacity(64)).await;
    result?;
    match answer.as_slice() {
        b"S" => {
            let connection = client_connection(conninfo, &server.host)?;
            Ok(Transport::encrypted(stream, connection).await?)
        }
        b"N" if conninfo.ssl_mode == SslMode::Prefer => Ok(Transport::new(stream)),
        b"N" => Err(ConnectionError::NoTls),
        [] => Err(ConnectionError::Closed),
        // A server that answers by an error has no TLS either; what it says is in clear.
        [b'E', ..] => Err(ConnectionError::NoTls),
        _ => Err(ConnectionError::InjectedText),
    }
}

/// The password to use with a server: the connection string's, or the password file's.
fn password(conninfo: &Conninfo, server: &ServerAddress) -> Option<String> {
    if conninfo.password.is_some() {
        return conninfo.password.clone();
    }
    let path = conninfo.passfile.as_ref()?;
    let content = String::from_utf8(small_file::read(path).ok()?).ok()?;
    let database = conninfo.database.as_deref().unwrap_or(&conninfo.user);
    password_from_file(&content, server, &["replication", database], &conninfo.user)
}
