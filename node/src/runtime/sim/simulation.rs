//! [`Simulation`]: machines, processes, faults, and the loop that decides who runs next.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::super::device::Device;
use super::super::executor::{Executor, TaskClass, Unpark};
use super::super::reactor;
use super::super::shared::{Runtime, Shard};
use super::super::time::MonotonicTime;
use super::disk::DiskFaults;
use super::network::LinkFaults;
use super::reactor::Reactor;
use super::world::{Event, Trace, World};

/// Virtual time that a task's turn takes, in microseconds: a task that always yields cannot stop time.
const TURN_US: (u64, u64) = (0, 2);

/// A machine of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(pub(super) usize);

/// A cluster of machines on virtual time. Clones are the same simulation.
///
/// Its methods are for the test that drives it, never for code that runs inside. On a panic it prints its seed.
#[derive(Clone)]
pub struct Simulation(Rc<State>);

struct State {
    seed: u64,
    world: Rc<RefCell<World>>,
    /// Main futures that have not ended, per machine.
    running: RefCell<Vec<Rc<Cell<usize>>>>,
}

/// All shards are one thread, which never sleeps.
struct NeverParked;

impl Unpark for NeverParked {
    fn unpark(&self) {}
}

impl Simulation {
    /// A simulation without machines.
    pub fn new(seed: u64) -> Simulation {
        let world = Rc::new(RefCell::new(World::new(seed)));
        Simulation(Rc::new(State { seed, world, running: RefCell::default() }))
    }

    /// The seed that decides everything.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Adds a machine with an empty disk and no process. Others reach it as `name:port`.
    pub fn add_machine(&self, name: &str) -> MachineId {
        self.0.running.borrow_mut().push(Rc::default());
        MachineId(self.0.world.borrow_mut().add_machine(name))
    }

    /// Starts a process of so many shards; each runs `main` with its own [`Runtime`]. When all main futures ended, the
    /// process ends in order.
    ///
    /// # Panics
    /// If the machine has a process, or `shards` is 0.
    pub fn start<F>(&self, machine: MachineId, shards: usize, main: impl Fn(Runtime) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        assert!(shards > 0, "a process has at least one shard");
        assert!(!self.is_running(machine), "a machine has one process at a time");
        let life = {
            let mut world = self.0.world.borrow_mut();
            world.machines[machine.0].life += 1;
            world.machines[machine.0].life
        };
        let running = Rc::new(Cell::new(shards));
        self.0.running.borrow_mut()[machine.0] = running.clone();
        for index in 0..shards {
            let reactor = Reactor::new(self.0.world.clone(), machine.0, life, index);
            let executor = Executor::new(Box::new(NeverParked));
            let reactor = reactor::Reactor::Sim(reactor);
            let shard = Rc::new(Shard::new(executor, reactor, (index, shards), Device::Real));
            self.0.world.borrow_mut().machines[machine.0].shards.push(shard.clone());
            let runtime = Runtime(shard);
            let (main, running) = (main(runtime.clone()), running.clone());
            let task = runtime.spawn(TaskClass::Latency, async move {
                main.await;
                running.set(running.get() - 1);
            });
            task.detach();
        }
    }

    /// Whether the machine's process runs.
    pub fn is_running(&self, machine: MachineId) -> bool {
        !self.0.world.borrow().machines[machine.0].shards.is_empty()
    }

    /// Runs one program on a machine until it ends.
    ///
    /// # Panics
    /// If it does not end within `at_most`.
    pub fn run_program<F>(
        &self,
        machine: MachineId,
        at_most: Duration,
        main: impl FnOnce(Runtime) -> F,
    ) -> F::Output
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let main = Cell::new(Some(main));
        self.start(machine, 1, |runtime| {
            let main = main.take().expect("one shard has one main future");
            let (future, result) = (main(runtime), result.clone());
            async move {
                let value = future.await;
                *result.borrow_mut() = Some(value);
            }
        });
        let ended = self.run_until(at_most, || !self.is_running(machine));
        assert!(ended, "the program did not end within {at_most:?} of virtual time");
        let value = result.borrow_mut().take();
        value.expect("a program that ended left its result")
    }

    /// Kills the machine's process at this instant, and the machine's power with it: tasks are dropped, what was not
    /// flushed is lost or torn as the disk's fault model says, peers get a reset where the network lets it through.
    pub fn kill(&self, machine: MachineId) {
        let in_flight = self.end_process(machine);
        let world = &mut *self.0.world.borrow_mut();
        world.machines[machine.0].disk.crash(&in_flight, &mut world.random);
        world.trace.note([3, machine.0 as u64, in_flight.len() as u64, 0]);
    }

    fn end_process(&self, machine: MachineId) -> Vec<super::super::operation::Operation> {
        let shards = std::mem::take(&mut self.0.world.borrow_mut().machines[machine.0].shards);
        let mut in_flight = Vec::new();
        // Futures are dropped outside the world's borrow: their drops may look at it.
        for shard in &shards {
            shard.executor.close();
            if let reactor::Reactor::Sim(reactor) = &*shard.reactor {
                in_flight.extend(reactor.take_all());
            }
        }
        drop(shards);
        let mut world = self.0.world.borrow_mut();
        world.machines[machine.0].life += 1;
        world.on_network(|network, moment| network.process_gone(machine.0, moment));
        in_flight
    }

    /// Ends processes whose main futures have all ended: in order, so nothing written is lost.
    fn end_finished(&self) {
        let running = self.0.running.borrow();
        let finished = (0..running.len()).map(MachineId);
        let finished = finished.filter(|id| running[id.0].get() == 0 && self.is_running(*id));
        for machine in finished {
            drop(self.end_process(machine));
            let world = &mut *self.0.world.borrow_mut();
            world.machines[machine.0].disk.process_ended();
        }
    }

    /// Puts a new, empty disk into a machine whose process does not run.
    ///
    /// # Panics
    /// If its process runs.
    pub fn empty_disk(&self, machine: MachineId) {
        assert!(!self.is_running(machine), "a disk is replaced while the machine is off");
        self.0.world.borrow_mut().disk(machine.0).empty();
    }

    /// Sets how a machine's disk behaves from now on.
    pub fn set_disk(&self, machine: MachineId, faults: DiskFaults) {
        self.0.world.borrow_mut().disk(machine.0).faults = faults;
    }

    /// How a machine's disk behaves now.
    pub fn disk(&self, machine: MachineId) -> DiskFaults {
        self.0.world.borrow_mut().disk(machine.0).faults.clone()
    }

    /// Space that a machine's files take.
    pub fn disk_used_bytes(&self, machine: MachineId) -> u64 {
        self.0.world.borrow_mut().disk(machine.0).used_bytes()
    }

    /// Flips so many bits at places drawn by chance in files whose path contains a text; how many it flipped.
    pub fn rot(&self, machine: MachineId, path_contains: &str, bits: u64) -> u64 {
        let world = &mut *self.0.world.borrow_mut();
        world.machines[machine.0].disk.rot(path_contains, bits, &mut world.random)
    }

    /// Flips one bit of a file.
    ///
    /// # Errors
    /// If there is no such file, or it is shorter.
    pub fn flip_bit(
        &self,
        machine: MachineId,
        path: impl AsRef<Path>,
        offset_bytes: u64,
        bit: u8,
    ) -> io::Result<()> {
        self.0.world.borrow_mut().disk(machine.0).flip(path.as_ref(), offset_bytes, bit)
    }

    /// A file's bytes as programs on the machine see them.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn file_contents(&self, machine: MachineId, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        self.0.world.borrow_mut().disk(machine.0).contents(path.as_ref())
    }

    /// Sets how all links behave that have no behaviour of their own.
    pub fn set_network(&self, faults: LinkFaults) {
        self.0.world.borrow_mut().network.default_link = faults;
    }

    /// Sets how the link behaves from one machine to another.
    pub fn set_link(&self, from: MachineId, to: MachineId, faults: LinkFaults) {
        self.0.world.borrow_mut().network.set_link(from.0, to.0, faults);
    }

    /// Cuts one direction between two machines.
    pub fn cut_one_way(&self, from: MachineId, to: MachineId) {
        self.0.world.borrow_mut().network.cut(from.0, to.0);
    }

    /// Cuts both directions between two machines.
    pub fn cut(&self, first: MachineId, second: MachineId) {
        self.cut_one_way(first, second);
        self.cut_one_way(second, first);
    }

    /// Lets both directions between two machines pass again.
    pub fn heal(&self, first: MachineId, second: MachineId) {
        let mut world = self.0.world.borrow_mut();
        world.on_network(|network, moment| {
            network.heal(first.0, second.0, moment);
            network.heal(second.0, first.0, moment);
        });
    }

    /// Cuts a machine off from all others.
    pub fn isolate(&self, machine: MachineId) {
        self.others(machine).for_each(|other| self.cut(machine, other));
    }

    /// Ends [`Self::isolate`].
    pub fn rejoin(&self, machine: MachineId) {
        self.others(machine).for_each(|other| self.heal(machine, other));
    }

    fn others(&self, machine: MachineId) -> impl Iterator<Item = MachineId> + use<> {
        let count = self.0.world.borrow().machines.len();
        (0..count).map(MachineId).filter(move |other| *other != machine)
    }

    /// Moves a machine's wall clock; its monotonic clock never jumps.
    pub fn jump_clock(&self, machine: MachineId, microseconds: i64) {
        self.0.world.borrow_mut().machines[machine.0].clock_offset_us += microseconds;
    }

    /// A number drawn from the seed, for the test's own choices.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.0.world.borrow_mut().random.below(bound)
    }

    /// Virtual time.
    pub fn now(&self) -> MonotonicTime {
        self.0.world.borrow().now()
    }

    /// The hash of all that happened so far.
    pub fn trace(&self) -> Trace {
        self.0.world.borrow().trace
    }

    /// Packets that reached their end so far.
    pub fn delivered_packets(&self) -> u64 {
        self.0.world.borrow().network.delivered_packets
    }

    /// Runs for so long on virtual time.
    pub fn run_for(&self, duration: Duration) {
        let end = self.now() + duration;
        while self.step_before(Some(end)) {}
        self.0.world.borrow_mut().advance(end);
    }

    /// Runs until a condition holds, looking after every step; false if it does not within `at_most`, or nothing can
    /// happen any more.
    pub fn run_until(&self, at_most: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let end = self.now() + at_most;
        loop {
            if condition() {
                return true;
            }
            if !self.step_before(Some(end)) {
                return condition();
            }
        }
    }

    /// Lets one thing happen: a task's turn, or the next event; false if nothing can happen any more.
    pub fn step(&self) -> bool {
        self.step_before(None)
    }

    fn step_before(&self, end: Option<MonotonicTime>) -> bool {
        self.0.world.borrow_mut().on_network(|network, moment| network.close_dropped(moment));
        self.end_finished();
        self.fire_timers();
        let due = self.0.world.borrow_mut().take_due();
        if let Some(event) = due {
            self.happen(event);
            return true;
        }
        if self.run_task() {
            return end.is_none_or(|end| self.now() < end);
        }
        let next = self.next_time();
        match next {
            Some(time) if end.is_none_or(|end| time <= end) => {
                self.0.world.borrow_mut().advance(time);
                true
            }
            _ => false,
        }
    }

    fn happen(&self, event: Event) {
        match event {
            Event::Attempt(id) => {
                let shard = {
                    let mut world = self.0.world.borrow_mut();
                    let now = world.now().nanoseconds();
                    world.trace.note([4, id.serial, id.machine as u64, now]);
                    world.shard(id)
                };
                if let Some(shard) = shard
                    && let reactor::Reactor::Sim(reactor) = &*shard.reactor
                {
                    reactor.attempt(id);
                }
            }
            Event::Network(event) => {
                let mut world = self.0.world.borrow_mut();
                let now = world.now().nanoseconds();
                world.trace.note([5, 0, 0, now]);
                world.network_event(event);
            }
        }
    }

    /// Gives one ready task a turn, any of them by chance.
    fn run_task(&self) -> bool {
        let task = {
            let world = &mut *self.0.world.borrow_mut();
            let shards = world.machines.iter().flat_map(|machine| &machine.shards);
            let ready: Vec<_> = shards.map(|shard| (shard.executor.ready(), shard)).collect();
            let total: usize = ready.iter().map(|((first, second), _)| first + second).sum();
            if total == 0 {
                return false;
            }
            let drawn = world.random.below(total as u64) as usize;
            let mut place = drawn;
            let chosen = ready.iter().find_map(|((latency, background), shard)| {
                if place < *latency {
                    return Some((shard, TaskClass::Latency, place));
                }
                place -= latency;
                if place < *background {
                    return Some((shard, TaskClass::Background, place));
                }
                place -= background;
                None
            });
            let (shard, class, place) = chosen.expect("the place is below the sum of all queues");
            let task = shard.executor.take(class, place);
            world.trace.note([6, total as u64, drawn as u64, shard.index as u64]);
            let turn = Duration::from_micros(world.random.between(TURN_US));
            let now = world.now();
            world.advance(now + turn);
            task
        };
        task.expect("a queue is as long as it said").run();
        true
    }

    fn fire_timers(&self) {
        let (now, due) = {
            let world = self.0.world.borrow();
            let now = world.now();
            let shards = world.machines.iter().flat_map(|machine| &machine.shards);
            let due = shards.filter(|shard| shard.timers.next_deadline().is_some_and(|t| t <= now));
            (now, due.cloned().collect::<Vec<_>>())
        };
        due.iter().for_each(|shard| shard.timers.fire(now));
    }

    fn next_time(&self) -> Option<MonotonicTime> {
        let world = self.0.world.borrow();
        let shards = world.machines.iter().flat_map(|machine| &machine.shards);
        let timers = shards.filter_map(|shard| shard.timers.next_deadline());
        timers.chain(world.next_event_time()).min()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the simulation's seed was {}", self.seed);
        }
        let machines = {
            let mut world = self.world.borrow_mut();
            let taken =
                world.machines.iter_mut().map(|machine| std::mem::take(&mut machine.shards));
            taken.collect::<Vec<_>>()
        };
        // Tasks hold the world, and it them: dropping the futures breaks the circle.
        for shard in machines.iter().flatten() {
            shard.executor.close();
        }
    }
}
