use super::*;
use crate::consensus::change::Change;
use crate::journal::segment::{HeaderBlock, JournalNumber};
use crate::types::{Id, Term, TimelineKey};

fn header() -> SegmentHeader {
    SegmentHeader {
        segment_bytes: 64 << 10,
        journal: JournalNumber(2),
        place: 5,
        first_sequence: 100,
        life_id: Id([0xAA; 16]),
        use_id: Id([0xBB; 16]),
    }
}

fn vote(term: u64) -> Entry<'static> {
    Entry::Change(TimelineKey::default(), Change::Vote { term: Term(term) })
}

fn frame() -> (Vec<u8>, FinishedFrame) {
    let mut buffer = vec![0xFF; FRAME_BYTES_MAX];
    let mut form = FrameForm::new(FRAME_BYTES_MAX);
    assert!(form.is_empty());
    form.push(&mut buffer, &vote(7));
    form.push(&mut buffer, &Entry::Seal);
    let finished = form.finish(&mut buffer, UseCrc::new(&header()), 101, 99, 0x0102_0304);
    buffer.truncate(finished.frame_bytes);
    (buffer, finished)
}

#[test]
fn segment_header_is_laid_out_as_drawn() {
    let mut drawn = Vec::new();
    drawn.extend_from_slice(b"FIRNSEGM");
    drawn.extend_from_slice(&1u32.to_le_bytes()); // version
    drawn.extend_from_slice(&0x849D_7600u32.to_le_bytes()); // crc
    drawn.extend_from_slice(&65536u64.to_le_bytes()); // segment_bytes
    drawn.extend_from_slice(&2u32.to_le_bytes()); // journal
    drawn.extend_from_slice(&[0; 4]);
    drawn.extend_from_slice(&5u64.to_le_bytes()); // place
    drawn.extend_from_slice(&100u64.to_le_bytes()); // first_sequence
    drawn.extend_from_slice(&[0xAA; 16]); // life_id
    drawn.extend_from_slice(&[0xBB; 16]); // use_id
    assert_eq!(header().encode()[..], drawn[..]);
}

#[test]
fn a_segment_header_is_blank_valid_damaged_or_newer() {
    let block = header().encode();
    assert_eq!(SegmentHeader::decode(&block), Ok(HeaderBlock::Valid(header())));
    assert_eq!(SegmentHeader::decode(&[0; 4096]), Ok(HeaderBlock::Blank));
    assert!(SegmentHeader::decode(&block[..79]).is_err());
    for bit in 0..block.len() * 8 {
        let mut bad = block;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(SegmentHeader::decode(&bad), Ok(HeaderBlock::Damaged(_))), "bit {bit}");
    }
    let mut newer = block;
    newer[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer[..12]), &newer[16..]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = SegmentHeader::decode(&newer).unwrap_err();
    let text = "journal segment header: format version 2, this program reads up to 1";
    assert_eq!(error.to_string(), text);
}

#[test]
fn frame_is_laid_out_as_drawn() {
    let (bytes, finished) = frame();
    assert_eq!(bytes.len(), 4096);
    let mut drawn = Vec::new();
    drawn.extend_from_slice(b"FRAM");
    drawn.extend_from_slice(&4096u32.to_le_bytes()); // frame_bytes
    drawn.extend_from_slice(&101u64.to_le_bytes()); // sequence
    drawn.extend_from_slice(&99u64.to_le_bytes()); // durable_through
    drawn.extend_from_slice(&(56u32 + 48).to_le_bytes()); // entries_bytes
    drawn.extend_from_slice(&0x0102_0304u32.to_le_bytes()); // previous_crc
    drawn.extend_from_slice(&[0; 4]);
    drawn.extend_from_slice(&finished.crc.to_le_bytes()); // crc
    drawn.extend_from_slice(&[0; 8]);
    assert_eq!(bytes[..HEADER_BYTES], drawn[..]);
    assert_eq!(finished.crc, 0xCFE9_7ABF);
    assert!(bytes[HEADER_BYTES + 104..].iter().all(|byte| *byte == 0));
}

#[test]
fn entries_come_back_in_order() {
    let (bytes, _) = frame();
    let frame = Frame::parse(&bytes, UseCrc::new(&header())).unwrap();
    assert_eq!(frame.header.sequence, 101);
    let entries: Vec<_> = frame.entries().map(Result::unwrap).collect();
    assert_eq!(entries, [(48, vote(7)), (104, Entry::Seal)]);
}

#[test]
fn a_frame_of_another_life_or_use_is_none() {
    let (bytes, _) = frame();
    let other_life = SegmentHeader { life_id: Id([0xAB; 16]), ..header() };
    let other_use = SegmentHeader { use_id: Id([0xAB; 16]), ..header() };
    for other in [other_life, other_use] {
        let error = Frame::parse(&bytes, UseCrc::new(&other)).unwrap_err();
        assert!(matches!(error, FormatError::Crc { .. }));
    }
}

#[test]
fn a_flipped_bit_or_a_missing_byte_is_found() {
    let (bytes, _) = frame();
    let use_crc = UseCrc::new(&header());
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::parse(&bad, use_crc).is_err(), "bit {bit}");
    }
    for len in [0, 1, 47, 48, 4095] {
        assert!(Frame::parse(&bytes[..len], use_crc).is_err());
    }
}
