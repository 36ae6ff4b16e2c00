//! Taking integers and texts off a byte slice, and putting them on a buffer.

use thiserror::Error;

use crate::types::Lsn;

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The message ends before its fields do.
    #[error(
        "{message} is too short: expected {expected} more bytes at offset {offset}, found {found}"
    )]
    Truncated {
        /// Which message.
        message: &'static str,
        /// Offset in the message.
        offset: usize,
        /// How many bytes the next field takes.
        expected: usize,
        /// How many are left.
        found: usize,
    },
    /// Bytes are left behind the last field.
    #[error("{message} has {found} bytes after its last field, expected none")]
    Trailing {
        /// Which message.
        message: &'static str,
        /// How many.
        found: usize,
    },
    /// A message kind that does not exist here.
    #[error("unknown {message} tag {found:#x}")]
    UnknownTag {
        /// Which family of messages.
        message: &'static str,
        /// The tag.
        found: u64,
    },
    /// A number outside of what the field may hold.
    #[error("{message}: {field} is {found}, expected {expected}")]
    OutOfRange {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
        /// What it may hold.
        expected: &'static str,
        /// What it holds.
        found: u64,
    },
    /// A text that cannot be read.
    #[error("{message}: {field} is {found:?}, expected {expected}")]
    Text {
        /// Which message.
        message: &'static str,
        /// Which field.
        field: &'static str,
        /// What it may hold.
        expected: &'static str,
        /// What it holds, cut to 64 characters.
        found: String,
    },
    /// Well-formed fields that contradict each other or a rule.
    #[error("{message}: {reason}")]
    Invalid {
        /// Which message.
        message: &'static str,
        /// Which rule.
        reason: String,
    },
}

/// A cursor over one message.
pub(crate) struct Reader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

macro_rules! integers {
    ($($name:ident $type:ty, $from:ident;)*) => {$(
        pub(crate) fn $name(&mut self) -> Result<$type, WireError> {
            Ok(<$type>::$from(self.array()?))
        }
    )*};
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Reader { message, bytes, offset: 0 }
    }

    /// Names the message once its tag is known.
    pub(crate) fn rename(&mut self, message: &'static str) {
        self.message = message;
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..len) else {
            return Err(WireError::Truncated {
                message: self.message,
                offset: self.offset,
                expected: len,
                found: rest.len(),
            });
        };
        self.offset += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take gives exactly the length asked for"))
    }

    integers! {
        u8 u8, from_be_bytes;
        u16_be u16, from_be_bytes;
        u32_be u32, from_be_bytes;
        u64_be u64, from_be_bytes;
        i32_be i32, from_be_bytes;
        i64_be i64, from_be_bytes;
        u32_le u32, from_le_bytes;
        u64_le u64, from_le_bytes;
        i64_le i64, from_le_bytes;
    }

    pub(crate) fn lsn_be(&mut self) -> Result<Lsn, WireError> {
        self.u64_be().map(Lsn)
    }

    pub(crate) fn lsn_le(&mut self) -> Result<Lsn, WireError> {
        self.u64_le().map(Lsn)
    }

    /// A text that ends with a zero byte.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let rest = &self.bytes[self.offset..];
        let Some(len) = rest.iter().position(|&byte| byte == 0) else {
            return Err(self.bad_text(field, "a text with a zero byte at its end", rest));
        };
        let text = std::str::from_utf8(&rest[..len])
            .map_err(|_| self.bad_text(field, "UTF-8", &rest[..len]))?;
        self.offset += len + 1;
        Ok(text)
    }

    pub(crate) fn bad_text(
        &self,
        field: &'static str,
        expected: &'static str,
        found: &[u8],
    ) -> WireError {
        let shown = String::from_utf8_lossy(&found[..found.len().min(TEXT_SHOWN_BYTES)]);
        WireError::Text { message: self.message, field, expected, found: shown.into_owned() }
    }

    pub(crate) fn out_of_range(
        &self,
        field: &'static str,
        expected: &'static str,
        found: u64,
    ) -> WireError {
        WireError::OutOfRange { message: self.message, field, expected, found }
    }

    pub(crate) fn invalid(&self, reason: impl ToString) -> WireError {
        WireError::Invalid { message: self.message, reason: reason.to_string() }
    }

    /// Ends a message that may have no bytes left.
    pub(crate) fn finish(self) -> Result<(), WireError> {
        match self.left() {
            0 => Ok(()),
            found => Err(WireError::Trailing { message: self.message, found }),
        }
    }
}

/// How much of a bad text an error repeats: enough to recognise it, too little to fill a log.
const TEXT_SHOWN_BYTES: usize = 64;

/// A buffer that integers are put on.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u64_be(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
    fn put_u32_be(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }
    fn put_u16_be(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }
    fn put_u64_le(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    fn put_u32_le(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    /// Puts the text up to its first zero byte, and a zero byte: nothing inside can end it early on the other side.
    fn put_text(&mut self, text: &str) {
        let end = text.find('\0').unwrap_or(text.len());
        self.put(&text.as_bytes()[..end]);
        self.put(&[0]);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
