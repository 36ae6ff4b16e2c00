//! A simulated disk with a file system: what a machine's programs may expect of it, and what they may not.
//!
//! The fault model, zone by zone:
//!
//! | zone | without a crash | after `kill` (the power goes) |
//! | --- | --- | --- |
//! | bytes of a completed `write_at` | every read sees them | each 512-byte sector old or new, by chance, until a flush that was submitted after the completion has completed |
//! | bytes of a completed `write_durable_at` | as above | there |
//! | bytes of a write in flight | in no order with other operations; seen at completion | each sector old or new |
//! | flush in flight | covers what had completed when it was submitted | each covered sector old or new |
//! | failed write | nothing, or any sectors, written | as above |
//! | failed flush | reads still see the bytes; a later flush does **not** cover them (as Linux) | each sector old or new |
//! | length (`set_len`, `fallocate`, growth) | at once | old or new until a flush |
//! | names (create, rename, remove, directories) | at once, rename atomic | each change there or not, as a prefix or in any combination, until `sync_dir` of the directory; a file flush does not help; a name below a lost directory is lost |
//! | rot | bits flip on demand, in what reads see and what survives; `read_flip` in reads only | |
//! | space | growth over the capacity fails with ENOSPC, nothing written | |
//! | emptied disk | | nothing left |
//!
//! How much survives is itself drawn per crash: nothing, all, half, or any part of it.
//! Not modelled: a durable write or flush that the device acknowledged and lost, sectors written to the wrong place, and
//! intermediate versions of a sector written twice between two flushes.

mod contents;
mod inode;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

pub(in crate::runtime) use inode::Inode;
use inode::Snapshot;
use names::{Names, Node};

use super::super::directory::DirectoryEntry;
use super::super::file::OpenOptions;
use super::super::operation::{Handle, Operation};
use super::random::Random;
use super::reactor::{OperationId, Outcome};

/// How a simulated disk behaves and misbehaves. Times in microseconds as (least, most), chances in a million.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    /// Time of a read.
    pub read_us: (u64, u64),
    /// Time of a write that need not be durable.
    pub write_us: (u64, u64),
    /// Time of a durable write or a flush.
    pub durable_us: (u64, u64),
    /// Reads that fail with EIO.
    pub read_error: u64,
    /// Writes that fail with EIO.
    pub write_error: u64,
    /// Flushes and durable writes that fail with EIO.
    pub flush_error: u64,
    /// Reads in which one bit is flipped, in the bytes returned only.
    pub read_flip: u64,
    /// Space for all files.
    pub capacity_bytes: u64,
}

impl Default for DiskFaults {
    /// A fast disk without faults.
    fn default() -> Self {
        DiskFaults {
            read_us: (20, 120),
            write_us: (5, 60),
            durable_us: (15, 200),
            read_error: 0,
            write_error: 0,
            flush_error: 0,
            read_flip: 0,
            capacity_bytes: u64::MAX,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) faults: DiskFaults,
    names: Names,
    next_inode: u64,
    flushing: BTreeMap<OperationId, Snapshot>,
    locked: BTreeSet<PathBuf>,
}

impl Disk {
    /// Notes that an operation was submitted; how long it takes.
    pub(super) fn begin(
        &mut self,
        id: OperationId,
        operation: &Operation,
        random: &mut Random,
    ) -> u64 {
        let time_us = match operation {
            Operation::Read { .. } | Operation::Open { .. } => self.faults.read_us,
            Operation::Write { durable: false, .. } => self.faults.write_us,
            Operation::Flush { file, .. } => {
                if let Handle::SimFile(inode) = &**file {
                    self.flushing.insert(id, inode.begin_flush());
                }
                self.faults.durable_us
            }
            _ => self.faults.durable_us,
        };
        random.between(time_us)
    }

    /// Carries an operation out at the end of its time.
    pub(super) fn finish(
        &mut self,
        id: OperationId,
        operation: &mut Operation,
        random: &mut Random,
    ) -> Outcome {
        match operation {
            Operation::Open { path, options } => match self.open(path, *options) {
                Ok(handle) => Outcome::opened(handle),
                Err(error) => Outcome::of(Err(error)),
            },
            Operation::Read { file, buffer, offset_bytes } => {
                if random.chance(self.faults.read_error) {
                    return Outcome::of(Err(io::Error::from_raw_os_error(libc::EIO)));
                }
                let count = inode(file).map(|inode| inode.read(*offset_bytes, buffer));
                if let Ok(count @ 1..) = count
                    && random.chance(self.faults.read_flip)
                {
                    buffer[random.below(count as u64) as usize] ^= 1 << random.below(8);
                }
                Outcome::of(count)
            }
            Operation::Write { file, buffer, done_bytes, offset_bytes, durable } => {
                let bytes = &buffer[*done_bytes..];
                Outcome::of(self.write(file, *offset_bytes, bytes, *durable, random))
            }
            Operation::Flush { file, .. } => {
                if let Handle::SimDirectory(path) = &**file {
                    if random.chance(self.faults.flush_error) {
                        return Outcome::of(Err(io::Error::from_raw_os_error(libc::EIO)));
                    }
                    self.names.sync_dir(path);
                    return Outcome::of(Ok(0));
                }
                let Some(snapshot) = self.flushing.remove(&id) else { return Outcome::of(Ok(0)) };
                if random.chance(self.faults.flush_error) {
                    let keep = survival(random);
                    snapshot.tear(random, keep);
                    return Outcome::of(Err(io::Error::from_raw_os_error(libc::EIO)));
                }
                snapshot.apply();
                Outcome::of(Ok(0))
            }
            Operation::Fallocate { file, offset_bytes, len_bytes } => {
                let end = *offset_bytes + *len_bytes;
                Outcome::of(inode(file).and_then(|inode| {
                    self.need_space(&inode, end)?;
                    inode.reserve(end);
                    Ok(0)
                }))
            }
            Operation::Rename { from, to } => {
                Outcome::of(self.names.rename(&normal(from), &normal(to)).map(|()| 0))
            }
            Operation::RemoveFile { path } => {
                Outcome::of(self.names.remove_file(&normal(path)).map(|()| 0))
            }
            _ => unreachable!("the disk gets the operations of disks only"),
        }
    }

    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<Handle> {
        let path = normal(path);
        let (create, create_new, truncate) = options.creation();
        let inode = match self.names.get(&path) {
            Some(Node::File(_)) if create_new => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(inode)) => inode,
            Some(Node::Directory) if create || create_new || truncate => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Some(Node::Directory) => return Ok(Handle::SimDirectory(path)),
            None if create || create_new => {
                self.next_inode += 1;
                let inode = Inode::new(self.next_inode);
                self.names.make(&path, Node::File(inode.clone()))?;
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        if truncate {
            inode.set_len(0);
        }
        Ok(Handle::SimFile(inode))
    }

    fn write(
        &mut self,
        file: &Handle,
        offset_bytes: u64,
        bytes: &[u8],
        durable: bool,
        random: &mut Random,
    ) -> io::Result<usize> {
        let inode = inode(file)?;
        self.need_space(&inode, offset_bytes + bytes.len() as u64)?;
        let error = random.chance(self.faults.write_error);
        if error || durable && random.chance(self.faults.flush_error) {
            // A part of it may be there: some first sectors.
            let sectors = random.below(bytes.len() as u64 / 512 + 1) as usize;
            inode.write(offset_bytes, &bytes[..sectors * 512]);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        match durable {
            true => inode.write_durable(offset_bytes, bytes),
            false => inode.write(offset_bytes, bytes),
        }
        Ok(bytes.len())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names.files().values().map(|(_, inode)| inode.used_bytes()).sum()
    }

    pub(super) fn need_space(&self, inode: &Inode, end_bytes: u64) -> io::Result<()> {
        let grows = end_bytes.saturating_sub(inode.used_bytes());
        if grows > 0
            && self.faults.capacity_bytes < u64::MAX
            && self.used_bytes() + grows > self.faults.capacity_bytes
        {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.names.create_dir_all(&normal(path))
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.names.remove_dir_all(&normal(path))
    }

    pub(super) fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let entries = self.names.list(&normal(path))?.into_iter();
        Ok(entries.map(|(name, is_directory)| DirectoryEntry { name, is_directory }).collect())
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.names.get(&normal(path)).is_some()
    }

    /// Locks a file's name for the machine's one process; false if it is locked.
    pub(super) fn lock(&mut self, path: &Path) -> io::Result<bool> {
        let path = normal(path);
        if self.names.get(&path).is_none() {
            self.open(&path, OpenOptions::read_write().create())?;
        }
        Ok(self.locked.insert(path))
    }

    pub(super) fn unlock(&mut self, path: &Path) {
        self.locked.remove(&normal(path));
    }

    /// The power went while these operations were in flight.
    pub(super) fn crash(&mut self, in_flight: &[Operation], random: &mut Random) {
        let keep = survival(random);
        for snapshot in std::mem::take(&mut self.flushing).into_values() {
            snapshot.tear(random, keep);
        }
        for operation in in_flight {
            if let Operation::Write { file, buffer, done_bytes, offset_bytes, .. } = operation
                && let Ok(inode) = inode(file)
            {
                inode.write_torn(*offset_bytes, &buffer[*done_bytes..], random, keep);
            }
        }
        for (_, inode) in self.names.files().values() {
            inode.crash(random, keep);
        }
        self.names.crash(random, keep);
        self.locked.clear();
    }

    /// The process ended in order: the machine's cache stays.
    pub(super) fn process_ended(&mut self) {
        for snapshot in std::mem::take(&mut self.flushing).into_values() {
            snapshot.apply();
        }
        self.locked.clear();
    }

    /// A new, empty disk in place of this one.
    pub(super) fn empty(&mut self) {
        self.names = Names::default();
        self.flushing.clear();
    }

    /// Flips bits in files whose path contains `name_contains`; how many it flipped.
    pub(super) fn rot(&mut self, name_contains: &str, bits: u64, random: &mut Random) -> u64 {
        let files: Vec<Inode> = self
            .names
            .files()
            .into_values()
            .filter(|(path, inode)| {
                path.to_string_lossy().contains(name_contains) && inode.len_bytes() > 0
            })
            .map(|(_, inode)| inode)
            .collect();
        if files.is_empty() {
            return 0;
        }
        for _ in 0..bits {
            let inode = &files[random.below(files.len() as u64) as usize];
            inode.flip(random.below(inode.len_bytes()), random.below(8) as u8);
        }
        bits
    }

    /// The file of a path, for faults at a place of it.
    pub(super) fn flip(&mut self, path: &Path, offset_bytes: u64, bit: u8) -> io::Result<()> {
        match self.names.get(&normal(path)) {
            Some(Node::File(inode)) if offset_bytes < inode.len_bytes() => {
                inode.flip(offset_bytes, bit);
                Ok(())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// All bytes of a file as reads see them.
    pub(super) fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.names.get(&normal(path)) {
            Some(Node::File(inode)) => {
                let mut bytes = vec![0; usize::try_from(inode.len_bytes()).unwrap_or(usize::MAX)];
                inode.read(0, &mut bytes);
                Ok(bytes)
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// How many unflushed sectors in a million survive this crash.
fn survival(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => 0,
        1 => 1_000_000,
        2 => 500_000,
        _ => random.below(1_000_001),
    }
}

fn inode(handle: &Handle) -> io::Result<Inode> {
    match handle {
        Handle::SimFile(inode) => Ok(inode.clone()),
        _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
    }
}

/// One spelling per path: absolute, without `.` and repeated slashes.
fn normal(path: &Path) -> PathBuf {
    Path::new("/").join(path).components().collect()
}
