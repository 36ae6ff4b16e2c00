use super::record_crc;

#[test]
fn every_length_has_the_librarys_crc() {
    let bytes: Vec<u8> = (0..700u32).map(|index| (index * 37 + index / 256) as u8).collect();
    for len in 24..bytes.len() {
        for start in 0..(bytes.len() - len).min(9) {
            let record = &bytes[start..start + len];
            let expected = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
            assert_eq!(record_crc(record), expected, "{len} bytes from {start}");
        }
    }
}
