//! Little-endian fields in and out of byte slices.

use thiserror::Error;

use crate::types::{Id, TenantId, TimelineId, TimelineKey};

/// Bytes that are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The bytes end inside a field.
    #[error("{what}: {found} bytes, expected at least {expected}")]
    Short {
        /// Which format.
        what: &'static str,
        /// How many bytes the next field ends at.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A field holds a value that it never holds.
    #[error("{what}: {field} is {found}, expected {expected}")]
    Field {
        /// Which format.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// What would be right.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The checksum does not match the bytes.
    #[error("{what}: CRC32C is {found:08x}, expected {expected:08x}")]
    Crc {
        /// Which format.
        what: &'static str,
        /// What the bytes say.
        expected: u32,
        /// What the bytes are.
        found: u32,
    },
    /// Written by a program that knows a newer format.
    #[error("{what}: format version {found}, this program reads up to {known}")]
    Version {
        /// Which format.
        what: &'static str,
        /// The version in the bytes.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A text is not UTF-8, or a value is outside of what the format allows.
    #[error("{what}: {field} is not valid")]
    Invalid {
        /// Which format.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// Takes fields from the front of a slice.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, bytes, at: 0 }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < count {
            let expected = self.at.saturating_add(count);
            return Err(FormatError::Short { what: self.what, expected, found: self.bytes.len() });
        }
        self.at += count;
        Ok(&rest[..count])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes as asked"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn id(&mut self) -> Result<Id, FormatError> {
        Ok(Id(self.array()?))
    }

    pub(super) fn key(&mut self) -> Result<TimelineKey, FormatError> {
        Ok(TimelineKey { tenant_id: TenantId(self.id()?), timeline_id: TimelineId(self.id()?) })
    }

    /// A text with its length in two bytes before it.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, FormatError> {
        let count = self.u16()? as usize;
        let bytes = self.bytes(count)?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid(field))
    }

    /// A count of items of at least `item_bytes` each: refused when that many cannot follow, so that nothing is
    /// allocated for a number that the bytes do not back.
    pub(super) fn count(
        &mut self,
        field: &'static str,
        item_bytes: usize,
    ) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        let possible = self.remaining() / item_bytes;
        if count > possible {
            return Err(FormatError::Field {
                what: self.what,
                field,
                expected: possible as u64,
                found: count as u64,
            });
        }
        Ok(count)
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn invalid(&self, field: &'static str) -> FormatError {
        FormatError::Invalid { what: self.what, field }
    }

    /// Refuses bytes after the last field.
    pub(super) fn end(self) -> Result<(), FormatError> {
        if self.remaining() == 0 {
            return Ok(());
        }
        Err(FormatError::Field {
            what: self.what,
            field: "bytes left over",
            expected: 0,
            found: self.remaining() as u64,
        })
    }
}

/// Puts fields into a slice that is long enough: its length was computed before.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Writer<'a> {
        Writer { bytes, at: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn id(&mut self, id: Id) {
        self.bytes(&id.0);
    }

    pub(super) fn key(&mut self, key: TimelineKey) {
        self.id(key.tenant_id.0);
        self.id(key.timeline_id.0);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("texts were checked to be short"));
        self.bytes(text.as_bytes());
    }

    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("counts were checked to be small"));
    }

    /// Zeroes up to `end`.
    pub(super) fn zero_to(&mut self, end: usize) {
        self.bytes[self.at..end].fill(0);
        self.at = end;
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }
}
