//! Asks the processor to fetch memory that will be needed soon.
//!
//! Pages in memory are many times larger than the processor's caches, and a record touches four or five places of one:
//! without this, redo mostly waits for them one after the other.

/// Fetches the 64 bytes around `bytes[at]` without waiting; nothing when there is no such byte. Changes nothing but time.
#[inline]
pub fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the instruction has no safe name yet")]
        // SAFETY: the pointer is that of a living byte, SSE is part of every x86_64, and the instruction reads and
        // writes nothing that the program can see.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}
