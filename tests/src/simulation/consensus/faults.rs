//! What goes wrong in a run.

use firn_core::marks;

use super::network::Direction;
use super::world::World;
use crate::simulation::checks::Violation;

/// Most proposers at once: two relays and a fence.
const PROPOSERS_MAX: usize = 3;

/// Counts the faults of a run.
#[derive(Debug, Default)]
pub struct Faults {
    count: u64,
}

impl Faults {
    /// Faults so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One fault, or the end of one.
    pub fn inject(&mut self, world: &mut World) -> Result<(), Violation> {
        let node = world.random.index(world.nodes.len());
        let happened = match world.random.below(30) {
            0..4 => cut_connection(world),
            4..6 => partition(world, node),
            6..8 => {
                world.network.heal();
                world.nodes.iter_mut().for_each(|node| node.set_full(false));
                false
            }
            8..10 => crash_node(world, node)?,
            10..14 => start_nodes(world),
            14 => empty_disk(world, node),
            15 => stop_proposer(world),
            16..19 => start_proposer(world),
            19 => crash_primary(world),
            20 => back_up_primary(world),
            21 => roll_back_primary(world),
            22 => promote_primary(world),
            23..25 => rebuild_primary(world),
            25 => bump_term(world, node)?,
            26..28 => forget_writes(world, node),
            _ => fill_disk(world, node),
        };
        if happened {
            self.count += 1;
        }
        Ok(())
    }

    /// Undoes what can be undone.
    pub fn end(&mut self, world: &mut World) {
        world.network.heal();
        start_nodes(world);
        world.nodes.iter_mut().for_each(|node| node.set_full(false));
    }
}

fn cut_connection(world: &mut World) -> bool {
    let names = world.network.names();
    if names.is_empty() {
        return false;
    }
    let name = names[world.random.index(names.len())];
    marks::hit("fault.connection_cut");
    world.cut(name)
}

/// A node is cut off from some proposers, in one direction or both.
fn partition(world: &mut World, node: usize) -> bool {
    let proposers: Vec<usize> = world.actors.keys().copied().collect();
    for proposer in proposers {
        let directions: &[Direction] = match world.random.below(4) {
            0 => &[Direction::ToNode],
            1 => &[Direction::ToProposer],
            2 => &[Direction::ToNode, Direction::ToProposer],
            _ => &[],
        };
        marks::hit(match directions.len() {
            1 => "fault.one_way_partition",
            2 => "fault.partition",
            _ => continue,
        });
        directions.iter().for_each(|direction| world.network.block((proposer, node), *direction));
    }
    true
}

fn crash_node(world: &mut World, node: usize) -> Result<bool, Violation> {
    if !world.nodes[node].is_running() {
        return Ok(false);
    }
    marks::hit("fault.node_crashed");
    world.crash_node(node)?;
    Ok(true)
}

fn start_nodes(world: &mut World) -> bool {
    for node in &mut world.nodes {
        if !node.is_running() {
            node.start();
        }
    }
    false
}

/// Only as long as a majority keeps its disks: that is what is promised.
fn empty_disk(world: &mut World, node: usize) -> bool {
    if !world.nodes[node].has_disk() || !world.may_lose(node) {
        return false;
    }
    marks::hit("fault.disk_emptied");
    world.empty_disk(node);
    true
}

/// A disk forgets its last writes, answered or not, and the node knows: rot under acknowledged frames. Within the same
/// bound as [`empty_disk`].
fn forget_writes(world: &mut World, node: usize) -> bool {
    if !world.nodes[node].is_whole() || !world.may_lose(node) || !world.forget_writes(node) {
        return false;
    }
    marks::hit("fault.writes_forgotten");
    true
}

fn stop_proposer(world: &mut World) -> bool {
    let numbers: Vec<usize> = world.actors.keys().copied().collect();
    if numbers.is_empty() {
        return false;
    }
    marks::hit("fault.proposer_died");
    let number = numbers[world.random.index(numbers.len())];
    world.stop_proposer(number);
    true
}

fn start_proposer(world: &mut World) -> bool {
    let newest = world.machines.len() - 1;
    let machine = if world.random.percent(70) { newest } else { any_machine(world) };
    match world.actors.len() {
        0 => {
            // Somebody gave up or died: begin again, now and then by a fence.
            if world.random.percent(30) {
                world.start_fence();
            } else {
                world.start_relay(machine);
            }
            false
        }
        PROPOSERS_MAX.. => false,
        _ => {
            marks::hit("fault.proposers_compete");
            world.start_relay(machine);
            true
        }
    }
}

fn any_machine(world: &mut World) -> usize {
    world.random.index(world.machines.len())
}

/// Only from where a fence ended: what was acknowledged may be less than what one quorum would give.
fn rebuild_primary(world: &mut World) -> bool {
    if world.take_fence().is_none() {
        return false;
    }
    marks::hit("fault.primary_rebuilt");
    world.rebuild_primary();
    true
}

fn back_up_primary(world: &mut World) -> bool {
    let machine = any_machine(world);
    world.machines[machine].primary.back_up();
    false
}

fn crash_primary(world: &mut World) -> bool {
    let machine = any_machine(world);
    marks::hit("fault.primary_crashed");
    world.machines[machine].primary.crash();
    world.primary_restarted(machine);
    true
}

fn roll_back_primary(world: &mut World) -> bool {
    let machine = any_machine(world);
    if !world.machines[machine].primary.roll_back() {
        return false;
    }
    marks::hit("fault.primary_rolled_back");
    world.primary_restarted(machine);
    true
}

fn promote_primary(world: &mut World) -> bool {
    let machine = any_machine(world);
    marks::hit("fault.primary_promoted");
    world.machines[machine].primary.crash();
    world.machines[machine].primary.promote();
    world.primary_restarted(machine);
    true
}

fn bump_term(world: &mut World, node: usize) -> Result<bool, Violation> {
    if !world.nodes[node].is_running() {
        return Ok(false);
    }
    marks::hit("fault.term_bumped");
    world.bump_term(node)
}

/// A disk has no room for WAL, or has again.
fn fill_disk(world: &mut World, node: usize) -> bool {
    let fills = world.random.percent(50);
    if fills {
        marks::hit("fault.disk_full");
    }
    world.nodes[node].set_full(fills);
    fills
}
