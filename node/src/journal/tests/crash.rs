//! Lives of a process that works on its journals until it dies, and the ledger that outlives it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use firn_core::journal::layout::{Layout, shard_of};
use firn_core::journal::segment::JournalNumber;
use firn_core::types::Lsn;

use super::super::{Journal, JournalError, JournalOptions, OpenError, OpenReport, open_layout};
use super::model::Model;
use crate::runtime::sim::{MachineId, Simulation};
use crate::runtime::{Runtime, TaskClass};

/// How often a read is tried again while the disk fails some of them.
const READ_ATTEMPTS: usize = 100;

/// What outlives a process: the models, and how the last opening went.
#[derive(Clone)]
pub struct Ledger(Rc<RefCell<LedgerState>>);

#[derive(Default)]
struct LedgerState {
    models: Vec<Rc<RefCell<Model>>>,
    report: Option<OpenReport>,
    /// Shards that have opened in this life.
    opened: usize,
    /// Why shards of this life did not open.
    refused: Vec<String>,
    /// Journals of this life, as soon as they are known.
    layout: Option<Layout>,
    /// The disk fails reads at times.
    reads_may_fail: bool,
    read_errors: u64,
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

    /// Whether all shards of this life have opened.
    pub fn is_open(&self) -> bool {
        let state = self.0.borrow();
        let shards = state.layout.as_ref().map_or(1, |layout| layout.journals.len());
        state.opened == shards
    }

    /// Why shards of this life did not open.
    pub fn refused(&self) -> Vec<String> {
        self.0.borrow().refused.clone()
    }

    pub fn set_reads_may_fail(&self, may: bool) {
        self.0.borrow_mut().reads_may_fail = may;
    }

    pub fn read_errors(&self) -> u64 {
        self.0.borrow().read_errors
    }

    fn begin_life(&self) {
        let mut state = self.0.borrow_mut();
        (state.report, state.opened, state.layout) = (None, 0, None);
        state.refused.clear();
    }

    /// The models of a shard's timelines.
    fn models_of(&self, shard: usize, shards: usize) -> Vec<Rc<RefCell<Model>>> {
        let mine = |model: &Rc<RefCell<Model>>| {
            shard_of(model.borrow().key.tenant_id, shards as u32) == shard as u32
        };
        self.models().into_iter().filter(mine).collect()
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

/// Opens journal 0 in `/data` and compares all of it with the ledger, unless it is corrupt.
pub async fn open(runtime: &Runtime, ledger: &Ledger, options: JournalOptions) -> Journal {
    ledger.begin_life();
    runtime.create_dir_all("/data").await.unwrap();
    runtime.sync_dir("/").await.unwrap();
    let models = ledger.models();
    open_journal(runtime, ledger, JournalNumber(0), options, &models).await.unwrap()
}

async fn open_journal(
    runtime: &Runtime,
    ledger: &Ledger,
    number: JournalNumber,
    options: JournalOptions,
    models: &[Rc<RefCell<Model>>],
) -> Result<Journal, OpenError> {
    let (journal, report) = Journal::open(runtime, "/data", number, options).await?;
    if report.corruption.is_none() {
        for model in models {
            model.borrow_mut().recovered(&journal);
        }
    }
    let mut state = ledger.0.borrow_mut();
    state.report = Some(report);
    state.opened += 1;
    Ok(journal)
}

/// One life of a process with one shard: opens, reads all back, then every timeline works until the process dies.
async fn live(runtime: Runtime, ledger: Ledger, options: JournalOptions) {
    let journal = open(&runtime, &ledger, options).await;
    run(&runtime, &ledger, &journal, ledger.models()).await;
}

/// One life of one shard of a process with several. Where the disk does not let it open, the shard ends.
async fn live_shard(runtime: Runtime, ledger: Ledger, options: JournalOptions) {
    let (shard, shards) = (runtime.shard_index(), runtime.shards());
    let opened = async {
        if shard == 0 {
            let data = std::path::Path::new("/data");
            runtime.create_dir_all(data).await.map_err(OpenError::io("create", data))?;
            runtime.sync_dir("/").await.map_err(OpenError::io("flush", data))?;
            let layout = open_layout(&runtime, data, shards as u32).await?;
            ledger.0.borrow_mut().layout = Some(layout);
        }
        let number = loop {
            let layout = ledger.0.borrow().layout.clone();
            match layout {
                Some(layout) => break layout.journals[shard],
                None => runtime.sleep(Duration::from_micros(50)).await,
            }
        };
        let models = ledger.models_of(shard, shards);
        open_journal(&runtime, &ledger, number, options, &models).await
    };
    match opened.await {
        Ok(journal) => {
            assert_eq!(ledger.report().expect("it has just opened").corruption, None);
            run(&runtime, &ledger, &journal, ledger.models_of(shard, shards)).await;
        }
        Err(error) => ledger.0.borrow_mut().refused.push(error.to_string()),
    }
}

async fn run(
    runtime: &Runtime,
    ledger: &Ledger,
    journal: &Journal,
    models: Vec<Rc<RefCell<Model>>>,
) {
    for model in &models {
        verify(ledger, model, journal).await;
    }
    for model in models {
        let work = work(runtime.clone(), journal.clone(), ledger.clone(), model);
        runtime.spawn(TaskClass::Latency, work).detach();
    }
    runtime.sleep(Duration::from_secs(3600)).await;
}

/// Reads what must be there and compares every byte. Nothing may be pending.
async fn verify(ledger: &Ledger, model: &RefCell<Model>, journal: &Journal) {
    let Some((mut at, end)) = model.borrow().kept() else { return };
    while at < end {
        at = verify_at(ledger, model, journal, at).await;
    }
}

/// Reads a part and compares it; where it ends.
async fn verify_at(ledger: &Ledger, model: &RefCell<Model>, journal: &Journal, at: Lsn) -> Lsn {
    let key = model.borrow().key;
    for _ in 0..READ_ATTEMPTS {
        match journal.read_wal(key, at, 60_000).await {
            Ok(found) => return model.borrow().compare(at, &found),
            Err(error @ JournalError::Read(_)) => {
                let mut ledger = ledger.0.borrow_mut();
                assert!(ledger.reads_may_fail, "wal of {key} at {at}: {error}");
                ledger.read_errors += 1;
            }
            Err(error) => panic!("wal of {key} at {at}: {error}"),
        }
    }
    panic!("wal of {key} at {at} cannot be read");
}

async fn work(runtime: Runtime, journal: Journal, ledger: Ledger, model: Rc<RefCell<Model>>) {
    let random = |bound: u64| runtime.random_u64() % bound;
    // Every other timeline has a reader that lets old WAL go.
    let key = model.borrow().key;
    let has_hold = key.tenant_id.0.0[0].is_multiple_of(2);
    loop {
        let step = model.borrow().draw(random);
        let is_append = matches!(step, super::model::Step::Append { .. });
        if is_append && let Err(error) = journal.ready(key).await {
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
                verify_at(&ledger, &model, &journal, position).await;
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

/// Starts a process with one shard.
pub fn start(simulation: &Simulation, machine: MachineId, ledger: &Ledger) {
    let options = JournalOptions::small();
    simulation.start(machine, 1, |runtime| live(runtime, ledger.clone(), options.clone()));
}

/// Starts a process with so many shards; the data directory is changed to that number.
pub fn start_shards(simulation: &Simulation, machine: MachineId, ledger: &Ledger, shards: usize) {
    ledger.begin_life();
    let options = JournalOptions::small();
    simulation
        .start(machine, shards, |runtime| live_shard(runtime, ledger.clone(), options.clone()));
}
