//! Directories: names appear, change and vanish here, durable after [`Runtime::sync_dir`] only.
//!
//! Renames, removals and flushes go through the ring; listing, making and removing directories and lock files are for
//! start-up and maintenance and call the kernel directly.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Runtime;
use super::device::{Device, FileIdentity};
use super::file::{FILE_MODE, OpenOptions};
use super::operation::Operation;
use super::raw_file::at_path;
use super::sim;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// Name within the directory; lossy if it is not UTF-8, which Firn never writes.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_directory: bool,
}

/// An exclusive lock on a file, held until dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    Descriptor { _descriptor: std::os::fd::OwnedFd },
    Simulated { _lock: sim::SimulatedLock },
}

impl Runtime {
    /// Makes a directory and its missing parents. Durable after [`Self::sync_dir`] of each parent.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub async fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        if let Some(machine) = self.simulated() {
            return machine
                .create_dir_all(path)
                .map_err(|error| at_path("create directory", path, error));
        }
        std::fs::create_dir_all(path).map_err(|error| at_path("create directory", path, error))
    }

    /// The entries of a directory in the order of their names.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub async fn list_dir(&self, path: impl AsRef<Path>) -> io::Result<Vec<DirectoryEntry>> {
        let path = path.as_ref();
        if let Some(machine) = self.simulated() {
            return machine.list_dir(path).map_err(|error| at_path("list", path, error));
        }
        let list = || -> io::Result<Vec<DirectoryEntry>> {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                let is_directory = entry.file_type()?.is_dir();
                let name = entry.file_name().to_string_lossy().into_owned();
                entries.push(DirectoryEntry { name, is_directory });
            }
            entries.sort();
            Ok(entries)
        };
        list().map_err(|error| at_path("list", path, error))
    }

    /// Whether something has this name.
    ///
    /// # Errors
    /// Those of stat(2) other than that there is nothing.
    pub async fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        let path = path.as_ref();
        if let Some(machine) = self.simulated() {
            return Ok(machine.exists(path));
        }
        path.try_exists().map_err(|error| at_path("look for", path, error))
    }

    /// Gives a file another name, atomically, in place of what had it before. Durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// Those of rename(2).
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to): (PathBuf, PathBuf) = (from.as_ref().into(), to.as_ref().into());
        let replaced = self.volatile_identity(&to);
        let operation = Operation::Rename { from: from.clone(), to };
        let completion = self.perform(operation).await;
        self.forget_volatile(replaced, &completion.result);
        completion.result.map(drop).map_err(|error| at_path("rename", &from, error))
    }

    /// Removes a file's name. Durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// Those of unlink(2).
    pub async fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path: PathBuf = path.as_ref().into();
        let removed = self.volatile_identity(&path);
        let completion = self.perform(Operation::RemoveFile { path: path.clone() }).await;
        self.forget_volatile(removed, &completion.result);
        completion.result.map(drop).map_err(|error| at_path("remove", &path, error))
    }

    /// On a volatile device, the file that is about to lose its only name.
    fn volatile_identity(&self, path: &Path) -> Option<FileIdentity> {
        match self.0.device {
            Device::Volatile => FileIdentity::of_only_name(path),
            Device::Real | Device::Modelled { .. } => None,
        }
    }

    fn forget_volatile(&self, file: Option<FileIdentity>, result: &io::Result<usize>) {
        if let (Some(file), Ok(_)) = (file, result) {
            self.0.volatile_files.forget(file);
        }
    }

    /// Removes a directory and all below it. A crash may leave any part of it.
    ///
    /// # Errors
    /// Those of removing.
    pub async fn remove_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        if let Some(machine) = self.simulated() {
            return machine
                .remove_dir_all(path)
                .map_err(|error| at_path("remove directory", path, error));
        }
        std::fs::remove_dir_all(path).map_err(|error| at_path("remove directory", path, error))
    }

    /// Makes the names of a directory durable: what was made, renamed or removed in it.
    ///
    /// # Errors
    /// Those of fsync(2); never retried, as [`super::File::fdatasync`].
    pub async fn sync_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path: PathBuf = path.as_ref().into();
        let options = OpenOptions::read().buffered();
        let opening = self.perform(Operation::Open { path: path.clone(), options });
        let named = |error| at_path("flush directory", &path, error);
        let file = opening.await.into_opened().map_err(named)?;
        let flushing = self.perform(Operation::Flush { file, data_only: false });
        flushing.await.result.map(drop).map_err(named)
    }

    /// Takes an exclusive lock on a file, made if missing; `None` if another process holds it.
    ///
    /// # Errors
    /// Those of open(2) and flock(2).
    pub async fn lock_file(&self, path: impl AsRef<Path>) -> io::Result<Option<FileLock>> {
        let path = path.as_ref();
        if let Some(machine) = self.simulated() {
            let lock = machine.lock(path).map_err(|error| at_path("lock", path, error))?;
            return Ok(lock.map(|lock| FileLock { _held: Held::Simulated { _lock: lock } }));
        }
        let named = |error: rustix::io::Errno| at_path("lock", path, error.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::open(path, flags, Mode::from_raw_mode(FILE_MODE)).map_err(named)?;
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(FileLock { _held: Held::Descriptor { _descriptor: descriptor } })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(named(error)),
        }
    }

    /// Whether a process holds the lock of this file, which must exist. Nothing is changed, but a process that takes the
    /// lock in the microseconds of this look finds it held. Not in the simulator.
    ///
    /// # Errors
    /// Those of open(2) and flock(2).
    pub fn is_locked(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        let path = path.as_ref();
        assert!(
            self.simulated().is_none(),
            "simulated nodes start, they do not look whether they could"
        );
        let named = |error: rustix::io::Errno| at_path("look at the lock", path, error.into());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(named)?;
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(named(error)),
        }
    }
}
