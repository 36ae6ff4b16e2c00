//! One simulated shard's operations, and its way to the machine that it runs on.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::super::directory::DirectoryEntry;
use super::super::in_flight::InFlightTable;
use super::super::operation::{Completion, Handle, Operation};
use super::super::time::MonotonicTime;
use super::disk::Inode;
use super::world::World;

/// Names one operation for ever: a completion that comes late finds no other in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OperationId {
    pub(super) machine: usize,
    pub(super) life: u64,
    pub(super) shard: usize,
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// How the world ended an operation.
#[derive(Debug)]
pub(super) struct Outcome {
    result: io::Result<usize>,
    opened: Option<Handle>,
}

impl Outcome {
    pub(super) fn of(result: io::Result<usize>) -> Outcome {
        Outcome { result, opened: None }
    }

    pub(super) fn opened(handle: Handle) -> Outcome {
        Outcome { result: Ok(0), opened: Some(handle) }
    }
}

#[derive(Debug)]
struct InFlight {
    serial: u64,
    operation: Operation,
}

/// The simulator's side of one shard.
pub struct Reactor {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) machine: usize,
    life: u64,
    shard: usize,
    in_flight: InFlightTable<InFlight>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sim::Reactor(machine {}, shard {})", self.machine, self.shard)
    }
}

impl Reactor {
    pub(super) fn new(
        world: Rc<RefCell<World>>,
        machine: usize,
        life: u64,
        shard: usize,
    ) -> Reactor {
        Reactor { world, machine, life, shard, in_flight: InFlightTable::default() }
    }

    pub(in super::super) fn submit(&self, operation: Operation) -> usize {
        let mut world = self.world.borrow_mut();
        let serial = world.next_serial();
        let index = self.in_flight.insert(InFlight { serial, operation });
        let id = OperationId {
            machine: self.machine,
            life: self.life,
            shard: self.shard,
            index,
            serial,
        };
        self.in_flight.with(index, |entry| world.begin(id, &entry.operation));
        index
    }

    pub(in super::super) fn poll(
        &self,
        index: usize,
        context: &mut Context<'_>,
    ) -> Poll<Completion> {
        self.in_flight.poll(index, context)
    }

    pub(in super::super) fn abandon(&self, index: usize) {
        self.in_flight.abandon(index);
    }

    /// The operation's time has come: it ends, or it waits for something that will try it again.
    pub(super) fn attempt(&self, id: OperationId) {
        let outcome = self.in_flight.with(id.index, |entry| {
            let same = entry.serial == id.serial;
            same.then(|| self.world.borrow_mut().attempt(id, &mut entry.operation)).flatten()
        });
        if let Some(outcome) = outcome.flatten() {
            self.in_flight.complete(id.index, |entry| Completion {
                result: outcome.result,
                operation: entry.operation,
                opened: outcome.opened,
            });
        }
    }

    /// Takes out what is in flight, at the end of the process.
    pub(super) fn take_all(&self) -> Vec<Operation> {
        self.in_flight.take_all().into_iter().map(|entry| entry.operation).collect()
    }

    pub(in super::super) fn now(&self) -> MonotonicTime {
        self.world.borrow().now()
    }

    pub(in super::super) fn unix_time_us(&self) -> i64 {
        self.world.borrow().unix_time_us(self.machine)
    }

    pub(in super::super) fn fill_random(&self, bytes: &mut [u8]) {
        self.world.borrow_mut().random.fill(bytes);
    }

    pub(in super::super) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.world.borrow_mut().disk(self.machine).create_dir_all(path)
    }

    pub(in super::super) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.world.borrow_mut().disk(self.machine).remove_dir_all(path)
    }

    pub(in super::super) fn list_dir(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.world.borrow_mut().disk(self.machine).list_dir(path)
    }

    pub(in super::super) fn exists(&self, path: &Path) -> bool {
        self.world.borrow_mut().disk(self.machine).exists(path)
    }

    pub(in super::super) fn set_len(&self, inode: &Inode, len_bytes: u64) -> io::Result<()> {
        self.world.borrow_mut().disk(self.machine).need_space(inode, len_bytes)?;
        inode.set_len(len_bytes);
        Ok(())
    }

    pub(in super::super) fn lock(&self, path: &Path) -> io::Result<Option<SimulatedLock>> {
        if !self.world.borrow_mut().disk(self.machine).lock(path)? {
            return Ok(None);
        }
        let (world, machine, life) = (self.world.clone(), self.machine, self.life);
        Ok(Some(SimulatedLock { world, machine, life, path: path.into() }))
    }

    pub(in super::super) fn listen(&self, address: SocketAddr) -> io::Result<(Handle, SocketAddr)> {
        let world = &mut *self.world.borrow_mut();
        let local_ip = world.address(self.machine);
        world.network.listen(self.machine, local_ip, address.port())
    }

    pub(in super::super) fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        self.world.borrow().resolve(self.machine, address)
    }

    pub(in super::super) fn peer_addr(&self, handle: &Handle) -> io::Result<SocketAddr> {
        self.world.borrow().network.peer_addr(handle)
    }

    pub(in super::super) fn end_operations(&self, handle: &Handle) {
        self.world.borrow_mut().end_operations(handle);
    }
}

/// A lock on a file of a simulated disk.
pub struct SimulatedLock {
    world: Rc<RefCell<World>>,
    machine: usize,
    life: u64,
    path: PathBuf,
}

impl std::fmt::Debug for SimulatedLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimulatedLock({})", self.path.display())
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        if world.life(self.machine) == self.life {
            world.disk(self.machine).unlock(&self.path);
        }
    }
}
