//! What goes wrong in a run of a whole cluster.

use std::time::Duration;

use firn_core::marks;
use firn_node::runtime::sim::{DiskFaults, LinkFaults, MachineId};

use super::nodes::NodeMachine;
use super::world::World;
use crate::simulation::checks::Violation;

/// Files of a node's journal.
const JOURNAL: &str = "journal";

/// Longest time that a node whose power flickers is up: about what its start takes until its first snapshot is durable.
const START_US_MAX: u64 = 12_000;

/// Counts the faults of a run.
pub struct Faults {
    count: u64,
}

impl Faults {
    /// Sets how the network misbehaves throughout.
    pub fn new(world: &mut World) -> Faults {
        if world.random.percent(70) {
            world.simulation.set_network(LinkFaults {
                late: world.random.below(20_000),
                reset: world.random.below(300),
                ..LinkFaults::default()
            });
        }
        Faults { count: 0 }
    }

    /// Faults so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One fault, or the end of one.
    pub fn inject(&mut self, world: &mut World) {
        let node = world.random.index(world.nodes.len());
        let happened = match world.random.below(38) {
            0..2 => isolate(world, node),
            2..4 => cut_one_way(world, node),
            4..12 => repair(world),
            12..15 => kill_node(world, node),
            15 | 33..35 => damage(world, node),
            16..19 => sick_disk(world, node),
            19 => jump_clock(world, node),
            20..22 => kill_relay(world),
            22..25 => start_relay(world),
            25..27 => crash_primary(world),
            27 => back_up_primary(world),
            28 => roll_back_primary(world),
            31..33 => stop_changing(world),
            35 => promote_primary(world),
            _ => start_changing(world),
        };
        if happened {
            self.count += 1;
        }
    }

    /// Runs until a node has a higher term durably, and kills it at that moment: before anything else rests on its vote.
    pub fn kill_voter(&mut self, world: &mut World, at_most: Duration) -> Result<(), Violation> {
        let term = |node: &NodeMachine| node.last_seen.as_ref().map(|state| state.term);
        let before: Vec<_> = world.nodes.iter().map(term).collect();
        let mut voter = None;
        world.run_until(at_most, |world| {
            voter = (0..before.len()).find(|index| term(&world.nodes[*index]) > before[*index]);
            voter.is_some()
        })?;
        if let Some(node) = voter
            && kill_node(world, node)
        {
            marks::hit("fault.voter_killed");
            self.count += 1;
        }
        Ok(())
    }

    /// Kills a node, lets it begin to start, and kills it again, a few times: a machine whose power comes and goes.
    pub fn power_flickers(&mut self, world: &mut World) -> Result<(), Violation> {
        let node = world.random.index(world.nodes.len());
        for _ in 0..=world.random.below(3) {
            if !kill_node(world, node) {
                return Ok(());
            }
            world.start_node(node);
            let uptime = Duration::from_micros(world.random.below(START_US_MAX));
            world.run_until(uptime, |_| false)?;
        }
        marks::hit("fault.killed_while_starting");
        self.count += 1;
        Ok(())
    }

    /// Undoes what can be undone.
    pub fn end(&mut self, world: &mut World) {
        world.simulation.set_network(LinkFaults::default());
        for node in 0..world.nodes.len() {
            kill_node(world, node);
        }
        repair(world);
    }
}

/// A disk is replaced by an empty one, or rots.
fn damage(world: &mut World, node: usize) -> bool {
    if world.nodes[node].damaged || !world.may_lose(node) {
        return false;
    }
    kill_node(world, node);
    let machine = world.nodes[node].machine;
    world.nodes[node].damaged = true;
    world.nodes[node].before_damage = world.nodes[node].last_seen.clone();
    if world.random.percent(50) {
        marks::hit("fault.disk_emptied");
        world.simulation.empty_disk(machine);
    } else {
        marks::hit("fault.rot");
        let bits = 1 + world.random.below(20);
        world.simulation.rot(machine, JOURNAL, bits);
        if world.random.percent(50) {
            // It cannot ask the others either, until somebody looks after it.
            isolate(world, node);
        }
    }
    world.start_node(node);
    true
}

fn start_changing(world: &mut World) -> bool {
    let starts = world.start_changing(false).is_some();
    if starts {
        marks::hit("fault.members_change");
    }
    starts
}

fn stop_changing(world: &mut World) -> bool {
    let stops = world.stop_changing();
    if stops {
        marks::hit("fault.operator_left");
    }
    stops
}

/// Machines that talk to nodes.
fn peers(world: &World) -> Vec<MachineId> {
    let nodes = world.nodes.iter().map(|node| node.machine);
    nodes.chain(world.relays.iter().map(|relay| relay.machine)).collect()
}

fn isolate(world: &mut World, node: usize) -> bool {
    marks::hit("fault.partition");
    world.simulation.isolate(world.nodes[node].machine);
    true
}

fn cut_one_way(world: &mut World, node: usize) -> bool {
    marks::hit("fault.one_way_partition");
    let peers = peers(world);
    let other = peers[world.random.index(peers.len())];
    let node = world.nodes[node].machine;
    if other == node {
        return false;
    }
    match world.random.percent(50) {
        true => world.simulation.cut_one_way(node, other),
        false => world.simulation.cut_one_way(other, node),
    }
    true
}

/// Somebody looks after the cluster: cables, disks, processes. A node whose disk was sick is restarted, as its journal may
/// be poisoned.
fn repair(world: &mut World) -> bool {
    for node in 0..world.nodes.len() {
        let machine = world.nodes[node].machine;
        world.simulation.rejoin(machine);
        if std::mem::take(&mut world.nodes[node].sick) {
            world.simulation.set_disk(machine, DiskFaults::default());
            kill_node(world, node);
        }
    }
    start_nodes(world);
    if !world.relays.iter().any(|relay| world.simulation.is_running(relay.machine)) {
        world.start_relay(0);
    }
    false
}

fn kill_node(world: &mut World, node: usize) -> bool {
    if !world.simulation.is_running(world.nodes[node].machine) {
        return false;
    }
    marks::hit("fault.node_killed");
    let simulation = world.simulation.clone();
    world.nodes[node].kill(&simulation);
    true
}

/// What does not run starts again, now and then with another number of shards.
fn start_nodes(world: &mut World) {
    for index in 0..world.nodes.len() {
        if world.simulation.is_running(world.nodes[index].machine) {
            continue;
        }
        if world.random.percent(30) {
            marks::hit("fault.shard_count_changed");
            world.nodes[index].shards = 1 + world.random.index(3);
        }
        world.start_node(index);
    }
}

/// A disk fails, is full or slow until the next repair.
fn sick_disk(world: &mut World, node: usize) -> bool {
    let machine = world.nodes[node].machine;
    let mut faults = DiskFaults::default();
    match world.random.below(3) {
        0 => {
            marks::hit("fault.disk_full");
            faults.capacity_bytes = world.simulation.disk_used_bytes(machine);
        }
        1 => {
            marks::hit("fault.flush_fails");
            faults.flush_error = 20_000;
        }
        _ => {
            marks::hit("fault.disk_slow");
            faults.durable_us = (1_000, 60_000);
        }
    }
    world.nodes[node].sick = true;
    world.simulation.set_disk(machine, faults);
    true
}

fn jump_clock(world: &mut World, node: usize) -> bool {
    marks::hit("fault.clock_jumped");
    let hours = world.random.below(48) as i64 - 24;
    world.simulation.jump_clock(world.nodes[node].machine, hours * 3_600_000_000);
    true
}

fn kill_relay(world: &mut World) -> bool {
    let machine = world.relays[world.random.index(world.relays.len())].machine;
    if !world.simulation.is_running(machine) {
        return false;
    }
    marks::hit("fault.relay_killed");
    world.simulation.kill(machine);
    true
}

/// The second one competes with the first.
fn start_relay(world: &mut World) -> bool {
    let index = world.random.index(world.relays.len());
    let competes = world.relays.iter().any(|relay| world.simulation.is_running(relay.machine));
    world.start_relay(index);
    if competes {
        marks::hit("fault.relays_compete");
    }
    competes
}

fn crash_primary(world: &mut World) -> bool {
    marks::hit("fault.primary_crashed");
    restart_primary(world, |primary| primary.crash())
}

fn back_up_primary(world: &mut World) -> bool {
    world.postgres[0].server.borrow_mut().primary.back_up();
    false
}

/// Rare: from then on no relay may follow it until what it lost is restored.
fn roll_back_primary(world: &mut World) -> bool {
    if !world.random.percent(20) {
        return false;
    }
    marks::hit("fault.primary_rolled_back");
    restart_primary(world, |primary| {
        primary.roll_back();
    })
}

fn promote_primary(world: &mut World) -> bool {
    marks::hit("fault.primary_promoted");
    restart_primary(world, |primary| {
        primary.crash();
        primary.promote();
    })
}

fn restart_primary(
    world: &mut World,
    change: impl FnOnce(&mut crate::simulation::primary::Primary),
) -> bool {
    let postgres = &world.postgres[0];
    world.simulation.kill(postgres.machine);
    change(&mut postgres.server.borrow_mut().primary);
    postgres.start(&world.simulation);
    true
}
