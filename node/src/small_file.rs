//! Files that operators give: keys, certificates, passwords.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest file: hundreds of certificates. Whatever is longer is something else, or has no end, as a pipe.
pub const BYTES_MAX: u64 = 1 << 20;

/// Reads a whole file of at most [`BYTES_MAX`] bytes.
///
/// # Errors
///
/// Those of the file system, and `InvalidData` for a longer one.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let text = format!("expected at most {BYTES_MAX} bytes, found more");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for extra in [0, 1] {
            std::fs::write(&path, vec![7; (BYTES_MAX + extra) as usize]).unwrap();
            assert_eq!(read(&path).is_ok(), extra == 0);
        }
        // Its length is told as 0, and it does not end.
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::InvalidData);
        assert!(endless.to_string().contains("1048576 bytes"), "{endless}");
    }
}
