//! Crashes at any moment, from seeds. `FIRN_SEED=N` replays one, `FIRN_SEEDS=N` runs so many.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::journal::segment::JournalNumber;
use firn_core::marks;

use super::super::{Journal, JournalError, JournalOptions, OpenReport};
use super::model::Model;
use crate::runtime::sim::{MachineId, Simulation};
use crate::runtime::{Runtime, TaskClass};

/// Seeds that a run takes without being told: enough for every mark below, a few seconds.
const SEEDS: u64 = 6;
const LIVES: u64 = 10;
const TIMELINES: u8 = 4;

/// What outlives a process: the models, and how the last opening went.
#[derive(Clone)]
pub struct Ledger(Rc<RefCell<LedgerState>>);

#[derive(Default)]
struct LedgerState {
    models: Vec<Rc<RefCell<Model>>>,
    report: Option<OpenReport>,
    opened: bool,
    /// Refusals for want of space.
    full: u64,
    poisoned: u64,
    votes: u64,
}

impl Ledger {
    pub fn new(timelines: u8) -> Ledger {
        let models = (1..=timelines).map(|number| Rc::new(RefCell::new(Model::new(number))));
        let state = LedgerState { models: models.collect(), ..LedgerState::default() };
        Ledger(Rc::new(RefCell::new(state)))
    }

    pub fn models(&self) -> Vec<Rc<RefCell<Model>>> {
        self.0.borrow().models.clone()
    }

    pub fn report(&self) -> Option<OpenReport> {
        self.0.borrow().report.clone()
    }

    pub fn is_open(&self) -> bool {
        self.0.borrow().opened
    }

    pub fn full(&self) -> u64 {
        self.0.borrow().full
    }

    pub fn votes(&self) -> u64 {
        self.0.borrow().votes
    }

    pub fn poisoned(&self) -> u64 {
        self.0.borrow().poisoned
    }

    pub fn steps(&self) -> u64 {
        self.models().iter().map(|model| model.borrow().steps).sum()
    }
}

/// Opens the journal in `/data` and compares all of it with the ledger.
pub async fn open(runtime: &Runtime, ledger: &Ledger, options: JournalOptions) -> Journal {
    ledger.0.borrow_mut().opened = false;
    runtime.create_dir_all("/data").await.unwrap();
    runtime.sync_dir("/").await.unwrap();
    let (journal, report) =
        Journal::open(runtime, "/data", JournalNumber(0), options).await.unwrap();
    let corrupt = report.corruption.is_some();
    ledger.0.borrow_mut().report = Some(report);
    if !corrupt {
        for model in ledger.models() {
            model.borrow_mut().recovered(&journal);
        }
    }
    ledger.0.borrow_mut().opened = true;
    journal
}

/// One life of a process: opens, reads all back, then every timeline works until the process dies.
pub async fn live(runtime: Runtime, ledger: Ledger, options: JournalOptions) {
    let journal = open(&runtime, &ledger, options).await;
    for model in ledger.models() {
        verify(&model, &journal).await;
    }
    for model in ledger.models() {
        let work = work(runtime.clone(), journal.clone(), ledger.clone(), model);
        runtime.spawn(TaskClass::Latency, work).detach();
    }
    runtime.sleep(Duration::from_secs(3600)).await;
}

#[allow(clippy::await_holding_refcell_ref, reason = "one task uses a model at a time")]
async fn verify(model: &RefCell<Model>, journal: &Journal) {
    model.borrow().verify(journal).await;
}

#[allow(clippy::await_holding_refcell_ref, reason = "one task uses a model at a time")]
async fn work(runtime: Runtime, journal: Journal, ledger: Ledger, model: Rc<RefCell<Model>>) {
    let random = |bound: u64| runtime.random_u64() % bound;
    // Every other timeline has a reader that lets old WAL go.
    let has_hold = model.borrow().key.tenant_id.0.0[0].is_multiple_of(2);
    loop {
        let step = model.borrow().draw(random);
        let is_append = matches!(step, super::model::Step::Append { .. });
        if is_append && let Err(error) = journal.ready().await {
            if note(&ledger, &error) {
                return;
            }
            // The journal is full: votes go on.
            let vote =
                super::model::Step::Vote(firn_core::types::Term(next_term(&journal, &model)));
            let Ok(ticket) = model.borrow_mut().queue(&journal, vote) else { return };
            let count = model.borrow().queued();
            if journal.witnessed(&ticket).await.is_ok() {
                model.borrow_mut().acknowledge(count);
                ledger.0.borrow_mut().votes += 1;
            }
            runtime.sleep(Duration::from_millis(5)).await;
            continue;
        }
        let queued = model.borrow_mut().queue(&journal, step);
        let ticket = match queued {
            Ok(ticket) => ticket,
            Err(error) => {
                if note(&ledger, &error) {
                    return;
                }
                runtime.sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        if is_append && random(3) > 0 {
            continue;
        }
        let count = model.borrow().queued();
        let waited = match is_append {
            true => journal.durable(&ticket).await,
            false => journal.witnessed(&ticket).await,
        };
        if let Err(error) = waited {
            note(&ledger, &error);
            return;
        }
        model.borrow_mut().acknowledge(count);
        if random(8) == 0 {
            let position = model.borrow().position(random);
            if let Some(position) = position {
                model.borrow().verify_at(&journal, position).await;
            }
        }
        if has_hold {
            let mut model = model.borrow_mut();
            let commit_lsn = model.commit_lsn();
            model.hold = Some(commit_lsn);
            journal.set_hold(model.key, "reader", Some(commit_lsn));
        }
        if random(20) == 0 {
            runtime.sleep(Duration::from_micros(random(3000))).await;
        }
    }
}

fn next_term(journal: &Journal, model: &RefCell<Model>) -> u64 {
    let key = model.borrow().key;
    let queued = model.borrow().ahead_term();
    journal.state().timelines[&key].state.term.0.max(queued) + 1
}

/// Notes a refusal; true when it is for good.
fn note(ledger: &Ledger, error: &JournalError) -> bool {
    let mut ledger = ledger.0.borrow_mut();
    match error {
        JournalError::Full | JournalError::NotReady | JournalError::QueueFull { .. } => {
            ledger.full += 1;
            false
        }
        JournalError::Poisoned(_) => {
            ledger.poisoned += 1;
            true
        }
        error => panic!("{error}"),
    }
}

pub fn start(simulation: &Simulation, machine: MachineId, ledger: &Ledger) {
    let options = JournalOptions::small();
    simulation.start(machine, 1, |runtime| live(runtime, ledger.clone(), options.clone()));
}

fn run_seed(seed: u64) -> u64 {
    println!(
        "seed {seed}; replay: FIRN_SEED={seed} cargo nextest run -p firn-node acknowledged_is_never_lost"
    );
    let simulation = Simulation::new(seed);
    let machine = simulation.add_machine("node");
    let ledger = Ledger::new(TIMELINES);
    for _ in 0..LIVES {
        start(&simulation, machine, &ledger);
        // From a death in the middle of opening to several turns of the ring.
        let longest_us = if simulation.random_below(3) == 0 { 3_000 } else { 60_000 };
        simulation.run_for(Duration::from_micros(simulation.random_below(longest_us)));
        simulation.kill(machine);
    }
    // In the end all that was acknowledged is there.
    start(&simulation, machine, &ledger);
    assert!(simulation.run_until(Duration::from_secs(60), || ledger.is_open()));
    simulation.run_for(Duration::from_millis(20));
    assert_eq!(ledger.poisoned(), 0);
    ledger.steps()
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("FIRN_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FIRN_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn acknowledged_is_never_lost() {
    marks::reset();
    let seeds = seeds();
    let steps: u64 = seeds.iter().map(|seed| run_seed(*seed)).sum();
    let marks = marks::all();
    println!("{} seeds, {steps} steps, marks {marks:?}", seeds.len());
    if seeds.len() as u64 >= SEEDS {
        for mark in [
            "completed_out_of_order",
            "hole_in_flight",
            "stale_use",
            "recycled_segment",
            "moved_to_file",
        ] {
            assert!(marks.contains_key(&*format!("journal.{mark}")), "{mark} was not hit");
        }
    }
}

#[test]
fn a_seed_gives_the_same_events_again() {
    let trace = |seed| {
        let simulation = Simulation::new(seed);
        let machine = simulation.add_machine("node");
        let ledger = Ledger::new(TIMELINES);
        for _ in 0..2 {
            start(&simulation, machine, &ledger);
            simulation.run_for(Duration::from_millis(10));
            simulation.kill(machine);
        }
        simulation.trace()
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test]
fn acknowledging_out_of_order_is_caught() {
    use firn_core::mutant::{Mutant, switch};
    switch(Some(Mutant::AcknowledgeOutOfOrder));
    let caught = (0..20).any(|seed| std::panic::catch_unwind(|| run_seed(seed)).is_err());
    switch(None);
    assert!(caught);
}
