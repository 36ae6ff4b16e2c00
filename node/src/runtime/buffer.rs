//! The buffer of file operations: owned, 4 KiB-aligned, so that a wrong direct-I/O buffer does not compile.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Alignment of buffers, offsets and lengths of direct I/O. Devices report 512; 4 KiB suits all of them and the file
/// systems' blocks.
pub const ALIGNMENT_BYTES: usize = 4096;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; ALIGNMENT_BYTES]);

const _: () =
    assert!(size_of::<Page>() == ALIGNMENT_BYTES && align_of::<Page>() == ALIGNMENT_BYTES);

/// Owned bytes in 4 KiB-aligned memory. Dereferences to its first `len` bytes; always initialised.
///
/// An operation takes the buffer and gives it back with the result, also on error; a dropped operation keeps it until
/// the device is done with it.
pub struct Buffer {
    pages: Vec<Page>,
    len_bytes: usize,
}

impl Buffer {
    /// `len_bytes` zeroes; the capacity is rounded up to [`ALIGNMENT_BYTES`].
    pub fn zeroed(len_bytes: usize) -> Buffer {
        let pages = len_bytes.div_ceil(ALIGNMENT_BYTES);
        Buffer { pages: vec![Page([0; ALIGNMENT_BYTES]); pages], len_bytes }
    }

    /// A copy of `bytes`, padded with zeroes to the next multiple of [`ALIGNMENT_BYTES`].
    pub fn padded_copy(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::zeroed(bytes.len().next_multiple_of(ALIGNMENT_BYTES));
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// Bytes that fit without a new allocation; a multiple of [`ALIGNMENT_BYTES`].
    pub fn capacity(&self) -> usize {
        self.pages.len() * ALIGNMENT_BYTES
    }

    /// Sets the length; bytes past the old length are what the buffer held there before (zeroes at first).
    ///
    /// # Panics
    /// If `len_bytes` is over [`Self::capacity`].
    pub fn set_len(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.capacity(), "a buffer's length stays within its capacity");
        self.len_bytes = len_bytes;
    }

    /// Where the memory starts: the address that the kernel is given. Stable for the buffer's life, also when it moves.
    pub(super) fn start(&mut self) -> *mut u8 {
        self.pages.as_mut_ptr().cast()
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `pages` owns `capacity` initialised bytes that lie together (`Page` is a byte array without
        // padding), and `len_bytes` never exceeds the capacity.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len_bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), self.len_bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len_bytes, self.capacity())
    }
}
