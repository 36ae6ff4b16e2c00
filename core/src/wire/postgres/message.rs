//! Messages after the startup: one tag byte, a big-endian length that counts itself, a payload.

use thiserror::Error;

/// Longest message that a node takes. The largest real one is an append of 128 KiB of WAL; a term history of tens of
/// thousands of terms fits too.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes before a message's payload.
pub const HEADER_BYTES: usize = 5;

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// A length below 4 or over the bound.
    #[error("message {tag:?} of {found_bytes} bytes: expected 4 to {MESSAGE_BYTES_MAX}")]
    Length {
        /// The message's tag.
        tag: char,
        /// The length that it says.
        found_bytes: u32,
    },
    /// A payload that ends early, is too long, or holds text that is not UTF-8.
    #[error("malformed message {tag:?} of {payload_bytes} bytes")]
    Malformed {
        /// The message's tag.
        tag: char,
        /// Length of its payload.
        payload_bytes: usize,
    },
    /// A tag that has no meaning here.
    #[error("unknown message {tag:?}")]
    Unknown {
        /// The message's tag.
        tag: char,
    },
}

/// One message: its tag and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The tag byte.
    pub tag: u8,
    /// What comes behind the length.
    pub payload: &'a [u8],
}

/// Splits the first message off `received`. `None`: more bytes are needed. Otherwise the message and its whole length.
pub fn decode(received: &[u8]) -> Result<Option<(Message<'_>, usize)>, MessageError> {
    let Some(header) = received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [tag, length @ ..] = *header;
    let length = u32::from_be_bytes(length);
    if !(4..=MESSAGE_BYTES_MAX as u32).contains(&length) {
        return Err(MessageError::Length { tag: tag.into(), found_bytes: length });
    }
    let end = 1 + length as usize;
    if received.len() < end {
        return Ok(None);
    }
    Ok(Some((Message { tag, payload: &received[HEADER_BYTES..end] }, end)))
}

/// What a client sends after authentication began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend<'a> {
    /// Answer to a password request, without its NUL.
    Password(&'a str),
    /// Simple query.
    Query(&'a str),
    /// Extended protocol: text of a statement whose name is not used.
    Parse(&'a str),
    /// Extended protocol: describe; `true` for a statement, `false` for a portal.
    Describe(bool),
    /// Extended protocol: bind; its parameters are not used.
    Bind,
    /// Extended protocol: run what was bound.
    Execute,
    /// Extended protocol: forget a statement or portal.
    Close,
    /// Extended protocol: asks that pending answers be sent.
    Flush,
    /// Extended protocol: ends a group of messages.
    Sync,
    /// Ends the session.
    Terminate,
    /// Data of a stream.
    CopyData(&'a [u8]),
    /// Ends a stream.
    CopyDone,
    /// Ends a stream by an error.
    CopyFail,
}

impl<'a> Frontend<'a> {
    /// Understands a message from a client.
    pub fn from_message(message: Message<'a>) -> Result<Frontend<'a>, MessageError> {
        let mut payload = Payload { tag: message.tag, rest: message.payload };
        Ok(match message.tag {
            b'p' => Frontend::Password(payload.text()?),
            b'Q' => Frontend::Query(payload.text()?),
            b'P' => {
                payload.text()?;
                Frontend::Parse(payload.text()?)
            }
            b'D' => Frontend::Describe(payload.byte()? == b'S'),
            b'B' => Frontend::Bind,
            b'E' => Frontend::Execute,
            b'C' => Frontend::Close,
            b'H' => Frontend::Flush,
            b'S' => Frontend::Sync,
            b'X' => Frontend::Terminate,
            b'd' => Frontend::CopyData(message.payload),
            b'c' => Frontend::CopyDone,
            b'f' => Frontend::CopyFail,
            tag => return Err(MessageError::Unknown { tag: tag.into() }),
        })
    }
}

/// What a server sends, as far as a reader or proposer among nodes needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend<'a> {
    /// Authentication request: 0 = done, 3 = clear-text password.
    Authentication(u32),
    /// One row, values in text form.
    DataRow(Vec<Option<&'a str>>),
    /// A refusal.
    Error {
        /// SQLSTATE.
        code: &'a str,
        /// Text for people.
        message: &'a str,
    },
    /// Ready for the next query.
    ReadyForQuery,
    /// A stream in both directions begins.
    CopyBoth,
    /// Data of a stream.
    CopyData(&'a [u8]),
    /// End of a stream.
    CopyDone,
    /// Anything that a client may pass over: parameters, notices, row descriptions, completions.
    Other(u8),
}

impl<'a> Backend<'a> {
    /// Understands a message from a server.
    pub fn from_message(message: Message<'a>) -> Result<Backend<'a>, MessageError> {
        let mut payload = Payload { tag: message.tag, rest: message.payload };
        Ok(match message.tag {
            b'R' => Backend::Authentication(payload.u32()?),
            b'D' => {
                // A column takes at least 4 bytes, so the payload's length bounds the vector.
                let columns = payload.u16()?;
                let mut values = Vec::new();
                for _ in 0..columns {
                    values.push(payload.column()?);
                }
                Backend::DataRow(values)
            }
            b'E' => {
                let (mut code, mut text) = ("", "");
                loop {
                    match payload.byte()? {
                        0 => break,
                        b'C' => code = payload.text()?,
                        b'M' => text = payload.text()?,
                        _ => {
                            payload.text()?;
                        }
                    }
                }
                Backend::Error { code, message: text }
            }
            b'Z' => Backend::ReadyForQuery,
            b'W' => Backend::CopyBoth,
            b'd' => Backend::CopyData(message.payload),
            b'c' => Backend::CopyDone,
            tag => Backend::Other(tag),
        })
    }
}

/// Takes a payload apart from its front.
struct Payload<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Payload<'a> {
    fn malformed(&self) -> MessageError {
        MessageError::Malformed { tag: self.tag.into(), payload_bytes: self.rest.len() }
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], MessageError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        Ok(self.bytes(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<&'a str, MessageError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.malformed())?;
        let text = std::str::from_utf8(&self.rest[..end]).map_err(|_| self.malformed())?;
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    fn column(&mut self) -> Result<Option<&'a str>, MessageError> {
        let length = self.u32()?;
        if length == u32::MAX {
            return Ok(None);
        }
        let bytes = self.bytes(length as usize)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.malformed())
    }
}

/// Type of a column in a row description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`.
    Text,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `bytea`.
    Bytes,
}

/// Appends messages to a send buffer.
pub trait Encode {
    /// A message of `tag`, whose payload `fill` appends.
    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>));

    /// AuthenticationOk.
    fn authentication_ok(&mut self) {
        self.message(b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
    }

    /// AuthenticationCleartextPassword.
    fn authentication_password(&mut self) {
        self.message(b'R', |out| out.extend_from_slice(&3u32.to_be_bytes()));
    }

    /// ParameterStatus.
    fn parameter_status(&mut self, name: &str, value: &str) {
        self.message(b'S', |out| {
            push_text(out, name);
            push_text(out, value);
        });
    }

    /// ReadyForQuery, outside of a transaction.
    fn ready_for_query(&mut self) {
        self.message(b'Z', |out| out.push(b'I'));
    }

    /// ErrorResponse.
    fn error_response(&mut self, code: &str, text: &str) {
        self.message(b'E', |out| {
            for (field, value) in [(b'S', "ERROR"), (b'C', code), (b'M', text)] {
                out.push(field);
                push_text(out, value);
            }
            out.push(0);
        });
    }

    /// CommandComplete.
    fn command_complete(&mut self, command: &str) {
        self.message(b'C', |out| push_text(out, command));
    }

    /// RowDescription.
    fn row_description(&mut self, columns: &[(&str, ColumnType)]) {
        self.message(b'T', |out| {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for (name, column_type) in columns {
                let (oid, length): (u32, i16) = match column_type {
                    ColumnType::Text => (25, -1),
                    ColumnType::Int4 => (23, 4),
                    ColumnType::Int8 => (20, 8),
                    ColumnType::Bytes => (17, -1),
                };
                push_text(out, name);
                out.extend_from_slice(&[0; 6]);
                out.extend_from_slice(&oid.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&(-1i32).to_be_bytes());
                out.extend_from_slice(&[0; 2]);
            }
        });
    }

    /// DataRow, values in text form.
    fn data_row(&mut self, values: &[Option<&str>]) {
        self.message(b'D', |out| {
            out.extend_from_slice(&(values.len() as u16).to_be_bytes());
            for value in values {
                match value {
                    None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                    Some(text) => {
                        out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                        out.extend_from_slice(text.as_bytes());
                    }
                }
            }
        });
    }

    /// CopyBothResponse without columns.
    fn copy_both(&mut self) {
        self.message(b'W', |out| out.extend_from_slice(&[0; 3]));
    }

    /// CopyDone, from either side.
    fn copy_done(&mut self) {
        self.message(b'c', |_| {});
    }

    /// Query, from a client.
    fn query(&mut self, text: &str) {
        self.message(b'Q', |out| push_text(out, text));
    }

    /// PasswordMessage, from a client.
    fn password(&mut self, text: &str) {
        self.message(b'p', |out| push_text(out, text));
    }

    /// Terminate, from a client.
    fn terminate(&mut self) {
        self.message(b'X', |_| {});
    }
}

impl Encode for Vec<u8> {
    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.push(tag);
        let start = self.len();
        self.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u32::try_from(self.len() - start).expect("a message is shorter than 4 GiB");
        self[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a NUL-terminated string; a NUL inside ends it early rather than shift what follows.
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().take_while(|byte| *byte != 0));
    out.push(0);
}

#[cfg(test)]
mod tests;
