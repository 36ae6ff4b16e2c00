//! Long random walks. A failure names its seed and the command that repeats it.

use super::world::{Event, START, World};
use crate::consensus::proposer::Role;

const WALKS: u64 = 150;
const EVENTS_PER_WALK: usize = 3000;

/// SplitMix64: a walk follows from its seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

struct Walk {
    random: Random,
    world: World,
    nodes: usize,
    slots: usize,
    /// Calm phases let a proposer come far, rough ones bring faults.
    rough: bool,
    /// Disks that hardly ever finish.
    slow_disks: bool,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random(seed);
        let nodes = [3, 3, 5][random.below(3)];
        let slots = 1 + random.below(3);
        let reach = vec![(0..nodes).collect(); slots];
        let world = World::new(nodes, &reach, random.below(4) == 0, 32);
        Walk { random, world, nodes, slots, rough: false, slow_disks: false }
    }

    fn step(&mut self) {
        if self.random.below(200) == 0 {
            self.rough = self.random.below(2) == 0;
            self.slow_disks = self.random.below(2) == 0;
            let chunk_bytes = [5, 32, 100, 4096][self.random.below(4)];
            self.world.set_chunk_bytes(chunk_bytes);
        }
        let event = self.choose();
        self.world.apply(event);
    }

    fn choose(&mut self) -> Event {
        let slot = self.random.below(self.slots);
        let node = self.random.below(self.nodes);
        let fault = self.random.below(if self.rough { 60 } else { 1000 });
        match fault {
            0 => return self.start(slot),
            1 => return Event::Crash { node },
            2 | 3 if self.world.is_connected(slot, node) => return Event::Cut { slot, node },
            4 if self.world.may_rot(node) => {
                return Event::Rot { node, writes: self.random.below(20) };
            }
            5..8 => {
                if let Some(node) = self.world.broken() {
                    return Event::Reseed { slot, node };
                }
            }
            8..12 => {
                let (from, bytes) = (self.random.below(self.nodes), 1 + self.random.below(200));
                return Event::CatchUp { node, from, bytes };
            }
            _ => {}
        }
        let mut events = Vec::new();
        self.world.progress(&mut events);
        if self.slow_disks && self.random.below(8) != 0 {
            events.retain(|event| !matches!(event, Event::Flush { .. }));
        }
        events.extend(self.world.writers().map(|slot| Event::Write { slot }));
        match events.is_empty() || self.random.below(20) == 0 {
            true if self.world.has_proposer(slot) => Event::Tick { slot },
            true => self.start(slot),
            false => events[self.random.below(events.len())],
        }
    }

    fn start(&mut self, slot: usize) -> Event {
        let fence = self.random.below(4) == 0;
        let role = if fence { Role::Fence } else { Role::Stream { start_lsn: START } };
        Event::Start { slot, role, held: !fence && self.random.below(3) == 0 }
    }
}

#[test]
fn random_walks_keep_every_promise() {
    let given = std::env::var("FIRN_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = given.map_or(0..WALKS, |seed: u64| seed..seed + 1);
    let (mut committed, mut elections, mut fences, mut reseeds, mut catch_ups) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let mut walk = Walk::new(seed);
        for event in 0..EVENTS_PER_WALK {
            walk.step();
            assert_eq!(
                walk.world.violation, None,
                "event {event}; repeat: FIRN_SEED={seed} cargo nextest run -p firn-core random_walks"
            );
        }
        committed += walk.world.committed_bytes();
        elections += walk.world.elections();
        fences += walk.world.fences();
        reseeds += walk.world.reseeds();
        catch_ups += walk.world.catch_ups();
    }
    println!(
        "{committed} bytes committed, {elections} elections, {fences} fences, {reseeds} re-seeds, \
         {catch_ups} catch-ups"
    );
    assert!(reseeds > 0 && catch_ups > 0 || given.is_some());
    assert!(committed > 0 && elections > 0 && fences > 0 || given.is_some());
}
