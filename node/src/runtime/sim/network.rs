//! A simulated TCP network between machines.
//!
//! TCP hides lost, doubled and reordered datagrams from programs: a stream's bytes arrive once and in order or not at
//! all. So faults are modelled as what programs see of them:
//!
//! | fault | what a program sees |
//! | --- | --- |
//! | delay, loss, duplication, reordering of datagrams | bytes of a stream come late (`latency_us`, `late` with `late_us`), in pieces of any size |
//! | reordering between connections | every connection draws its own delays |
//! | dropped connection (`reset`) | both ends get ECONNRESET, bytes under way are lost; when is drawn per packet |
//! | cut link (either or both directions) | nothing arrives; bytes wait; after [`TCP_TIMEOUT`] the sender gets ETIMEDOUT while the other end knows nothing (half-open); when healed in time all arrives in order |
//! | killed process | its peers get ECONNRESET, unless the link is cut: then they are half-open until they send |
//! | machine without a process | connecting is refused |
//!
//! A message is duplicated only by a program that sends it again on a new connection; a reset or ETIMEDOUT after the
//! bytes arrived is what provokes that.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::operation::Handle;
use super::super::time::MonotonicTime;
use super::random::Random;
use super::reactor::OperationId;

/// How long a sender tries before it gives a connection up; real kernels take minutes, which would only stretch tests.
pub const TCP_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes under way or unread per direction before a sender waits: a usual socket buffer.
const WINDOW_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// First port given to listeners that ask for any.
const FIRST_FREE_PORT: u16 = 40_000;

/// How a link between two machines behaves. Times in microseconds as (least, most), chances in a million per packet.
#[derive(Debug, Clone)]
pub struct LinkFaults {
    /// Time of a packet.
    pub latency_us: (u64, u64),
    /// Packets that take `late_us` longer: lost and sent again.
    pub late: u64,
    /// What a late packet takes more.
    pub late_us: (u64, u64),
    /// Packets whose connection is reset instead.
    pub reset: u64,
}

impl Default for LinkFaults {
    /// A fast network without faults.
    fn default() -> Self {
        LinkFaults { latency_us: (10, 60), late: 0, late_us: (1_000, 200_000), reset: 0 }
    }
}

/// One end of a connection, or a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SocketId {
    Listener { machine: usize, port: u16 },
    End { connection: u64, end: usize },
}

/// What a program holds of a socket; dropping it closes the socket at the next step of the simulation.
#[derive(Debug)]
pub struct Socket {
    id: SocketId,
    closing: Arc<Mutex<Vec<SocketId>>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}

/// What travels on a connection.
#[derive(Debug)]
pub(super) enum Packet {
    Data(Vec<u8>),
    End,
    Reset,
}

/// Something that the network wants to happen.
#[derive(Debug)]
pub(super) enum NetworkEvent {
    /// The next packet of those sent to an end reaches it.
    Arrive { connection: u64, end: usize },
    /// A connection request reaches the machine it is for.
    Request { id: OperationId, from: SocketAddr, to: SocketAddr },
    /// The answer reaches the machine that asked: the connection, or that it is refused.
    Answer { id: OperationId, connection: Option<u64> },
    /// Nothing came through for [`TCP_TIMEOUT`], if bytes towards the end still wait since `since`.
    GiveUp { connection: u64, end: usize, since: MonotonicTime },
    /// A connection request was not answered in time.
    ConnectTimeout { id: OperationId },
    /// Something may have changed for an operation.
    Retry(OperationId),
}

#[derive(Debug)]
struct End {
    machine: usize,
    address: SocketAddr,
    /// Arrived, not yet received.
    inbox: VecDeque<u8>,
    /// Sent towards this end, not yet arrived.
    under_way_bytes: usize,
    /// Sent towards this end, not yet arrived, in order.
    under_way: VecDeque<Packet>,
    /// How many of them a cut link holds back, and since when.
    held: u64,
    held_since: MonotonicTime,
    /// When the last packet towards this end arrives: later ones come later.
    last_arrival: MonotonicTime,
    receiving: Option<OperationId>,
    sending: Option<OperationId>,
    /// The peer sends no more.
    ended: bool,
    /// This end sends no more.
    write_shut: bool,
    /// This end receives no more.
    read_shut: bool,
    error: Option<io::ErrorKind>,
    /// The program closed it or is gone.
    closed: bool,
}

#[derive(Debug, Default)]
struct Listener {
    waiting: VecDeque<u64>,
    accepting: Vec<OperationId>,
}

#[derive(Debug)]
enum Connecting {
    Asked,
    Connected(u64),
    Failed(io::ErrorKind),
}

/// All connections, listeners and links.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) default_link: LinkFaults,
    links: BTreeMap<(usize, usize), LinkFaults>,
    /// Directions in which nothing passes.
    cut: std::collections::BTreeSet<(usize, usize)>,
    connections: BTreeMap<u64, [End; 2]>,
    listeners: BTreeMap<(usize, u16), Listener>,
    connecting: BTreeMap<OperationId, Connecting>,
    next_connection: u64,
    next_port: BTreeMap<usize, u16>,
    closing: Arc<Mutex<Vec<SocketId>>>,
    /// Events that were caused, with the time until they happen; the world puts them in order.
    pub(super) caused: Vec<(Duration, NetworkEvent)>,
    pub(super) delivered_packets: u64,
}

/// What the network asks of the world while something happens on it.
pub(super) struct Moment<'a> {
    pub(super) now: MonotonicTime,
    pub(super) random: &'a mut Random,
}

impl Network {
    pub(super) fn set_link(&mut self, from: usize, to: usize, faults: LinkFaults) {
        self.links.insert((from, to), faults);
    }

    fn link(&self, from: usize, to: usize) -> &LinkFaults {
        self.links.get(&(from, to)).unwrap_or(&self.default_link)
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Lets packets pass again, first those that waited.
    pub(super) fn heal(&mut self, from: usize, to: usize, moment: &mut Moment<'_>) {
        self.cut.remove(&(from, to));
        let mut waiting = Vec::new();
        for (connection, ends) in &mut self.connections {
            for end in 0..2 {
                if ends[1 - end].machine == from && ends[end].machine == to {
                    let held = std::mem::take(&mut ends[end].held);
                    waiting.extend((0..held).map(|_| (*connection, end)));
                }
            }
        }
        for (connection, end) in waiting {
            self.schedule_arrival(connection, end, moment);
        }
    }

    pub(super) fn listen(
        &mut self,
        machine: usize,
        ip: IpAddr,
        port: u16,
    ) -> io::Result<(Handle, SocketAddr)> {
        let port = if port == 0 { self.free_port(machine) } else { port };
        if self.listeners.contains_key(&(machine, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.listeners.insert((machine, port), Listener::default());
        let id = SocketId::Listener { machine, port };
        Ok((self.handle(id), SocketAddr::new(ip, port)))
    }

    fn free_port(&mut self, machine: usize) -> u16 {
        let next = self.next_port.entry(machine).or_insert(FIRST_FREE_PORT);
        *next = next.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        *next
    }

    fn handle(&self, id: SocketId) -> Handle {
        Handle::SimSocket(Socket { id, closing: self.closing.clone() })
    }

    pub(super) fn peer_addr(&self, handle: &Handle) -> io::Result<SocketAddr> {
        match id(handle) {
            SocketId::End { connection, end } => {
                let ends = self.connections.get(&connection);
                ends.map(|ends| ends[1 - end].address).ok_or(io::ErrorKind::NotConnected.into())
            }
            SocketId::Listener { .. } => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// A program begins to connect.
    pub(super) fn connect(
        &mut self,
        id: OperationId,
        from: IpAddr,
        to: SocketAddr,
        target: Option<usize>,
        moment: &mut Moment<'_>,
    ) {
        self.connecting.insert(id, Connecting::Asked);
        let from = SocketAddr::new(from, self.free_port(id.machine));
        match target {
            Some(target) if !self.cut.contains(&(id.machine, target)) => {
                let delay = self.delay(id.machine, target, moment.random);
                self.caused.push((delay, NetworkEvent::Request { id, from, to }));
            }
            _ => self.caused.push((TCP_TIMEOUT, NetworkEvent::ConnectTimeout { id })),
        }
    }

    /// Something reached its place.
    pub(super) fn happen(
        &mut self,
        event: NetworkEvent,
        machine_of: impl Fn(IpAddr) -> Option<usize>,
        moment: &mut Moment<'_>,
    ) {
        match event {
            NetworkEvent::Arrive { connection, end } => self.arrive(connection, end, moment),
            NetworkEvent::Request { id, from, to } => {
                if let Some(target) = machine_of(to.ip()) {
                    self.request(id, from, to, target, moment);
                }
            }
            NetworkEvent::Answer { id, connection } => self.answer(id, connection, moment),
            NetworkEvent::GiveUp { connection, end, since } => {
                let Some(ends) = self.connections.get_mut(&connection) else { return };
                if ends[end].held > 0 && ends[end].held_since == since {
                    ends[end].held = 0;
                    ends[end].under_way.clear();
                    self.fail(connection, 1 - end, io::ErrorKind::TimedOut);
                }
            }
            NetworkEvent::ConnectTimeout { id } => {
                self.connected(id, Connecting::Failed(io::ErrorKind::TimedOut));
            }
            NetworkEvent::Retry(_) => unreachable!("the world retries operations itself"),
        }
    }

    fn request(
        &mut self,
        id: OperationId,
        from: SocketAddr,
        to: SocketAddr,
        target: usize,
        moment: &mut Moment<'_>,
    ) {
        let number = self.next_connection;
        let accepted = match self.listeners.get_mut(&(target, to.port())) {
            Some(listener) if listener.waiting.len() < BACKLOG => {
                listener.waiting.push_back(number);
                let retries = std::mem::take(&mut listener.accepting);
                self.retry(retries);
                true
            }
            _ => false,
        };
        if accepted {
            self.next_connection += 1;
            let ends = [End::new(id.machine, from), End::new(target, to)];
            self.connections.insert(number, ends);
        }
        if self.cut.contains(&(target, id.machine)) {
            self.caused.push((TCP_TIMEOUT, NetworkEvent::ConnectTimeout { id }));
            return;
        }
        let delay = self.delay(target, id.machine, moment.random);
        let connection = accepted.then_some(number);
        self.caused.push((delay, NetworkEvent::Answer { id, connection }));
    }

    fn answer(&mut self, id: OperationId, connection: Option<u64>, moment: &mut Moment<'_>) {
        let asked = matches!(self.connecting.get(&id), Some(Connecting::Asked));
        match connection {
            None => self.connected(id, Connecting::Failed(io::ErrorKind::ConnectionRefused)),
            Some(connection) if asked => self.connected(id, Connecting::Connected(connection)),
            // Nobody there awaits it any more.
            Some(connection) => self.close_end(connection, 0, moment),
        }
    }

    fn connected(&mut self, id: OperationId, result: Connecting) {
        if let Some(connecting) = self.connecting.get_mut(&id) {
            *connecting = result;
            self.retry([id]);
        }
    }

    /// Tries to end a connect.
    pub(super) fn try_connect(&mut self, id: OperationId) -> Option<io::Result<Handle>> {
        match self.connecting.get(&id)? {
            Connecting::Asked => None,
            Connecting::Failed(kind) => {
                let error = (*kind).into();
                self.connecting.remove(&id);
                Some(Err(error))
            }
            Connecting::Connected(connection) => {
                let socket = SocketId::End { connection: *connection, end: 0 };
                self.connecting.remove(&id);
                Some(Ok(self.handle(socket)))
            }
        }
    }

    /// Tries to end an accept.
    pub(super) fn try_accept(
        &mut self,
        id: OperationId,
        handle: &Handle,
    ) -> Option<io::Result<Handle>> {
        let SocketId::Listener { machine, port } = self::id(handle) else {
            return Some(Err(io::ErrorKind::InvalidInput.into()));
        };
        let Some(listener) = self.listeners.get_mut(&(machine, port)) else {
            return Some(Err(io::ErrorKind::InvalidInput.into()));
        };
        match listener.waiting.pop_front() {
            Some(connection) => Some(Ok(self.handle(SocketId::End { connection, end: 1 }))),
            None => {
                listener.accepting.push(id);
                None
            }
        }
    }

    /// Tries to end a receive.
    pub(super) fn try_receive(
        &mut self,
        id: OperationId,
        handle: &Handle,
        buffer: &mut Vec<u8>,
        random: &mut Random,
    ) -> Option<io::Result<usize>> {
        let SocketId::End { connection, end } = self::id(handle) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let Some(ends) = self.connections.get_mut(&connection) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let this = &mut ends[end];
        if let Some(kind) = this.error.filter(|_| this.inbox.is_empty()) {
            return Some(Err(kind.into()));
        }
        if this.read_shut {
            return Some(Ok(0));
        }
        if this.inbox.is_empty() {
            if this.ended {
                return Some(Ok(0));
            }
            this.receiving = Some(id);
            return None;
        }
        let mut count = this.inbox.len().min(buffer.capacity() - buffer.len());
        if random.chance(250_000) {
            count = 1 + random.below(count as u64) as usize;
        }
        // Slices, not bytes one by one: simulations run unoptimized too.
        let (front, back) = this.inbox.as_slices();
        let of_front = count.min(front.len());
        buffer.extend_from_slice(&front[..of_front]);
        buffer.extend_from_slice(&back[..count - of_front]);
        this.inbox.drain(..count);
        let retries = ends[1 - end].sending.take();
        self.retry(retries);
        Some(Ok(count))
    }

    /// Tries to send; the count that was taken.
    pub(super) fn try_send(
        &mut self,
        id: OperationId,
        handle: &Handle,
        bytes: &[u8],
        moment: &mut Moment<'_>,
    ) -> Option<io::Result<usize>> {
        let SocketId::End { connection, end } = self::id(handle) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let Some(ends) = self.connections.get_mut(&connection) else {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if let Some(kind) = ends[end].error {
            return Some(Err(kind.into()));
        }
        if ends[end].write_shut {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let waiting = ends[1 - end].under_way_bytes + ends[1 - end].inbox.len();
        let count = bytes.len().min(WINDOW_BYTES.saturating_sub(waiting));
        if count == 0 && !bytes.is_empty() {
            ends[end].sending = Some(id);
            return None;
        }
        ends[1 - end].under_way_bytes += count;
        let packet = Packet::Data(bytes[..count].to_vec());
        self.transmit(connection, 1 - end, packet, moment);
        Some(Ok(count))
    }

    pub(super) fn shutdown(&mut self, handle: &Handle, how: Shutdown, moment: &mut Moment<'_>) {
        match id(handle) {
            SocketId::Listener { machine, port } => {
                let listener = self.listeners.remove(&(machine, port));
                self.retry(listener.into_iter().flat_map(|listener| listener.accepting));
            }
            SocketId::End { connection, end } => {
                let Some(ends) = self.connections.get_mut(&connection) else { return };
                if how != Shutdown::Write {
                    ends[end].read_shut = true;
                    let receiving = ends[end].receiving.take();
                    self.retry(receiving);
                }
                if how != Shutdown::Read {
                    self.end_writing(connection, end, moment);
                }
            }
        }
    }

    fn end_writing(&mut self, connection: u64, end: usize, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        if std::mem::replace(&mut ends[end].write_shut, true) {
            return;
        }
        let sending = ends[end].sending.take();
        self.retry(sending);
        self.transmit(connection, 1 - end, Packet::End, moment);
    }

    /// Sends a packet towards an end.
    fn transmit(&mut self, connection: u64, end: usize, packet: Packet, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let (from, to) = (ends[1 - end].machine, ends[end].machine);
        let data = matches!(packet, Packet::Data(_));
        ends[end].under_way.push_back(packet);
        let reset = self.link(from, to).reset;
        if data && moment.random.chance(reset) {
            self.fail(connection, 0, io::ErrorKind::ConnectionReset);
            self.fail(connection, 1, io::ErrorKind::ConnectionReset);
            return;
        }
        self.schedule_arrival(connection, end, moment);
    }

    fn schedule_arrival(&mut self, connection: u64, end: usize, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get(&connection) else { return };
        let delay = self.delay(ends[1 - end].machine, ends[end].machine, moment.random);
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let arrival = (moment.now + delay).max(ends[end].last_arrival + Duration::from_nanos(1));
        ends[end].last_arrival = arrival;
        self.caused.push((arrival - moment.now, NetworkEvent::Arrive { connection, end }));
    }

    fn arrive(&mut self, connection: u64, end: usize, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let (from, to) = (ends[1 - end].machine, ends[end].machine);
        let this = &mut ends[end];
        if self.cut.contains(&(from, to)) {
            if this.held == 0 {
                this.held_since = moment.now;
                let since = moment.now;
                self.caused.push((TCP_TIMEOUT, NetworkEvent::GiveUp { connection, end, since }));
            }
            this.held += 1;
            return;
        }
        // Nothing is left of a connection that was given up.
        let Some(packet) = this.under_way.pop_front() else { return };
        self.delivered_packets += 1;
        match packet {
            Packet::Reset => self.fail(connection, end, io::ErrorKind::ConnectionReset),
            Packet::Data(bytes) => {
                this.under_way_bytes = this.under_way_bytes.saturating_sub(bytes.len());
                if this.closed {
                    self.transmit(connection, 1 - end, Packet::Reset, moment);
                    return;
                }
                if this.error.is_none() && !this.read_shut {
                    this.inbox.extend(bytes);
                }
                let receiving = this.receiving.take();
                self.retry(receiving);
            }
            Packet::End => {
                this.ended = true;
                let receiving = this.receiving.take();
                self.retry(receiving);
                self.forget_if_over(connection);
            }
        }
    }

    /// An end learns that its connection is broken.
    fn fail(&mut self, connection: u64, end: usize, kind: io::ErrorKind) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        let this = &mut ends[end];
        this.error.get_or_insert(kind);
        if kind == io::ErrorKind::ConnectionReset {
            this.inbox.clear();
        }
        let retries = [this.receiving.take(), this.sending.take()];
        self.retry(retries.into_iter().flatten());
        self.forget_if_over(connection);
    }

    /// Closes what programs dropped.
    pub(super) fn close_dropped(&mut self, moment: &mut Moment<'_>) {
        let closing =
            std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        for socket in closing {
            match socket {
                SocketId::Listener { machine, port } => self.close_listener(machine, port, moment),
                SocketId::End { connection, end } => self.close_end(connection, end, moment),
            }
        }
    }

    fn close_listener(&mut self, machine: usize, port: u16, moment: &mut Moment<'_>) {
        let Some(listener) = self.listeners.remove(&(machine, port)) else { return };
        self.retry(listener.accepting);
        for connection in listener.waiting {
            self.break_end(connection, 1, moment);
        }
    }

    /// A program closed an end: its peer gets the end of the stream, or a reset if bytes were left unread.
    fn close_end(&mut self, connection: u64, end: usize, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        if ends[end].closed {
            return;
        }
        if !ends[end].inbox.is_empty() {
            self.break_end(connection, end, moment);
            return;
        }
        ends[end].closed = true;
        self.end_writing(connection, end, moment);
        self.forget_if_over(connection);
    }

    fn break_end(&mut self, connection: u64, end: usize, moment: &mut Moment<'_>) {
        let Some(ends) = self.connections.get_mut(&connection) else { return };
        ends[end].closed = true;
        self.transmit(connection, 1 - end, Packet::Reset, moment);
        self.forget_if_over(connection);
    }

    fn forget_if_over(&mut self, connection: u64) {
        let Some([first, second]) = self.connections.get(&connection) else { return };
        let over = |this: &End, other: &End| {
            this.closed && (other.ended || other.error.is_some() || other.closed)
        };
        if over(first, second) && over(second, first) {
            self.connections.remove(&connection);
        }
    }

    /// The machine's process is gone: ports are free, and its peers are told where the network lets it.
    pub(super) fn process_gone(&mut self, machine: usize, moment: &mut Moment<'_>) {
        self.connecting.retain(|id, _| id.machine != machine);
        let ports: Vec<u16> = self
            .listeners
            .range((machine, 0)..=(machine, u16::MAX))
            .map(|((_, port), _)| *port)
            .collect();
        for port in ports {
            self.close_listener(machine, port, moment);
        }
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for connection in numbers {
            for end in 0..2 {
                let open = self
                    .connections
                    .get(&connection)
                    .is_some_and(|ends| ends[end].machine == machine && !ends[end].closed);
                if open {
                    self.break_end(connection, end, moment);
                }
            }
        }
    }

    fn delay(&self, from: usize, to: usize, random: &mut Random) -> Duration {
        let link = self.link(from, to);
        let mut delay_us = random.between(link.latency_us);
        if random.chance(link.late) {
            delay_us += random.between(link.late_us);
        }
        Duration::from_micros(delay_us)
    }

    fn retry(&mut self, operations: impl IntoIterator<Item = OperationId>) {
        let events = operations.into_iter().map(NetworkEvent::Retry);
        self.caused.extend(events.map(|event| (Duration::ZERO, event)));
    }
}

impl End {
    fn new(machine: usize, address: SocketAddr) -> End {
        End {
            machine,
            address,
            inbox: VecDeque::new(),
            under_way_bytes: 0,
            under_way: VecDeque::new(),
            held: 0,
            held_since: MonotonicTime::default(),
            last_arrival: MonotonicTime::default(),
            receiving: None,
            sending: None,
            ended: false,
            write_shut: false,
            read_shut: false,
            error: None,
            closed: false,
        }
    }
}

fn id(handle: &Handle) -> SocketId {
    match handle {
        Handle::SimSocket(socket) => socket.id,
        _ => unreachable!("the simulated network is given only what it made"),
    }
}
