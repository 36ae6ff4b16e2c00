//! The first packets of a connection: encryption requests, cancel requests, the startup message and its options.

use thiserror::Error;

use crate::types::{TenantId, TimelineId};

/// Longest startup packet, as in Postgres (src/include/libpq/pqcomm.h, MAX_STARTUP_PACKET_LENGTH).
pub const STARTUP_BYTES_MAX: usize = 10_000;

const PROTOCOL_3_0: u32 = 3 << 16;
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSS_ENCRYPTION_REQUEST: u32 = (1234 << 16) | 5680;
/// First byte of a TLS connection, which no startup packet begins with.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// The packet that asks for TLS, for the client side: its length and its code.
pub const SSL_REQUEST_PACKET: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why the first packet of a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartupError {
    /// A TLS client hello without an SSLRequest before it.
    #[error("direct TLS is not configured on this port")]
    DirectTls,
    /// A length outside of what Postgres itself takes.
    #[error(
        "startup packet of {found_bytes} bytes: expected 8 to {STARTUP_BYTES_MAX}; not a Postgres client?"
    )]
    Length {
        /// The length that the packet says.
        found_bytes: u32,
    },
    /// A protocol version other than 3.x.
    #[error("unsupported frontend protocol {major}.{minor}: expected 3.0")]
    Version {
        /// Upper half of the version.
        major: u32,
        /// Lower half of the version.
        minor: u32,
    },
    /// Parameters that are not NUL-terminated pairs of UTF-8 strings.
    #[error("startup packet: parameters are not pairs of NUL-terminated strings")]
    Parameters,
    /// A value inside `options` that does not parse.
    #[error("invalid option {name}={value:?}: expected {expected}")]
    Option {
        /// Name of the option.
        name: String,
        /// What was sent.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
}

/// A packet that comes before authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// Asks for TLS: answered by one byte, `S` or `N`.
    SslRequest,
    /// Asks for GSSAPI encryption: answered by one byte, `N`.
    GssEncryptionRequest,
    /// Asks to cancel a query: the connection is closed.
    CancelRequest,
    /// Begins the session.
    Startup(StartupParameters),
}

/// What a client says about the session that it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartupParameters {
    /// `application_name`, empty when not sent.
    pub application_name: String,
    /// Whether `replication` asks for a walsender, as stock clients of physical replication do.
    pub replication: bool,
    /// `tenant_id` inside `options`.
    pub tenant_id: Option<TenantId>,
    /// `timeline_id` inside `options`.
    pub timeline_id: Option<TimelineId>,
    /// `protocol` inside `options`: how the session wants to read WAL.
    pub read_protocol: ReadProtocol,
}

/// In which form a session reads WAL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadProtocol {
    /// Raw WAL bytes.
    #[default]
    Vanilla,
    /// Decoded records, as Neon's page servers ask for; refused when the stream starts.
    Interpreted,
}

/// Decodes the first packet of `received`. `None`: more bytes are needed. Otherwise the packet and its length in bytes.
pub fn decode(received: &[u8]) -> Result<Option<(StartupPacket, usize)>, StartupError> {
    if received.first() == Some(&TLS_HANDSHAKE) {
        return Err(StartupError::DirectTls);
    }
    let Some(length_field) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length_field);
    if !(8..=STARTUP_BYTES_MAX as u32).contains(&length) {
        return Err(StartupError::Length { found_bytes: length });
    }
    let length_bytes = length as usize;
    if received.len() < length_bytes {
        return Ok(None);
    }
    let code_field = received[4..8].first_chunk::<4>().expect("the slice is 4 bytes long");
    let packet = match u32::from_be_bytes(*code_field) {
        SSL_REQUEST => StartupPacket::SslRequest,
        GSS_ENCRYPTION_REQUEST => StartupPacket::GssEncryptionRequest,
        CANCEL_REQUEST => StartupPacket::CancelRequest,
        version if version >> 16 == PROTOCOL_3_0 >> 16 => {
            StartupPacket::Startup(decode_parameters(&received[8..length_bytes])?)
        }
        version => {
            return Err(StartupError::Version { major: version >> 16, minor: version & 0xFFFF });
        }
    };
    Ok(Some((packet, length_bytes)))
}

/// The packet that begins a session, for the client side.
pub fn encode_startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).expect("a startup packet is short");
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn decode_parameters(mut bytes: &[u8]) -> Result<StartupParameters, StartupError> {
    let mut parameters = StartupParameters::default();
    loop {
        let name = take_text(&mut bytes)?;
        if name.is_empty() {
            break;
        }
        let value = take_text(&mut bytes)?;
        match name {
            "application_name" => parameters.application_name = value.to_string(),
            "replication" => parameters.replication = true,
            "options" => apply_options(&mut parameters, value)?,
            _ => {}
        }
    }
    if bytes.is_empty() { Ok(parameters) } else { Err(StartupError::Parameters) }
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, StartupError> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(StartupError::Parameters)?;
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| StartupError::Parameters)?;
    *bytes = &bytes[end + 1..];
    Ok(text)
}

fn apply_options(parameters: &mut StartupParameters, options: &str) -> Result<(), StartupError> {
    let error = |name: &str, value: &str, expected| StartupError::Option {
        name: name.to_string(),
        value: value.to_string(),
        expected,
    };
    for word in split_options(options) {
        // `-c name=value`, `-cname=value` and `--name=value` are the same to Postgres.
        let setting = word.strip_prefix("--").or(word.strip_prefix("-c")).unwrap_or(&word);
        let Some((name, value)) = setting.split_once('=') else { continue };
        match name {
            "tenant_id" | "ztenantid" => {
                let id = value.parse().map_err(|_| error(name, value, "32 hex digits"))?;
                parameters.tenant_id = Some(id);
            }
            "timeline_id" | "ztimelineid" => {
                let id = value.parse().map_err(|_| error(name, value, "32 hex digits"))?;
                parameters.timeline_id = Some(id);
            }
            "protocol" if value.contains("\"vanilla\"") => {
                parameters.read_protocol = ReadProtocol::Vanilla;
            }
            "protocol" if value.contains("\"interpreted\"") => {
                parameters.read_protocol = ReadProtocol::Interpreted;
            }
            "protocol" => return Err(error(name, value, r#"{"type":"vanilla"}"#)),
            _ => {}
        }
    }
    Ok(())
}

/// Splits at white space; a backslash keeps the character behind it.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            word.extend(characters.next());
        } else if !character.is_ascii_whitespace() {
            word.push(character);
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests;
