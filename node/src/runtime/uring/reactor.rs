//! Operations in flight on one ring.
//!
//! Invariant: a slab entry lives from submission to completion, whoever still awaits it; the ring is dropped only when
//! the slab is empty or what is left in it was leaked on purpose.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use rustix::event::EventfdFlags;
use slab::Slab;

use super::super::executor::Unpark;
use super::super::operation::{Completion, Operation};
use super::super::reactor::Wait;
use super::prepare::{self, Prepared};

/// Submission queue entries; a full queue costs one more enter, nothing else.
const SUBMISSION_ENTRIES: u32 = 256;
/// Completion queue entries: what one turn can bring without the kernel's overflow list.
const COMPLETION_ENTRIES: u32 = 4096;
/// The user data of the read that other threads complete to wake the shard.
const WAKE_USER_DATA: u64 = u64::MAX;
/// The user data of cancellations, whose own completions say nothing.
const CANCEL_USER_DATA: u64 = u64::MAX - 1;
/// How long the end of a shard waits for cancelled operations before it leaks their memory instead.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One ring and what is in flight on it.
pub struct Reactor {
    ring: RefCell<IoUring>,
    in_flight: RefCell<Slab<InFlight>>,
    wake_descriptor: Arc<OwnedFd>,
    enters: Cell<u64>,
}

#[derive(Debug)]
enum InFlight {
    /// With the kernel; the waker of who awaits it.
    Waiting(Prepared, Option<Waker>),
    /// With the kernel, awaited by nobody.
    Abandoned(Prepared),
    /// Completed, not yet fetched.
    Done(Completion),
    /// Being changed.
    Vacant,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uring::Reactor({} in flight)", self.in_flight.borrow().len())
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
    /// Sets the ring up with what the kernel offers. To be called on the thread that will use it.
    pub(super) fn new() -> io::Result<Reactor> {
        let ring = new_ring()?;
        let wake_descriptor = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let reactor = Reactor {
            ring: RefCell::new(ring),
            in_flight: RefCell::default(),
            wake_descriptor: Arc::new(wake_descriptor),
            enters: Cell::new(0),
        };
        reactor.arm_wake()?;
        Ok(reactor)
    }

    pub(super) fn wake_event(&self) -> WakeEvent {
        WakeEvent(self.wake_descriptor.clone())
    }

    /// How often the shard entered the kernel for its ring.
    pub(in super::super) fn enters(&self) -> u64 {
        self.enters.get()
    }

    pub(in super::super) fn submit(&self, operation: Operation) -> usize {
        let mut in_flight = self.in_flight.borrow_mut();
        let slot = in_flight.vacant_entry();
        let index = slot.key();
        match prepare::prepare(operation) {
            Ok((prepared, entry)) => {
                slot.insert(InFlight::Waiting(prepared, None));
                let entry = entry.user_data(index as u64);
                prepare::push(&mut self.ring.borrow_mut(), &entry)
                    .expect("the kernel takes the entries of a full queue");
            }
            Err(completion) => {
                slot.insert(InFlight::Done(completion));
            }
        }
        index
    }

    pub(in super::super) fn poll(
        &self,
        index: usize,
        context: &mut Context<'_>,
    ) -> Poll<Completion> {
        let mut in_flight = self.in_flight.borrow_mut();
        match &mut in_flight[index] {
            InFlight::Waiting(_, waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            InFlight::Done(_) => match in_flight.remove(index) {
                InFlight::Done(completion) => Poll::Ready(completion),
                _ => unreachable!("matched as done above"),
            },
            InFlight::Abandoned(_) | InFlight::Vacant => {
                unreachable!("an abandoned operation has no future left that could poll it")
            }
        }
    }

    pub(in super::super) fn abandon(&self, index: usize) {
        let mut in_flight = self.in_flight.borrow_mut();
        let entry = &mut in_flight[index];
        match std::mem::replace(entry, InFlight::Vacant) {
            InFlight::Waiting(prepared, waker) => {
                *entry = InFlight::Abandoned(prepared);
                drop(in_flight);
                drop(waker);
            }
            _ => {
                in_flight.remove(index);
            }
        }
    }

    /// Hands over what was submitted, waits as asked and wakes whoever's operation completed. At most one enter.
    pub(super) fn turn(&self, wait: Wait) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        let (submissions, deferred) = {
            let queue = ring.submission();
            (queue.len(), queue.taskrun() || queue.cq_overflow())
        };
        let completions = !ring.completion().is_empty();
        let entered = match wait {
            _ if completions && submissions == 0 && !deferred => Ok(0),
            Wait::No if submissions == 0 && !deferred => Ok(0),
            Wait::No => self.count(|| ring.submit()),
            _ if completions => self.count(|| ring.submit()),
            Wait::Forever => self.count(|| ring.submit_and_wait(1)),
            Wait::AtMost(duration) => {
                let timeout = types::Timespec::from(duration);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                self.count(|| ring.submitter().submit_with_args(1, &arguments))
            }
        };
        match entered {
            Ok(_) => {}
            Err(error) if interrupted(&error) => {}
            Err(error) => return Err(error),
        }
        drop(ring);
        self.reap()
    }

    fn count(&self, enter: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        self.enters.set(self.enters.get() + 1);
        enter()
    }

    fn reap(&self) -> io::Result<()> {
        let mut woken = false;
        loop {
            // One entry at a time: a wake may submit, which needs the ring.
            let Some(entry) = self.ring.borrow_mut().completion().next() else { break };
            match entry.user_data() {
                WAKE_USER_DATA => woken = true,
                CANCEL_USER_DATA => {}
                index => self.complete(index as usize, entry.result()),
            }
        }
        if woken {
            // Reading resets the counter; it was written before, so this does not block.
            let mut counter = [0; 8];
            rustix::io::read(&*self.wake_descriptor, &mut counter)?;
            self.arm_wake()?;
        }
        Ok(())
    }

    fn complete(&self, index: usize, kernel_result: i32) {
        let mut in_flight = self.in_flight.borrow_mut();
        let entry = &mut in_flight[index];
        match std::mem::replace(entry, InFlight::Vacant) {
            InFlight::Waiting(prepared, waker) => {
                *entry = InFlight::Done(prepared.complete(kernel_result));
                drop(in_flight);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            InFlight::Abandoned(prepared) => {
                in_flight.remove(index);
                drop(in_flight);
                drop(prepared.complete(kernel_result));
            }
            InFlight::Done(_) | InFlight::Vacant => {
                unreachable!("the kernel completes an operation once")
            }
        }
    }

    /// Watches the wake event; stays in the ring until another thread signals it.
    fn arm_wake(&self) -> io::Result<()> {
        let descriptor = types::Fd(self.wake_descriptor.as_raw_fd());
        let entry =
            opcode::PollAdd::new(descriptor, libc::POLLIN as u32).build().user_data(WAKE_USER_DATA);
        prepare::push(&mut self.ring.borrow_mut(), &entry)
    }

    /// Cancels everything in flight and waits for it; memory that the kernel does not give back in time is leaked.
    pub(super) fn drain(&self) {
        let started = super::super::clock::monotonic();
        while !self.in_flight.borrow().is_empty() {
            let builder = types::CancelBuilder::any();
            let entry = opcode::AsyncCancel2::new(builder).build().user_data(CANCEL_USER_DATA);
            let waited = super::super::clock::monotonic() - started;
            let pushed = prepare::push(&mut self.ring.borrow_mut(), &entry);
            let turned = pushed.and_then(|()| self.turn(Wait::AtMost(Duration::from_millis(10))));
            self.in_flight.borrow_mut().retain(|_, entry| !matches!(entry, InFlight::Done(_)));
            if turned.is_err() || waited > DRAIN_TIMEOUT {
                std::mem::forget(std::mem::take(&mut *self.in_flight.borrow_mut()));
            }
        }
    }
}

/// A ring of one issuer whose completions run when it asks for them; less where the kernel offers less.
fn new_ring() -> io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETION_ENTRIES).setup_clamp();
        builder
    };
    let deferred = base()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSION_ENTRIES);
    if deferred.is_ok() {
        return deferred;
    }
    let cooperative = base().setup_coop_taskrun().setup_taskrun_flag().build(SUBMISSION_ENTRIES);
    if cooperative.is_ok() {
        return cooperative;
    }
    base().build(SUBMISSION_ENTRIES)
}

fn interrupted(error: &io::Error) -> bool {
    // ETIME: the wait's own timeout. EBUSY: completions must be reaped first. EAGAIN: memory is short just now.
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}
