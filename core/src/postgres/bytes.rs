//! Checked reading of little-endian integers: no offset from WAL or a page is trusted.

use thiserror::Error;

/// Bytes do not say what they must: what was expected and the number found instead. Carries no place: whoever reads a
/// record or a page adds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected {expected}, found {found}")]
pub struct Misfit {
    /// What was expected.
    pub expected: &'static str,
    /// The number that was found (a length, an offset, flags).
    pub found: u64,
}

impl Misfit {
    /// A misfit.
    pub const fn new(expected: &'static str, found: u64) -> Misfit {
        Misfit { expected, found }
    }
}

/// Reads integers one after another, unaligned.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Misfit> {
        match self.0.split_at_checked(len) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(Misfit::new("more bytes in the record", self.0.len() as u64)),
        }
    }

    /// Leaves out `len` bytes.
    pub fn skip(&mut self, len: usize) -> Result<(), Misfit> {
        self.take(len).map(|_| ())
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Misfit> {
        match self.0.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(*taken)
            }
            None => Err(Misfit::new("more bytes in the record", self.0.len() as u64)),
        }
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Misfit> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next two bytes.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Misfit> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Misfit> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next four bytes, signed.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Misfit> {
        self.array().map(i32::from_le_bytes)
    }

    /// The next eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Misfit> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next eight bytes, signed.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Misfit> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count in four bytes, signed in C: refuses negative ones, and those whose `item_bytes` each exceed what is left.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, Misfit> {
        let count = self.u32()? as usize;
        if count > self.0.len() / item_bytes {
            return Err(Misfit::new("a count that fits the record", count as u64));
        }
        Ok(count)
    }
}

/// `len` rounded up to 8 (MAXALIGN).
#[inline]
pub const fn align8(len: usize) -> usize {
    (len + 7) & !7
}

/// `len` rounded up to 2 (SHORTALIGN).
#[inline]
pub const fn align2(len: usize) -> usize {
    (len + 1) & !1
}
