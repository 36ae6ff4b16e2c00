//! Operations in flight on one executor of the library, and the shard's way to wait for them.
//!
//! Invariant: an entry of the table lives from submission to completion, whoever still awaits it. Completions wake tasks in
//! [`Reactor::reap`] only, as those of a ring do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::io::AsyncRead;
use glommio::Task;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::super::executor::Unpark;
use super::super::in_flight::InFlightTable;
use super::super::operation::{Completion, Operation};
use super::super::reactor::Wait;
use super::handle;
use super::operations::{carry_out, ends_by_itself};
use super::polling::KnownDevices;

/// The longest sleep of a shard. The library goes to sleep over ready tasks when its timer for preemption fires between its
/// look at the rings and its look at the tasks; whatever that holds up waits no longer than this.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// A sleep so short that the library looks at its rings instead.
const PAUSE: Duration = Duration::from_micros(1);
/// Turns at the end of a shard that give the rings what dropped files and sockets left to close and cancel.
const LAST_TURNS: usize = 8;

/// Operations of one shard, each a task of its executor.
pub struct Reactor(Rc<Shared>);

/// What the tasks of operations share with the shard's loop.
struct Shared {
    in_flight: InFlightTable<InFlight>,
    /// Operations that ended and wait for the loop.
    completed: RefCell<Vec<(usize, Completion)>>,
    /// The loop, while it waits.
    waiting: RefCell<Option<Waker>>,
    devices: KnownDevices,
    /// Other threads send a byte to it.
    wake: RefCell<TcpStream>,
    wake_sender: Cell<Option<OwnedFd>>,
}

struct InFlight {
    /// `None` for a moment only, while the task begins.
    task: Option<Task<()>>,
    ends_by_itself: bool,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "glommio::Reactor({} in flight)", self.0.in_flight.len())
    }
}

/// Wakes a shard that sleeps.
#[derive(Debug)]
struct WakeSocket(OwnedFd);

impl Unpark for WakeSocket {
    fn unpark(&self) {
        // An error means that bytes wait there, or that the shard is over.
        let _ = rustix::net::send(&self.0, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Reactor {
    /// To be called inside the executor that will use it.
    pub(super) fn new() -> io::Result<Reactor> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (sender, receiver) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(Reactor(Rc::new(Shared {
            in_flight: InFlightTable::default(),
            completed: RefCell::default(),
            waiting: RefCell::default(),
            devices: KnownDevices::default(),
            wake: RefCell::new(handle::stream(receiver)),
            wake_sender: Cell::new(Some(sender)),
        })))
    }

    /// What gets the shard out of its sleep. To be called once.
    pub(super) fn wake_event(&self) -> Box<dyn Unpark> {
        let sender = self.0.wake_sender.take();
        Box::new(WakeSocket(sender.expect("an executor takes its wake event once")))
    }

    pub(in super::super) fn submit(&self, operation: Operation) -> usize {
        let ends_by_itself = ends_by_itself(&operation);
        let index = self.0.in_flight.insert(InFlight { task: None, ends_by_itself });
        let shared = self.0.clone();
        // Begins at once, and may end before it is in the table: the loop takes the completion later.
        let task = glommio::spawn_local(async move {
            let completion = carry_out(operation, &shared.devices).await;
            shared.completed.borrow_mut().push((index, completion));
            if let Some(waker) = shared.waiting.take() {
                waker.wake();
            }
        });
        self.0.in_flight.with(index, |entry| entry.task = Some(task));
        index
    }

    pub(in super::super) fn poll(
        &self,
        index: usize,
        context: &mut Context<'_>,
    ) -> Poll<Completion> {
        self.0.in_flight.poll(index, context)
    }

    pub(in super::super) fn abandon(&self, index: usize) {
        self.0.in_flight.abandon(index);
    }

    /// Gives the executor a turn and waits as asked; [`Self::reap`] follows.
    pub(super) async fn enter(&self, wait: Wait) {
        let most = match wait {
            Wait::Forever => SLEEP_MAX,
            Wait::AtMost(most) => most.min(SLEEP_MAX),
            Wait::No => Duration::ZERO,
        };
        if most < PAUSE || !self.0.completed.borrow().is_empty() {
            return turn().await;
        }
        let mut timer = Timer::new(most);
        poll_fn(|context| {
            *self.0.waiting.borrow_mut() = Some(context.waker().clone());
            let ready = !self.0.completed.borrow().is_empty()
                || self.was_woken(context)
                || Pin::new(&mut timer).poll(context).is_ready();
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.0.waiting.take();
    }

    fn was_woken(&self, context: &mut Context<'_>) -> bool {
        let mut bytes = [0; 64];
        let mut wake = self.0.wake.borrow_mut();
        match Pin::new(&mut *wake).poll_read(context, &mut bytes) {
            Poll::Pending => false,
            Poll::Ready(Ok(1..)) => true,
            Poll::Ready(result) => panic!("the shard holds both ends of its socket: {result:?}"),
        }
    }

    /// Wakes whoever's operation completed.
    pub(super) fn reap(&self) {
        for (index, completion) in self.0.completed.take() {
            self.0.in_flight.complete(index, |_| completion);
        }
    }

    /// Waits for what ends by itself, cancels the rest, and lets files and sockets close.
    pub(super) async fn drain(&self) {
        self.0.in_flight.drop_done();
        for InFlight { task, ends_by_itself } in self.0.in_flight.take_all() {
            let task = task.expect("a task that began is in the table");
            match ends_by_itself {
                true => task.await,
                false => drop(task.cancel().await),
            }
        }
        drop(self.0.completed.take());
        for _ in 0..LAST_TURNS {
            turn().await;
        }
    }
}

/// Lets the executor look at its rings. Yielding would not: it goes on with ready tasks for as long as there are any.
async fn turn() {
    let mut pause = PAUSE;
    loop {
        let mut timer = Timer::new(pause);
        let pending =
            poll_fn(|context| Poll::Ready(Pin::new(&mut timer).poll(context).is_pending()));
        if pending.await {
            timer.await;
            return;
        }
        // The time was over before it was set: nothing was looked at.
        pause *= 2;
    }
}
