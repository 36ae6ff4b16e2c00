//! Operations in flight on one ring.
//!
//! Invariant: a table entry lives from submission to completion, whoever still awaits it; the ring is dropped only when
//! the table is empty or what is left in it was leaked on purpose.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use rustix::event::EventfdFlags;

use super::super::clock;
use super::super::executor::Unpark;
use super::super::in_flight::InFlightTable;
use super::super::operation::{Completion, Operation};
use super::super::options::RingSetup;
use super::super::reactor::Wait;
use super::prepare::{self, Prepared};

/// Submission queue entries; a full queue costs one more enter, nothing else.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completion queue entries: what one turn can bring without the kernel's overflow list.
const COMPLETION_ENTRIES: u32 = 4096;
/// The user data of the poll that other threads complete to wake the shard.
const WAKE_USER_DATA: u64 = u64::MAX;
/// The user data of cancellations, whose own completions say nothing.
const CANCEL_USER_DATA: u64 = u64::MAX - 1;
/// How often and how long a ring that finds no locked memory waits for that of dropped ones: half a second.
const NO_MEMORY_RETRIES: usize = 25;
/// See [`NO_MEMORY_RETRIES`].
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(20);
/// Sends up to so long, answers to appends and votes, as a rule complete while the kernel takes them.
const QUICK_SEND_BYTES: usize = 4096;
/// How long a wait for something besides quick sends lasts when one of them is not that quick: what completes meanwhile
/// is held back no longer than this.
const QUICK_SEND_GRACE: Duration = Duration::from_micros(50);
/// How long the end of a shard waits for cancelled operations before it leaks their memory instead.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One ring and what is in flight on it.
pub struct Reactor {
    ring: RefCell<IoUring>,
    in_flight: InFlightTable<Prepared>,
    wake_descriptor: Arc<OwnedFd>,
    enters: Cell<u64>,
    /// Sends since the last enter that will complete in the next one.
    quick_sends: Cell<usize>,
    setup: RingSetup,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uring::Reactor({} in flight)", self.in_flight.len())
    }
}

/// Wakes a shard that sleeps in its ring.
#[derive(Debug)]
pub(super) struct WakeEvent(Arc<OwnedFd>);

impl Unpark for WakeEvent {
    fn unpark(&self) {
        // An error means that the counter is at its maximum: then the shard is being woken anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Reactor {
    /// Sets the ring up with what the kernel offers, `most` at most. To be called on the thread that will use it.
    pub(super) fn new(most: RingSetup) -> io::Result<Reactor> {
        let (ring, setup) = new_ring(most)?;
        let wake_descriptor = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let reactor = Reactor {
            ring: RefCell::new(ring),
            in_flight: InFlightTable::default(),
            wake_descriptor: Arc::new(wake_descriptor),
            enters: Cell::new(0),
            quick_sends: Cell::new(0),
            setup,
        };
        reactor.arm_wake()?;
        Ok(reactor)
    }

    pub(super) fn setup(&self) -> RingSetup {
        self.setup
    }

    pub(super) fn wake_event(&self) -> WakeEvent {
        WakeEvent(self.wake_descriptor.clone())
    }

    /// How often the shard entered the kernel for its ring.
    pub(in super::super) fn enters(&self) -> u64 {
        self.enters.get()
    }

    pub(in super::super) fn submit(&self, operation: Operation) -> usize {
        if matches!(&operation, Operation::Send { buffer, .. } if buffer.len() <= QUICK_SEND_BYTES)
        {
            self.quick_sends.set(self.quick_sends.get() + 1);
        }
        let (prepared, entry) = match prepare::prepare(operation) {
            Ok(prepared) => prepared,
            Err(completion) => return self.in_flight.insert_done(completion),
        };
        let index = self.in_flight.insert(prepared);
        self.push(&entry.user_data(index as u64))
            .expect("the kernel takes the entries of a full queue");
        index
    }

    pub(in super::super) fn submit_linked(
        &self,
        first: Operation,
        second: Operation,
    ) -> (usize, usize) {
        let (first, second) = match (prepare::prepare(first), prepare::prepare(second)) {
            (Ok(first), Ok(second)) => (first, second),
            _ => panic!("operations on open files need nothing that can fail beforehand"),
        };
        let entry = |(prepared, entry): (Prepared, io_uring::squeue::Entry)| {
            let index = self.in_flight.insert(prepared);
            (index, entry.user_data(index as u64))
        };
        let ((first, first_entry), (second, second_entry)) = (entry(first), entry(second));
        // A chain ends with what one enter submits: both go into the queue together.
        let room = {
            let mut ring = self.ring.borrow_mut();
            let queue = ring.submission();
            queue.capacity() - queue.len()
        };
        if room < 2 {
            let ring = self.ring.borrow();
            self.count(|| ring.submit()).expect("the kernel takes the entries of a full queue");
        }
        for entry in [first_entry.flags(io_uring::squeue::Flags::IO_LINK), second_entry] {
            self.push(&entry).expect("the queue has room");
        }
        (first, second)
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

    /// Hands over what was submitted and waits as asked. At most one enter; [`Self::reap`] follows.
    ///
    /// Quick sends that it hands over do not end the wait: their completions are there at once and would cost an enter
    /// that brings nothing else.
    pub(super) fn enter(&self, wait: Wait) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        let (submissions, deferred) = {
            let queue = ring.submission();
            (queue.len(), queue.taskrun() || queue.cq_overflow())
        };
        let wait = if ring.completion().is_empty() { wait } else { Wait::No };
        let quick_sends = self.quick_sends.take();
        let wait = match wait {
            Wait::Forever if quick_sends > 0 => Wait::AtMost(QUICK_SEND_GRACE),
            Wait::AtMost(most) if quick_sends > 0 => Wait::AtMost(most.min(QUICK_SEND_GRACE)),
            wait => wait,
        };
        let entered = match wait {
            Wait::No if submissions == 0 && !deferred => Ok(0),
            Wait::No => self.count(|| ring.submit()),
            Wait::Forever => self.count(|| ring.submit_and_wait(1)),
            Wait::AtMost(duration) => {
                let timeout = types::Timespec::from(duration);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                let wanted = 1 + quick_sends;
                self.count(|| ring.submitter().submit_with_args(wanted, &arguments))
            }
        };
        match entered {
            Err(error) if !interrupted(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn count(&self, enter: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        self.enters.set(self.enters.get() + 1);
        enter()
    }

    fn push(&self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        while !prepare::try_push(&mut ring, entry) {
            // The queue is full: the kernel takes what is in it, which makes room.
            self.count(|| ring.submit())?;
        }
        Ok(())
    }

    /// Wakes whoever's operation completed.
    pub(super) fn reap(&self) -> io::Result<()> {
        let mut woken = false;
        loop {
            // One entry at a time: a wake may submit, which needs the ring.
            let Some(entry) = self.ring.borrow_mut().completion().next() else { break };
            match entry.user_data() {
                // Cancelled by `drain` it says nothing, and a read of the event would block.
                WAKE_USER_DATA => woken = entry.result() >= 0,
                CANCEL_USER_DATA => {}
                index => {
                    let result = entry.result();
                    self.in_flight.complete(index as usize, |prepared| prepared.complete(result));
                }
            }
        }
        if woken {
            // Resets the counter; it is above zero, so this does not block.
            let mut counter = [0; 8];
            rustix::io::read(&*self.wake_descriptor, &mut counter)?;
            self.arm_wake()?;
        }
        Ok(())
    }

    /// Watches the wake event; stays in the ring until another thread signals it.
    fn arm_wake(&self) -> io::Result<()> {
        let descriptor = types::Fd(self.wake_descriptor.as_raw_fd());
        let entry = opcode::PollAdd::new(descriptor, libc::POLLIN as u32);
        self.push(&entry.build().user_data(WAKE_USER_DATA))
    }

    /// Cancels everything in flight and waits for it; memory that the kernel does not give back in time is leaked.
    pub(super) fn drain(&self) {
        let started = clock::monotonic();
        let mut result = Ok(());
        self.in_flight.drop_done();
        while self.in_flight.len() > 0 {
            if result.is_err() || clock::monotonic() - started > DRAIN_TIMEOUT {
                std::mem::forget(self.in_flight.take_all());
                return;
            }
            let all = types::CancelBuilder::any();
            let entry = opcode::AsyncCancel2::new(all).build().user_data(CANCEL_USER_DATA);
            result = self.push(&entry);
            result = result.and_then(|()| self.enter(Wait::AtMost(Duration::from_millis(10))));
            result = result.and_then(|()| self.reap());
            self.in_flight.drop_done();
        }
    }
}

/// A ring of one issuer whose completions run when it asks for them; less where the kernel offers less.
fn new_ring(most: RingSetup) -> io::Result<(IoUring, RingSetup)> {
    let setups = [RingSetup::Deferred, RingSetup::Cooperative, RingSetup::Plain];
    let mut unknown = io::Error::from_raw_os_error(libc::EINVAL);
    for setup in setups.into_iter().filter(|setup| *setup >= most) {
        match patient(|| build(setup)) {
            // A flag that this kernel does not know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => unknown = error,
            built => return Ok((built?, setup)),
        }
    }
    Err(unknown)
}

fn build(setup: RingSetup) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETION_ENTRIES).setup_clamp();
    match setup {
        RingSetup::Deferred => {
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        RingSetup::Cooperative => {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        RingSetup::Plain => {}
    }
    builder.build(SUBMISSION_ENTRIES)
}

/// Tries again while rings that were dropped just now still count as locked memory: the kernel takes them apart later.
#[expect(
    clippy::disallowed_methods,
    reason = "a shard that has no ring yet has nothing else to do"
)]
pub(in super::super) fn patient<T>(build: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..NO_MEMORY_RETRIES {
        match build() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(NO_MEMORY_PAUSE);
            }
            built => return built,
        }
    }
    build()
}

fn interrupted(error: &io::Error) -> bool {
    // ETIME: the wait's own timeout. EBUSY: completions must be reaped first. EAGAIN: memory is short just now.
    let code = error.raw_os_error();
    matches!(code, Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}
