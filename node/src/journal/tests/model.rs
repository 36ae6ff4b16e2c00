//! A timeline's model: what was queued, what of it was acknowledged, and what a journal may therefore hold after a crash:
//! the effect of a prefix of what was queued that is at least as long as what was acknowledged.

use std::collections::VecDeque;

use firn_core::consensus::change::Change;
use firn_core::consensus::state::TimelineState;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::*;

use super::super::{Journal, JournalError, Ticket};
use super::workload::{SEGMENT_SIZE_BYTES, START, create, key, same_bytes, wal};

/// A change as a value of its own.
#[derive(Debug, Clone)]
pub enum Step {
    Create,
    Vote(Term),
    Elected(Term, TermHistory, Lsn),
    Append { begin: Lsn, count: usize, term: Term, commit_lsn: Lsn },
}

/// The log's bytes: who wrote which range.
#[derive(Debug, Clone, Default)]
struct Content(Vec<(Lsn, Lsn, Term)>);

impl Content {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Elected(_, _, cut) => {
                self.0.retain(|(begin, ..)| begin < cut);
                if let Some((_, end, _)) = self.0.last_mut() {
                    *end = (*end).min(*cut);
                }
            }
            Step::Append { begin, count, term, .. } => {
                self.0.push((*begin, *begin + *count as u64, *term));
            }
            Step::Create | Step::Vote(_) => {}
        }
    }

    fn bytes(&self, key: TimelineKey, from: Lsn, end: Lsn) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (begin, stop, term) in &self.0 {
            let (begin, stop) = ((*begin).max(from), (*stop).min(end));
            if begin < stop {
                bytes.extend(wal(key, begin, (stop - begin) as usize, term.0));
            }
        }
        bytes
    }
}

/// Terms after which a model holds no more elections: a history has to fit into a small journal's entry.
const TERMS_MAX: usize = 300;

pub struct Model {
    pub key: TimelineKey,
    /// Effect of what was acknowledged; `None`: not even the creation.
    acknowledged: Option<TimelineState>,
    content: Content,
    /// Queued, not acknowledged.
    pending: VecDeque<Step>,
    /// Effect of all that was queued.
    ahead: Option<TimelineState>,
    /// Steps acknowledged so far.
    pub steps: u64,
    /// WAL below may be gone.
    pub hold: Option<Lsn>,
}

impl Model {
    pub fn new(number: u8) -> Model {
        Model {
            key: key(number),
            acknowledged: None,
            content: Content::default(),
            pending: VecDeque::new(),
            ahead: None,
            steps: 0,
            hold: None,
        }
    }

    /// A step that an acceptor could take next.
    pub fn draw(&self, mut random: impl FnMut(u64) -> u64) -> Step {
        let Some(state) = &self.ahead else { return Step::Create };
        let many_terms = state.term_history.0.len() >= TERMS_MAX;
        if state.term == Term(0) || (!many_terms && random(25) == 0) {
            let term = Term(state.term.0 + 1);
            if random(2) == 0 {
                return Step::Vote(term);
            }
            return self.election(term, state, &mut random);
        }
        if state.term_history.last_term() != state.term {
            return self.election(state.term, state, &mut random);
        }
        let longest = if random(4) == 0 { 9_000 } else { 400 };
        let commit_lsn = if random(2) == 0 { state.record_end_lsn } else { state.commit_lsn };
        let count = 1 + random(longest) as usize;
        Step::Append { begin: state.write_lsn, count, term: state.term, commit_lsn }
    }

    fn election(
        &self,
        term: Term,
        state: &TimelineState,
        random: &mut impl FnMut(u64) -> u64,
    ) -> Step {
        let room = state.write_lsn - state.commit_lsn;
        let cut =
            if random(3) == 0 { state.write_lsn } else { state.commit_lsn + random(room + 1) };
        let mut history: Vec<_> = state
            .term_history
            .0
            .iter()
            .copied()
            .filter(|start| start.lsn < cut && start.term < term)
            .collect();
        if history.is_empty() {
            history.push(TermStart { term: Term(0), lsn: START });
        }
        if history.last().is_none_or(|last| last.term < term) {
            history.push(TermStart { term, lsn: cut });
        }
        Step::Elected(term, TermHistory(history), cut)
    }

    /// Queues a step with the journal.
    pub fn queue(&mut self, journal: &Journal, step: Step) -> Result<Ticket, JournalError> {
        let bytes = match &step {
            Step::Append { begin, count, term, .. } => wal(self.key, *begin, *count, term.0),
            _ => Vec::new(),
        };
        let ticket = journal.append(self.key, change(&step, &bytes))?;
        apply(&mut self.ahead, &step);
        self.pending.push_back(step);
        Ok(ticket)
    }

    /// The term when all that was queued is done.
    pub fn ahead_term(&self) -> u64 {
        self.ahead.as_ref().map_or(0, |state| state.term.0)
    }

    /// How many steps were queued so far.
    pub fn queued(&self) -> u64 {
        self.steps + self.pending.len() as u64
    }

    /// The first `count` steps were acknowledged.
    pub fn acknowledge(&mut self, count: u64) {
        while self.steps < count {
            self.take_one();
        }
    }

    fn take_one(&mut self) {
        let step = self.pending.pop_front().expect("no more is acknowledged than was queued");
        apply(&mut self.acknowledged, &step);
        self.content.apply(&step);
        self.steps += 1;
    }

    /// Compares with a journal that has just been opened; what it holds becomes the truth.
    pub fn recovered(&mut self, journal: &Journal) {
        let found = journal.state().timelines.get(&self.key).map(|found| found.state.clone());
        while self.acknowledged != found {
            assert!(
                !self.pending.is_empty(),
                "timeline {} is not what some prefix of its queue gives:\nfound {found:?}\nacknowledged {:?}",
                self.key,
                self.acknowledged
            );
            self.take_one();
        }
        self.pending.clear();
        self.ahead = self.acknowledged.clone();
    }

    /// The WAL that must be there, when nothing is pending.
    pub fn kept(&self) -> Option<(Lsn, Lsn)> {
        let state = self.acknowledged.as_ref()?;
        let from = match self.hold {
            None => START,
            Some(hold) => START.max(hold.segment_start(u64::from(SEGMENT_SIZE_BYTES))),
        };
        Some((from, state.write_lsn))
    }

    /// Compares what was read at a position; where it ends.
    pub fn compare(&self, at: Lsn, found: &[u8]) -> Lsn {
        assert!(!found.is_empty(), "wal of {} is missing at {at}", self.key);
        let end = at + found.len() as u64;
        let right = self.content.bytes(self.key, at, end);
        assert!(
            found == right,
            "wal of {} read from {at} to {end} differs at {}",
            self.key,
            at + same_bytes(found, &right)
        );
        end
    }

    /// A position whose WAL must be there.
    pub fn position(&self, mut random: impl FnMut(u64) -> u64) -> Option<Lsn> {
        let state = self.acknowledged.as_ref()?;
        let from = self.hold.unwrap_or(START).max(START);
        (from < state.write_lsn).then(|| from + random(state.write_lsn - from))
    }

    /// Committed through here.
    pub fn commit_lsn(&self) -> Lsn {
        self.acknowledged.as_ref().map_or(START, |state| state.commit_lsn)
    }
}

fn apply(state: &mut Option<TimelineState>, step: &Step) {
    let bytes = match step {
        Step::Append { count, .. } => vec![0; *count],
        _ => Vec::new(),
    };
    match (change(step, &bytes), state) {
        (Change::Create(create), state) => *state = Some(TimelineState::create(&create)),
        (change, Some(state)) => state.apply(&change),
        (_, None) => panic!("a timeline is created first"),
    }
}

fn change<'a>(step: &Step, wal: &'a [u8]) -> Change<'a> {
    match step {
        Step::Create => create(1),
        Step::Vote(term) => Change::Vote { term: *term },
        Step::Elected(term, history, cut) => {
            Change::Elected { term: *term, history: history.clone(), truncate_to: *cut }
        }
        Step::Append { begin, count, term, commit_lsn } => {
            let end = *begin + *count as u64;
            let (term, begin, commit_lsn) = (*term, *begin, *commit_lsn);
            Change::Append { term, begin, end, commit_lsn, record_end: end, wal }
        }
    }
}
