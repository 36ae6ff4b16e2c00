//! From bytes in any cut to whole records.

use super::framing::{Framing, Step};
use super::record::{Layout, Record};
use super::{WalError, WalVersion};
use crate::types::Lsn;

/// The record buffer is given back to the allocator when it has grown past this (a few pages' images) and the next
/// record is small: one giant record does not pin memory for ever.
const BUFFER_KEEP_BYTES: usize = 1 << 20;

/// Decodes contiguous WAL. A record that lies within one page and one input slice is used where it is; others are
/// assembled in one buffer that grows with the bytes that really came. No allocation per record in steady state.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    segment_size_bytes: u32,
    version: Option<WalVersion>,
    buffer: Vec<u8>,
    layout: Layout,
    record_end: Lsn,
    error: Option<WalError>,
}

/// A record that lies in the input in one piece.
pub(super) struct Whole<'i> {
    pub bytes: &'i [u8],
    pub version: WalVersion,
    pub start: Lsn,
    pub end: Lsn,
}

enum Found<'i> {
    InInput(&'i [u8]),
    InBuffer,
}

impl Decoder {
    /// A decoder whose first byte will be the one at `start`: see [`Framing::new`]. `version` is needed when the WAL
    /// does not begin with a page header; a page header that says otherwise is an error.
    pub fn new(start: Lsn, segment_size_bytes: u32, version: Option<WalVersion>) -> Decoder {
        Decoder {
            framing: Framing::new(start, segment_size_bytes),
            segment_size_bytes,
            version,
            buffer: Vec::new(),
            layout: Layout::new(),
            record_end: start,
            error: None,
        }
    }

    /// Begins anew at `start`, with the memory that it has.
    pub fn restart(&mut self, start: Lsn) {
        self.framing = Framing::new(start, self.segment_size_bytes);
        self.record_end = start;
        self.error = None;
    }

    /// The next record, or none when `input` is used up. What is used of `input` is removed from it. After an error
    /// every call gives the same error.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Record<'s>>, WalError> {
        if let Some(version) = self.known_version()
            && let Some((bytes, start, end)) = self.framing.whole_record(input)
        {
            let parsed = Record::parse(bytes, &mut self.layout, version, start, end);
            return match parsed {
                Ok(record) => {
                    self.record_end = end;
                    Ok(Some(record))
                }
                Err(misfit) => {
                    let error = WalError::Malformed { record: start, misfit };
                    self.error = Some(error.clone());
                    Err(error)
                }
            };
        }
        self.next_piece_by_piece(input)
    }

    /// The next record, with its parts in `layout`, if it lies in `input` in one piece;
    /// otherwise nothing has happened, and [`next`](Self::next) says what comes.
    #[inline]
    pub(super) fn next_whole<'i>(
        &mut self,
        input: &mut &'i [u8],
        layout: &mut Layout,
    ) -> Result<Option<Whole<'i>>, WalError> {
        let Some(version) = self.known_version() else { return Ok(None) };
        let Some((bytes, start, end)) = self.framing.whole_record(input) else { return Ok(None) };
        match layout.parse(bytes, version) {
            Ok(()) => {
                self.record_end = end;
                Ok(Some(Whole { bytes, version, start, end }))
            }
            Err(misfit) => {
                let error = WalError::Malformed { record: start, misfit };
                self.error = Some(error.clone());
                Err(error)
            }
        }
    }

    /// The version, when the caller's and the pages' agree so far; none after an error, too.
    #[inline]
    fn known_version(&self) -> Option<WalVersion> {
        let found = self.framing.version();
        let version = self.version.or(found);
        (self.error.is_none() && found.is_none_or(|found| Some(found) == version))
            .then_some(version)?
    }

    /// The next record when it may lie in several pieces, or be none.
    fn next_piece_by_piece<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Record<'s>>, WalError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let (found, start, end) = loop {
            match self.framing.step(input) {
                Step::Starved => return Ok(None),
                Step::Bytes { first: true, bytes, start, end: Some(end) } => {
                    break (Found::InInput(bytes), start, end);
                }
                Step::Bytes { first, bytes, start, end } => {
                    if first {
                        self.buffer.clear();
                        self.buffer.shrink_to(BUFFER_KEEP_BYTES);
                    }
                    self.buffer.extend_from_slice(bytes);
                    if let Some(end) = end {
                        break (Found::InBuffer, start, end);
                    }
                }
                Step::Overwritten { .. } => self.buffer.clear(),
                Step::Skipped { end } => {
                    self.buffer.clear();
                    self.record_end = end;
                }
                Step::Failed => {
                    let error = self.framing.error().expect("a failed step leaves its error");
                    self.error = Some(error.clone());
                    return Err(error.clone());
                }
            }
        };
        let version = match (self.version, self.framing.version()) {
            (None, None) => Err(WalError::VersionUnknown { record: start }),
            (Some(expected), Some(found)) if expected != found => {
                Err(WalError::Version { record: start, found, expected })
            }
            (Some(version), _) | (None, Some(version)) => Ok(version),
        };
        let bytes = match found {
            Found::InInput(bytes) => bytes,
            Found::InBuffer => &self.buffer,
        };
        let parsed = version.and_then(|version| {
            Record::parse(bytes, &mut self.layout, version, start, end)
                .map_err(|misfit| WalError::Malformed { record: start, misfit })
        });
        match parsed {
            Ok(record) => {
                self.record_end = end;
                Ok(Some(record))
            }
            Err(error) => {
                self.error = Some(error.clone());
                Err(error)
            }
        }
    }

    /// The position of the next byte to be given.
    pub fn position(&self) -> Lsn {
        self.framing.position()
    }

    /// End of the last record given out; the start while there is none.
    pub fn record_end(&self) -> Lsn {
        self.record_end
    }

    /// Which Postgres wrote the WAL, as far as it is known.
    pub fn version(&self) -> Option<WalVersion> {
        self.version.or(self.framing.version())
    }
}

#[cfg(test)]
mod tests;
