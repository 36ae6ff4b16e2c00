//! What the library learns wrongly of a device when the first file that it opens there is empty.
//!
//! It finds out once for each thread and device whether completions can be polled for, by reading the first file opened: a
//! read at the end of an empty one succeeds on every device, and from then on all reads and writes fail with EOPNOTSUPP
//! where polling is not supported. So the first file that it sees on a device is one of ours, without a name and not empty.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use glommio::io::DmaFile;
use rustix::fs::{Mode, OFlags};

use super::super::buffer::ALIGNMENT_BYTES;

/// Devices of which the library knows whether they can be polled.
#[derive(Debug, Default)]
pub(super) struct KnownDevices(RefCell<BTreeSet<u64>>);

impl KnownDevices {
    /// To be called before the library opens a file at `path` for direct I/O.
    pub(super) async fn learn(&self, path: &Path) -> io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Without a directory there is nothing to open either, and that error is the one to tell.
        let Ok(stat) = rustix::fs::stat(directory) else { return Ok(()) };
        if self.0.borrow().contains(&stat.st_dev) {
            return Ok(());
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&file, &[0; ALIGNMENT_BYTES])?;
        let opened = DmaFile::open(format!("/proc/self/fd/{}", file.as_raw_fd())).await?;
        opened.close().await?;
        self.0.borrow_mut().insert(stat.st_dev);
        Ok(())
    }
}
