//! The machine that runs the simulated primary: a listener, a task per session, and clients that commit.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::wire::postgres::replication::POSTGRES_EPOCH_UNIX_US;
use firn_node::runtime::sim::{MachineId, Simulation};
use firn_node::runtime::sync::Notify;
use firn_node::runtime::{Runtime, Stream, TaskClass};
use futures_util::future::{Either, select};

use crate::simulation::ledger::Ledger;
use crate::simulation::primary::Primary;
use crate::simulation::random::Random;
use crate::simulation::session::{Host, Session, Slot};

/// Port of every primary.
pub const POSTGRES_PORT: u16 = 5432;

/// Pause between two transactions, in microseconds: at most.
const PAUSE_US_MAX: u64 = 60_000;
/// Records that clients wait for at once: they commit nothing more before they had their answers.
const RECORDS_WAITING_MAX: usize = 60;
const RECEIVE_BYTES: usize = 16 * 1024;

/// What outlives the primary's process: its disk, and its clients' notes.
pub struct Server {
    /// The database.
    pub primary: Primary,
    slot: Slot,
    ledger: Rc<RefCell<Ledger>>,
    random: Random,
    /// Whether clients commit.
    pub busy: bool,
    sessions: u32,
}

/// One machine that runs a primary.
pub struct PostgresMachine {
    /// The machine.
    pub machine: MachineId,
    /// What is on it.
    pub server: Rc<RefCell<Server>>,
}

impl PostgresMachine {
    /// A machine of that name, its process not started.
    pub fn new(
        simulation: &Simulation,
        name: &str,
        primary: Primary,
        ledger: Rc<RefCell<Ledger>>,
        random: Random,
    ) -> PostgresMachine {
        let server =
            Server { primary, slot: Slot::default(), ledger, random, busy: true, sessions: 0 };
        PostgresMachine {
            machine: simulation.add_machine(name),
            server: Rc::new(RefCell::new(server)),
        }
    }

    /// Starts the process.
    pub fn start(&self, simulation: &Simulation) {
        self.server.borrow_mut().slot.release();
        simulation.start(self.machine, 1, |runtime| serve(runtime, self.server.clone()));
    }
}

async fn serve(runtime: Runtime, server: Rc<RefCell<Server>>) {
    let written = Rc::new(Notify::new());
    let writing = write(runtime.clone(), server.clone(), written.clone());
    runtime.spawn(TaskClass::Latency, writing).detach();
    let address = format!("0.0.0.0:{POSTGRES_PORT}");
    let listener = runtime.listen(&address).await.expect("nothing else listens there");
    loop {
        let Ok(stream) = listener.accept().await else { continue };
        let session = serve_session(runtime.clone(), server.clone(), written.clone(), stream);
        runtime.spawn(TaskClass::Latency, session).detach();
    }
}

async fn write(runtime: Runtime, server: Rc<RefCell<Server>>, written: Rc<Notify>) {
    loop {
        let pause_us = {
            let server = &mut *server.borrow_mut();
            if server.busy && server.primary.waiting() < RECORDS_WAITING_MAX {
                server.primary.write(&mut server.random);
            }
            if server.random.percent(70) {
                server.primary.flush(&mut server.random);
            }
            1 + server.random.below(PAUSE_US_MAX)
        };
        written.notify_all();
        runtime.sleep(Duration::from_micros(pause_us)).await;
    }
}

async fn serve_session(
    runtime: Runtime,
    server: Rc<RefCell<Server>>,
    written: Rc<Notify>,
    stream: Stream,
) {
    let mut session = {
        let mut server = server.borrow_mut();
        server.sessions += 1;
        Session::new(server.sessions)
    };
    talk(&runtime, &server, &written, &stream, &mut session).await;
    with_host(&runtime, &server, |host| session.close(host));
}

async fn talk(
    runtime: &Runtime,
    server: &RefCell<Server>,
    written: &Notify,
    stream: &Stream,
    session: &mut Session,
) {
    loop {
        let mut out = Vec::new();
        with_host(runtime, server, |host| session.stream(host, &mut out));
        if !out.is_empty() {
            if stream.send_all(out).await.0.is_err() {
                return;
            }
            continue;
        }
        let receive = std::pin::pin!(stream.recv(Vec::with_capacity(RECEIVE_BYTES)));
        let more_wal = std::pin::pin!(written.notified());
        let Either::Left(((result, received), _)) = select(receive, more_wal).await else {
            continue;
        };
        if !matches!(result, Ok(count) if count > 0) {
            return;
        }
        let mut out = Vec::new();
        let open = with_host(runtime, server, |host| session.receive(&received, host, &mut out));
        if open.is_err() || (!out.is_empty() && stream.send_all(out).await.0.is_err()) {
            return;
        }
    }
}

fn with_host<T>(
    runtime: &Runtime,
    server: &RefCell<Server>,
    work: impl FnOnce(&mut Host<'_>) -> T,
) -> T {
    let server = &mut *server.borrow_mut();
    work(&mut Host {
        primary: &mut server.primary,
        slot: &mut server.slot,
        ledger: &mut server.ledger.borrow_mut(),
        now_us: runtime.unix_time_us() - POSTGRES_EPOCH_UNIX_US,
    })
}
