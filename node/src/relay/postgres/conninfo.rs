//! Connection strings as libpq takes them: `key=value` lists and URIs, `PG*` variables, password files
//! (PostgreSQL documentation, "Database Connection Control Functions").
//!
//! Parsing is pure: environment and files are handed in. What a relay has no use for is accepted and ignored where
//! ignoring it is harmless, and refused where it would weaken what the user asked for.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Hosts of one connection string. libpq has no bound; a relay has no use for more.
const HOSTS_MAX: usize = 16;

/// A connection string that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConninfoError {
    /// Not of the form `key=value` or a URI.
    #[error("connection string: {0}")]
    Syntax(String),
    /// A key that libpq may know and we do not.
    #[error("connection string: option {0:?} is not supported")]
    UnknownOption(String),
    /// A value that its key does not take.
    #[error("connection string: {key} is {found:?}, expected {expected}")]
    Value {
        /// The option.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was given.
        found: String,
    },
}

/// When to use TLS and what to check of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server has it; nothing is checked. libpq's `allow` and `prefer`.
    Prefer,
    /// Always; nothing is checked, unless a root certificate file is there.
    Require,
    /// Always; the certificate must lead to a known root.
    VerifyCa,
    /// Always; the certificate must lead to a known root and name the host.
    VerifyFull,
}

/// Whether SCRAM must be tied to the TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always: a server that does not offer it is refused.
    Require,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Name or address; a Unix socket's directory when it begins with `/` or `@`. Certificates are checked against it.
    pub host: String,
    /// Address to connect to instead of looking `host` up.
    pub host_address: Option<String>,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
}

impl ServerAddress {
    /// The path of its Unix socket, if that is how to reach it: `host` is the socket's directory, or begins with `@`,
    /// which stands for the zero byte of Linux' abstract names (PostgreSQL src/include/libpq/pqcomm.h).
    pub fn unix_socket(&self) -> Option<String> {
        let is_socket = self.host_address.is_none() && self.host.starts_with(['/', '@']);
        is_socket.then(|| format!("{}/.s.PGSQL.{}", self.host, self.port))
    }
}

/// Everything needed to open a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers, tried in this order; never empty.
    pub servers: Vec<ServerAddress>,
    /// Role.
    pub user: String,
    /// Password given in the string or the environment.
    pub password: Option<String>,
    /// Password file; `None` when there is no home directory to look in.
    pub passfile: Option<PathBuf>,
    /// Database of ordinary connections. Replication connections name none.
    pub database: Option<String>,
    /// Name by which `synchronous_standby_names` knows the connection.
    pub application_name: Option<String>,
    /// When to use TLS.
    pub ssl_mode: SslMode,
    /// Root certificates, PEM. `None`: libpq's default file, if it is there.
    pub ssl_root_certificate: Option<PathBuf>,
    /// Our certificate chain and key, PEM.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    /// Whether SCRAM is tied to TLS.
    pub channel_binding: ChannelBinding,
    /// How long one server may take to connect and authenticate.
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conninfo")
            .field("servers", &self.servers)
            .field("user", &self.user)
            .field("ssl_mode", &self.ssl_mode)
            .finish_non_exhaustive()
    }
}

/// Time for one server to connect and authenticate when the string names none.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

impl Conninfo {
    /// Parses `text`; what it leaves open comes from `environment` (`PGHOST` and so on, `HOME`, `USER`).
    pub fn parse(
        text: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Conninfo, ConninfoError> {
        let pairs = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            uri_pairs(text)?
        } else {
            key_value_pairs(text)?
        };
        let mut options = Options::default();
        for (key, value) in pairs {
            options.set(&key, value)?;
        }
        options.fill_from(environment)?;
        options.finish(environment)
    }
}

/// Values by libpq's keys, before defaults.
#[derive(Default)]
struct Options {
    values: [Option<String>; KEYS.len()],
}

/// Keys that matter, each with its environment variable.
const KEYS: [(&str, &str); 15] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("dbname", "PGDATABASE"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
];

/// Keys that a relay may ignore without weakening anything.
const IGNORED_KEYS: [&str; 12] = [
    "fallback_application_name",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gssencmode",
    "sslcompression",
    "sslsni",
    "replication",
    "target_session_attrs",
];

impl Options {
    fn set(&mut self, key: &str, value: String) -> Result<(), ConninfoError> {
        if let Some(index) = KEYS.iter().position(|(name, _)| *name == key) {
            self.values[index] = Some(value);
        } else if !IGNORED_KEYS.contains(&key) {
            return Err(ConninfoError::UnknownOption(key.to_string()));
        }
        Ok(())
    }

    fn fill_from(
        &mut self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConninfoError> {
        for (value, (_, variable)) in self.values.iter_mut().zip(KEYS) {
            if value.is_none() {
                *value = environment(variable).filter(|text| !text.is_empty());
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        let index = KEYS.iter().position(|(name, _)| *name == key).expect("only keys of the table");
        self.values[index].as_deref().filter(|text| !text.is_empty())
    }

    fn finish(
        self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Conninfo, ConninfoError> {
        let home = environment("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let user = match self.get("user") {
            Some(user) => user.to_string(),
            None => environment("USER").ok_or_else(|| {
                ConninfoError::Syntax("names no user, and USER is not set".to_string())
            })?,
        };
        if let Some(found) = self.get("sslnegotiation").filter(|text| *text != "postgres") {
            let (key, expected) = ("sslnegotiation", "postgres");
            return Err(ConninfoError::Value { key, expected, found: found.to_string() });
        }
        let ssl_client = match (self.get("sslcert"), self.get("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => {
                let text = "sslcert and sslkey are given together or not at all";
                return Err(ConninfoError::Syntax(text.to_string()));
            }
        };
        Ok(Conninfo {
            servers: self.servers()?,
            user,
            password: self.get("password").map(str::to_string),
            passfile: self
                .get("passfile")
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(".pgpass"))),
            database: self.get("dbname").map(str::to_string),
            application_name: self.get("application_name").map(str::to_string),
            ssl_mode: self.ssl_mode()?,
            ssl_root_certificate: self.get("sslrootcert").map(PathBuf::from).or_else(|| {
                home.map(|home| home.join(".postgresql/root.crt")).filter(|path| path.exists())
            }),
            ssl_client,
            channel_binding: self.channel_binding()?,
            connect_timeout: self.connect_timeout()?,
        })
    }

    fn servers(&self) -> Result<Vec<ServerAddress>, ConninfoError> {
        let list = |key| self.get(key).map(|text| text.split(',').map(str::trim).collect());
        let hosts: Vec<&str> = list("host").unwrap_or_default();
        let addresses: Vec<&str> = list("hostaddr").unwrap_or_default();
        let ports: Vec<&str> = list("port").unwrap_or_default();
        let count = hosts.len().max(addresses.len()).max(1);
        if count > HOSTS_MAX {
            return Err(ConninfoError::Syntax(format!("{count} hosts, at most {HOSTS_MAX}")));
        }
        let fits = |list: &[&str]| list.is_empty() || list.len() == count;
        if !fits(&hosts) || !fits(&addresses) || !(ports.len() <= 1 || ports.len() == count) {
            let text = "host, hostaddr and port name different numbers of servers";
            return Err(ConninfoError::Syntax(text.to_string()));
        }
        (0..count)
            .map(|index| {
                let address = addresses.get(index).filter(|text| !text.is_empty());
                let host = hosts.get(index).filter(|text| !text.is_empty()).or(address);
                let port = ports.get(index).or(ports.first()).filter(|text| !text.is_empty());
                Ok(ServerAddress {
                    host: host.map_or("localhost", |host| host).to_string(),
                    host_address: address.map(|text| text.to_string()),
                    port: port.map_or(Ok(5432), |text| port_number(text))?,
                })
            })
            .collect()
    }

    fn ssl_mode(&self) -> Result<SslMode, ConninfoError> {
        Ok(match self.get("sslmode").unwrap_or("prefer") {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            found => {
                return Err(ConninfoError::Value {
                    key: "sslmode",
                    expected: "disable, allow, prefer, require, verify-ca or verify-full",
                    found: found.to_string(),
                });
            }
        })
    }

    fn channel_binding(&self) -> Result<ChannelBinding, ConninfoError> {
        Ok(match self.get("channel_binding").unwrap_or("prefer") {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            found => {
                return Err(ConninfoError::Value {
                    key: "channel_binding",
                    expected: "disable, prefer or require",
                    found: found.to_string(),
                });
            }
        })
    }

    fn connect_timeout(&self) -> Result<Duration, ConninfoError> {
        let Some(text) = self.get("connect_timeout") else {
            return Ok(CONNECT_TIMEOUT_DEFAULT);
        };
        match text.parse::<u32>() {
            Ok(0) => Ok(CONNECT_TIMEOUT_DEFAULT),
            Ok(seconds) => Ok(Duration::from_secs(u64::from(seconds))),
            Err(_) => Err(ConninfoError::Value {
                key: "connect_timeout",
                expected: "seconds",
                found: text.to_string(),
            }),
        }
    }
}

fn port_number(text: &str) -> Result<u16, ConninfoError> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| ConninfoError::Value {
        key: "port",
        expected: "a number from 1 to 65535",
        found: text.to_string(),
    })
}

fn key_value_pairs(text: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return Err(ConninfoError::Syntax(format!("no \"=\" after {rest:?}")));
        };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(ConninfoError::Syntax(format!("no \"=\" after {key:?}")));
        }
        let (value, after) = take_value(after.trim_start())?;
        pairs.push((key.to_string(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value, plain or in single quotes, with backslash escapes; and what follows it.
fn take_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            _ if !quoted && character.is_whitespace() => return Ok((value, &body[at..])),
            _ => value.push(character),
        }
    }
    if quoted {
        return Err(ConninfoError::Syntax("a quoted value does not end".to_string()));
    }
    Ok((value, ""))
}

fn uri_pairs(text: &str) -> Result<Vec<(String, String)>, ConninfoError> {
    let (_, rest) = text.split_once("://").expect("the caller saw the scheme");
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut pairs = Vec::new();
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    for (key, value) in [("user", user), ("password", password), ("dbname", database)] {
        if !value.is_empty() {
            pairs.push((key.to_string(), percent_decode(value)?));
        }
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for server in hosts.split(',') {
            let (name, port) = uri_server(server)?;
            names.push(percent_decode(name)?);
            ports.push(if port.is_empty() { "5432" } else { port });
        }
        pairs.push(("host".to_string(), names.join(",")));
        if hosts.contains(':') {
            pairs.push(("port".to_string(), ports.join(",")));
        }
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(ConninfoError::Syntax(format!("URI parameter {parameter:?} has no value")));
        };
        match (percent_decode(key)?.as_str(), percent_decode(value)?) {
            ("ssl", value) if value == "true" => {
                pairs.push(("sslmode".to_string(), "require".to_string()));
            }
            (key, value) => pairs.push((key.to_string(), value)),
        }
    }
    Ok(pairs)
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn uri_server(text: &str) -> Result<(&str, &str), ConninfoError> {
    let Some(inner) = text.strip_prefix('[') else {
        return Ok(text.split_once(':').unwrap_or((text, "")));
    };
    let error = || ConninfoError::Syntax(format!("URI host {text:?} does not end with \"]\""));
    let (address, after) = inner.split_once(']').ok_or_else(error)?;
    match after.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if after.is_empty() => Ok((address, "")),
        None => Err(error()),
    }
}

fn percent_decode(text: &str) -> Result<String, ConninfoError> {
    let error = || ConninfoError::Syntax(format!("URI part {text:?} has a bad percent escape"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (digit().ok_or_else(error)?, digit().ok_or_else(error)?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| error())
}

/// The password that a password file has for a connection. `databases` are all names that the connection goes by.
pub fn password_from_file(
    content: &str,
    server: &ServerAddress,
    databases: &[&str],
    user: &str,
) -> Option<String> {
    // Whoever writes the file may not know in which directory the socket is.
    let hosts = match server.unix_socket() {
        Some(_) => vec!["localhost", &server.host],
        None => vec![server.host.as_str()],
    };
    let port = server.port.to_string();
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = passfile_fields(line);
        let [file_host, file_port, file_database, file_user, password] = fields.as_slice() else {
            return None;
        };
        let is = |field: &str, value: &str| field == "*" || field == value;
        let matches = hosts.iter().any(|host| is(file_host, host))
            && is(file_port, &port)
            && databases.iter().any(|database| is(file_database, database))
            && is(file_user, user);
        matches.then(|| password.clone())
    })
}

/// Fields between colons; a backslash escapes a colon or a backslash. `*` escaped is not told from `*` plain.
fn passfile_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("never empty");
        match character {
            '\\' => field.extend(characters.next()),
            ':' => fields.push(String::new()),
            _ => field.push(character),
        }
    }
    fields
}

#[cfg(test)]
mod tests;
