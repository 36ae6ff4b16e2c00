//! Postgres' own LZ compression, decoding only (PostgreSQL src/common/pg_lzcompress.c describes the format).
//!
//! A control byte's bits, lowest first, tell whether a literal byte (0) or a copy (1) follows. A copy is two bytes: low
//! half of the first = length - 3, its high half and the second = distance back; length 18 is extended by a third byte.

use crate::postgres::bytes::Misfit;

const LENGTH_BIAS: usize = 3;
const LENGTH_EXTENDED: usize = 18;

/// Decompresses all of `source` into exactly `target`.
pub fn decompress(source: &[u8], target: &mut [u8]) -> Result<(), Misfit> {
    let corrupt = |at: usize| Misfit::new("valid pglz data", at as u64);
    let mut read = 0;
    let mut written = 0;
    while read < source.len() && written < target.len() {
        let mut control = source[read];
        read += 1;
        for _ in 0..8 {
            if read == source.len() || written == target.len() {
                break;
            }
            if control & 1 == 0 {
                target[written] = source[read];
                written += 1;
                read += 1;
            } else {
                let &[first, second] = source[read..].first_chunk().ok_or(corrupt(read))?;
                read += 2;
                let mut len = usize::from(first & 0x0F) + LENGTH_BIAS;
                let distance = usize::from(first & 0xF0) << 4 | usize::from(second);
                if len == LENGTH_EXTENDED {
                    len += usize::from(*source.get(read).ok_or(corrupt(read))?);
                    read += 1;
                }
                if distance == 0 || distance > written {
                    return Err(corrupt(read));
                }
                let len = len.min(target.len() - written);
                if distance >= len {
                    target.copy_within(written - distance..written - distance + len, written);
                } else {
                    // The copy overlaps what it writes: a repeated pattern.
                    for index in written..written + len {
                        target[index] = target[index - distance];
                    }
                }
                written += len;
            }
            control >>= 1;
        }
    }
    if read != source.len() || written != target.len() {
        return Err(corrupt(read));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
