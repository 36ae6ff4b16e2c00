//! Everything outside the simulated programs: time, machines with their disks, the network, and what happens next.
//!
//! Invariant: all that is drawn by chance comes from one generator, all collections are ordered, and nothing reads a
//! real clock; so a seed and the programs alone decide every event.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::super::operation::{Handle, Operation};
use super::super::shared::Shard;
use super::super::time::MonotonicTime;
use super::disk::Disk;
use super::network::{Moment, Network, NetworkEvent};
use super::random::Random;
use super::reactor::{OperationId, Outcome};

/// Where virtual time begins: past zero, so that programs may subtract.
const START: MonotonicTime = MonotonicTime::from_nanoseconds(1_000_000_000_000);
/// The wall clock at that moment: 2026-01-01 00:00:00 UTC.
const START_UNIX_TIME_US: i64 = 1_767_225_600_000_000;
/// Time from asking for something of the network to its being tried, in microseconds.
const CALL_US: (u64, u64) = (1, 4);

/// What happens at a moment.
#[derive(Debug)]
pub(super) enum Event {
    /// An operation's time has come.
    Attempt(OperationId),
    /// Something on the network.
    Network(NetworkEvent),
}

/// A computer: its disk outlives its processes.
pub(super) struct Machine {
    pub(super) name: String,
    address: IpAddr,
    pub(super) disk: Disk,
    pub(super) clock_offset_us: i64,
    /// Counts processes: what an earlier one asked for finds no later one.
    pub(super) life: u64,
    /// The shards of the process that runs.
    pub(super) shards: Vec<Rc<Shard>>,
}

pub(super) struct World {
    pub(super) random: Random,
    now: MonotonicTime,
    events: BTreeMap<(MonotonicTime, u64), Event>,
    next_event: u64,
    next_serial: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) network: Network,
    pub(super) trace: Trace,
}

/// A running hash of all that happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace {
    /// How many events it covers.
    pub events: u64,
    /// Their hash.
    pub hash: u64,
}

impl Trace {
    pub(super) fn note(&mut self, values: [u64; 4]) {
        self.events += 1;
        for value in values {
            let mixed = (self.hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.hash = mixed ^ (mixed >> 29);
        }
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            random: Random::new(seed),
            now: START,
            events: BTreeMap::new(),
            next_event: 0,
            next_serial: 0,
            machines: Vec::new(),
            network: Network::default(),
            trace: Trace::default(),
        }
    }

    pub(super) fn add_machine(&mut self, name: &str) -> usize {
        let number = u16::try_from(self.machines.len() + 1).expect("a simulation has few machines");
        let [high, low] = number.to_be_bytes();
        self.machines.push(Machine {
            name: name.to_string(),
            address: IpAddr::V4(Ipv4Addr::new(10, 0, high, low)),
            disk: Disk::default(),
            clock_offset_us: 0,
            life: 0,
            shards: Vec::new(),
        });
        self.machines.len() - 1
    }

    pub(super) fn now(&self) -> MonotonicTime {
        self.now
    }

    pub(super) fn advance(&mut self, to: MonotonicTime) {
        self.now = self.now.max(to);
    }

    pub(super) fn unix_time_us(&self, machine: usize) -> i64 {
        let elapsed_us = (self.now - START).as_micros() as i64;
        START_UNIX_TIME_US + elapsed_us + self.machines[machine].clock_offset_us
    }

    pub(super) fn disk(&mut self, machine: usize) -> &mut Disk {
        &mut self.machines[machine].disk
    }

    pub(super) fn life(&self, machine: usize) -> u64 {
        self.machines[machine].life
    }

    pub(super) fn address(&self, machine: usize) -> IpAddr {
        self.machines[machine].address
    }

    /// `name:port` by the names of machines; addresses of any or this host mean the machine itself.
    pub(super) fn resolve(&self, machine: usize, text: &str) -> io::Result<SocketAddr> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "expected host:port");
        let (name, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let address = match self.machines.iter().find(|machine| machine.name == name) {
            Some(named) => named.address,
            None if name == "localhost" => self.machines[machine].address,
            None => return Err(io::Error::new(io::ErrorKind::NotFound, "no machine has the name")),
        };
        Ok(SocketAddr::new(address, port))
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// The shard that an operation is of, if its process still lives.
    pub(super) fn shard(&self, id: OperationId) -> Option<Rc<Shard>> {
        let machine = &self.machines[id.machine];
        if machine.life != id.life {
            return None;
        }
        machine.shards.get(id.shard).cloned()
    }

    pub(super) fn schedule(&mut self, delay: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + delay, self.next_event), event);
    }

    pub(super) fn next_event_time(&self) -> Option<MonotonicTime> {
        self.events.first_key_value().map(|((time, _), _)| *time)
    }

    /// The next event that is due by now.
    pub(super) fn take_due(&mut self) -> Option<Event> {
        let entry = self.events.first_entry()?;
        (entry.key().0 <= self.now).then(|| entry.remove())
    }

    /// A program asks for something.
    pub(super) fn begin(&mut self, id: OperationId, operation: &Operation) {
        let delay_us = match operation {
            Operation::Accept { .. }
            | Operation::Receive { .. }
            | Operation::Send { .. }
            | Operation::SendParts { .. }
            | Operation::Shutdown { .. } => self.random.between(CALL_US),
            Operation::Connect { address } => {
                let from = self.machines[id.machine].address;
                let (to, target) = self.target(id.machine, *address);
                let mut moment = Moment { now: self.now, random: &mut self.random };
                self.network.connect(id, from, to, target, &mut moment);
                self.schedule_caused();
                return;
            }
            _ => self.machines[id.machine].disk.begin(id, operation, &mut self.random),
        };
        self.schedule(Duration::from_micros(delay_us), Event::Attempt(id));
    }

    /// The machine of an address as a machine sees it.
    fn target(&self, machine: usize, address: SocketAddr) -> (SocketAddr, Option<usize>) {
        let ip = match address.ip() {
            ip if ip.is_loopback() || ip.is_unspecified() => self.machines[machine].address,
            ip => ip,
        };
        let target = self.machines.iter().position(|machine| machine.address == ip);
        (SocketAddr::new(ip, address.port()), target)
    }

    /// Tries to end an operation; `None` if it has to wait for the network.
    pub(super) fn attempt(
        &mut self,
        id: OperationId,
        operation: &mut Operation,
    ) -> Option<Outcome> {
        let mut moment = Moment { now: self.now, random: &mut self.random };
        let network = &mut self.network;
        let outcome = match operation {
            Operation::Accept { listener } => network.try_accept(id, listener).map(opened),
            Operation::Connect { .. } => network.try_connect(id).map(opened),
            Operation::Receive { stream, buffer } => {
                network.try_receive(id, stream, buffer, moment.random).map(Outcome::of)
            }
            Operation::Send { stream, buffer, done_bytes } => {
                let bytes = &buffer[*done_bytes..];
                self.trace.note([
                    1,
                    id.serial,
                    bytes.len() as u64,
                    u64::from(crc32c::crc32c(bytes)),
                ]);
                network.try_send(id, stream, bytes, &mut moment).map(Outcome::of)
            }
            Operation::SendParts { stream, parts, done_bytes } => {
                let whole = parts.concat();
                let bytes = &whole[*done_bytes..];
                let checksum = u64::from(crc32c::crc32c(bytes));
                self.trace.note([1, id.serial, bytes.len() as u64, checksum]);
                network.try_send(id, stream, bytes, &mut moment).map(Outcome::of)
            }
            Operation::Shutdown { stream, how } => {
                network.shutdown(stream, *how, &mut moment);
                Some(Outcome::of(Ok(0)))
            }
            _ => {
                if let Operation::Write { buffer, offset_bytes, .. } = operation {
                    let checksum = u64::from(crc32c::crc32c(buffer));
                    self.trace.note([2, id.serial, *offset_bytes, checksum]);
                }
                let disk = &mut self.machines[id.machine].disk;
                Some(disk.finish(id, operation, &mut self.random))
            }
        };
        self.schedule_caused();
        outcome
    }

    /// Something happens on the network.
    pub(super) fn network_event(&mut self, event: NetworkEvent) {
        let machines = &self.machines;
        let machine_of = |ip| machines.iter().position(|machine| machine.address == ip);
        let mut moment = Moment { now: self.now, random: &mut self.random };
        self.network.happen(event, machine_of, &mut moment);
        self.schedule_caused();
    }

    /// Lets the network do something at this moment, and puts what it causes in its place.
    pub(super) fn on_network<R>(
        &mut self,
        act: impl FnOnce(&mut Network, &mut Moment<'_>) -> R,
    ) -> R {
        let mut moment = Moment { now: self.now, random: &mut self.random };
        let result = act(&mut self.network, &mut moment);
        self.schedule_caused();
        result
    }

    pub(super) fn end_operations(&mut self, handle: &Handle) {
        self.on_network(|network, moment| {
            network.shutdown(handle, std::net::Shutdown::Both, moment);
        });
    }

    fn schedule_caused(&mut self) {
        for (delay, event) in std::mem::take(&mut self.network.caused) {
            let event = match event {
                NetworkEvent::Retry(id) => Event::Attempt(id),
                event => Event::Network(event),
            };
            self.schedule(delay, event);
        }
    }
}

fn opened(result: io::Result<Handle>) -> Outcome {
    match result {
        Ok(handle) => Outcome::opened(handle),
        Err(error) => Outcome::of(Err(error)),
    }
}
