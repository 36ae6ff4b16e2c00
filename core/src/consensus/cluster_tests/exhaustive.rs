//! Every state of a small cluster, by stateright.
//!
//! Bounds: three acceptors; two proposers, each started once; a few records; faults as each test says. Every state that
//! these allow is visited, in whatever order messages arrive and journals flush.

use stateright::{Checker, Model, Property};

use super::world::{Event, RECORD_BYTES, START, World};
use crate::consensus::proposer::Role;

const NODES: usize = 3;

/// A cluster and how much may still happen in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    world: World,
    starts_left: Vec<Role>,
    writes_left: usize,
    crashes_left: usize,
}

impl State {
    /// Starts the next proposer and lets it win; its slot.
    fn start(&mut self) -> usize {
        let role = self.starts_left.pop().expect("there is another proposer");
        let slot = self.starts_left.len();
        self.world.apply(Event::Start { slot, role, held: false });
        settle(&mut self.world, |_| true);
        slot
    }

    /// Starts the next proposer, which wins but then loses node `lost` for ever, and writes records that the other one
    /// gets; its slot.
    fn start_lonely(&mut self, lost: usize, records: usize) -> usize {
        let role = self.starts_left.pop().expect("there is another proposer");
        let slot = self.starts_left.len();
        self.world.apply(Event::Start { slot, role, held: false });
        while !self.world.writers().any(|writer| writer == slot) {
            let mut events = Vec::new();
            self.world.progress(&mut events);
            self.world.apply(events[0]);
        }
        self.world.part(slot, lost);
        (0..records).for_each(|_| self.world.apply(Event::Write { slot }));
        settle(&mut self.world, |_| true);
        slot
    }
}

#[derive(Debug, Clone)]
struct Bounds {
    /// Proposers, of which each starts once, the last first, and which nodes each can reach.
    starts: Vec<(Role, Vec<usize>)>,
    writes: usize,
    crashes: usize,
    flush_at_once: bool,
    /// A proposer gets an answer as soon as it is sent; otherwise answers may be late.
    answer_at_once: bool,
    /// What happened before the exploring begins.
    before: Before,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The first proposer has won.
    Won,
    /// And it wrote a record that only node 0 has, and reaches node 1 no more.
    LonelyRecord,
    /// And another one; then the second proposer won, and wrote a record that only node 1 has, while node 2 did not even
    /// hear that it won. So whoever continues node 0's log must not call a part of it committed: node 1's log would win
    /// over it.
    TwoLonelyLogs,
}

impl Model for Bounds {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let reach: Vec<Vec<usize>> = self.starts.iter().map(|(_, reach)| reach.clone()).collect();
        let mut state = State {
            world: World::new(NODES, &reach, self.flush_at_once, RECORD_BYTES),
            starts_left: self.starts.iter().map(|(role, _)| *role).collect(),
            writes_left: self.writes,
            crashes_left: self.crashes,
        };
        match self.before {
            Before::Nothing => {}
            Before::Won => drop(state.start()),
            Before::LonelyRecord => drop(state.start_lonely(1, 1)),
            Before::TwoLonelyLogs => {
                for (lost, records) in [(1, 2), (2, 1)] {
                    let slot = state.start_lonely(lost, records);
                    state.world.forget(slot);
                }
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        state.world.progress(actions);
        if let Some(role) = state.starts_left.last() {
            let slot = state.starts_left.len() - 1;
            actions.push(Event::Start { slot, role: *role, held: false });
        }
        if state.writes_left > 0 {
            actions.extend(state.world.writers().map(|slot| Event::Write { slot }));
        }
        if state.crashes_left > 0 {
            actions.extend((0..NODES).map(|node| Event::Crash { node }));
        }
    }

    fn next_state(&self, state: &State, event: Event) -> Option<State> {
        let mut next = state.clone();
        match event {
            Event::Start { .. } => drop(next.starts_left.pop()),
            Event::Write { .. } => next.writes_left -= 1,
            Event::Crash { .. } => next.crashes_left -= 1,
            _ => {}
        }
        next.world.apply(event);
        if self.answer_at_once {
            let is_answer = |event: &Event| matches!(event, Event::Answer { .. });
            settle(&mut next.world, is_answer);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every promise holds", |_, state: &State| {
                state.world.violation.is_none()
            }),
            Property::sometimes("something is committed", |_, state: &State| {
                state.world.committed_bytes() > 0
            }),
            Property::sometimes("two terms are won", |_, state: &State| {
                state.world.elections() >= 2
            }),
        ]
    }
}

/// Lets happen what is under way, as far as `wanted` says.
fn settle(world: &mut World, wanted: impl Fn(&Event) -> bool) {
    loop {
        let mut events = Vec::new();
        world.progress(&mut events);
        let Some(event) = events.into_iter().find(&wanted) else { return };
        world.apply(event);
    }
}

fn check(bounds: Bounds) {
    let checker = bounds.checker().spawn_bfs().join();
    println!("{} states, {} unique", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
}

fn stream() -> Role {
    Role::Stream { start_lsn: START }
}

#[test]
fn two_proposers_with_one_acceptor_in_common() {
    check(Bounds {
        starts: vec![(stream(), vec![1, 2]), (stream(), vec![0, 1])],
        writes: 1,
        crashes: 0,
        flush_at_once: true,
        answer_at_once: false,
        before: Before::Nothing,
    });
}

#[test]
fn a_fence_against_a_proposer_over_lagging_disks_that_crash() {
    check(Bounds {
        starts: vec![(Role::Fence, vec![1, 2]), (stream(), vec![0, 1])],
        writes: 1,
        crashes: 1,
        flush_at_once: false,
        answer_at_once: true,
        before: Before::Won,
    });
}

#[test]
fn three_proposers_each_with_another_majority() {
    check(Bounds {
        starts: vec![(stream(), vec![0, 2]), (stream(), vec![1, 2]), (stream(), vec![0, 1])],
        writes: 1,
        crashes: 0,
        flush_at_once: true,
        answer_at_once: true,
        before: Before::LonelyRecord,
    });
}

/// The old log may be called committed only with the new term: node 2 has a part of it when the fourth proposer comes.
#[test]
fn a_part_of_an_older_terms_log_is_not_committed() {
    let third = (stream(), vec![0, 2]);
    check(Bounds {
        starts: vec![(stream(), vec![1, 2]), third, (stream(), vec![1, 2]), (stream(), vec![0, 1])],
        writes: 0,
        crashes: 0,
        flush_at_once: true,
        answer_at_once: true,
        before: Before::TwoLonelyLogs,
    });
}
