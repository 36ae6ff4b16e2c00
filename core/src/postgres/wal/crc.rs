//! CRC-32C of a record, which is mostly short.
//!
//! The library's function is made for long inputs: for a record of seventy bytes, half of its time goes into finding out
//! that there is nothing to do in parallel. Records up to [`SHORT_BYTES`] take the processor's instruction one word after
//! the other; everything else, and other processors, what [`crate::crc`] chooses.

use super::framing::RECORD_HEADER_BYTES;

/// Where the library's three streams in parallel begin to win.
const SHORT_BYTES: usize = 512;
/// Bytes of the header that come before the CRC itself.
const COVERED_HEADER_BYTES: usize = 20;

/// CRC of a whole record: of what follows its header, then of the header up to the CRC. `bytes` holds at least the header.
#[inline]
pub fn record_crc(bytes: &[u8]) -> u32 {
    let (header, rest) = bytes.split_at(RECORD_HEADER_BYTES);
    let header = &header[..COVERED_HEADER_BYTES];
    #[cfg(target_arch = "x86_64")]
    if rest.len() <= SHORT_BYTES && std::arch::is_x86_feature_detected!("sse4.2") {
        #[expect(unsafe_code, reason = "a function for processors that have an instruction")]
        // SAFETY: the processor has the instruction set that the function is compiled for.
        return unsafe { !short::append(short::append(!0, rest), header) };
    }
    crate::crc::crc32c_append(crate::crc::crc32c(rest), header)
}

#[cfg(target_arch = "x86_64")]
mod short {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};

    /// The CRC's register, inverted at neither end, after `bytes`.
    #[inline]
    #[target_feature(enable = "sse4.2")]
    pub fn append(crc: u32, bytes: &[u8]) -> u32 {
        let (words, mut rest) = bytes.as_chunks::<8>();
        let mut crc = u64::from(crc);
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        let mut crc = crc as u32;
        if let Some((word, after)) = rest.split_first_chunk::<4>() {
            crc = _mm_crc32_u32(crc, u32::from_le_bytes(*word));
            rest = after;
        }
        if let Some((word, after)) = rest.split_first_chunk::<2>() {
            crc = _mm_crc32_u16(crc, u16::from_le_bytes(*word));
            rest = after;
        }
        if let [byte] = rest {
            crc = _mm_crc32_u8(crc, *byte);
        }
        crc
    }
}

#[cfg(test)]
mod tests;
