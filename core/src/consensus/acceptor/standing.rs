//! What an acceptor may still say after its disk lost changes that it had acknowledged.
//!
//! [`Standing::Suspect`] takes nothing. Once a majority of the others promised a term above every one that it can have
//! voted in ([`crate::consensus::reseed`] says how and why), [`Acceptor::begin_seeding`] lets it follow proposers of that
//! term and later ones like any acceptor, but for votes: it takes over their terms and gives none. When its durable log
//! reaches the start of such a term it has all that can have been committed before, and [`Acceptor::trust`] makes it
//! whole.

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Step};
use crate::consensus::change::Change;
use crate::types::Term;

/// How much of what it promised an acceptor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// All.
    Whole,
    /// It may have forgotten votes, terms and WAL that it acknowledged.
    Suspect,
    /// What it may have forgotten is void: a majority of the other members promised `floor`. Its log may lack what was
    /// committed.
    Seeding {
        /// The term.
        floor: Term,
    },
}

impl Acceptor {
    /// What it may say.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Its state may lack changes that it acknowledged.
    pub fn distrust(&mut self) {
        self.standing = Standing::Suspect;
        self.end_writing();
    }

    /// A majority of the other members promised `floor`, a re-seed's term. From now on it takes messages of that term and
    /// later ones, and gives no vote. The step's changes are to be witnessed before anything is answered.
    pub fn begin_seeding(&mut self, floor: Term) -> Result<Step<'static>, AcceptorError> {
        assert!(self.standing != Standing::Whole, "a whole acceptor is not re-seeded");
        let current = self.state.term;
        if floor < current {
            return Err(AcceptorError::SeedTerm { floor, current });
        }
        self.standing = Standing::Seeding { floor };
        self.end_writing();
        let change = (floor > current).then_some(Change::Term { term: floor });
        Ok(self.step(Changes::two(change, None), Reply::None))
    }

    /// Whether its durable log has all that can have been committed before it began to be seeded: it reaches the start of
    /// a term that was won without its vote. Then the journal notes that it is whole, and [`Acceptor::trust`] comes when
    /// that is witnessed.
    pub fn is_seeded(&self) -> bool {
        let Standing::Seeding { floor } = self.standing else { return false };
        let flush_lsn = self.flush_lsn();
        let history = self.state.term_history.0.iter();
        self.durable.elections == self.elections
            && history.rev().any(|start| start.term >= floor && start.lsn <= flush_lsn)
    }

    /// It is whole again: the journal says so durably. Of an acceptor that is seeded, or of a timeline without any WAL.
    pub fn trust(&mut self) {
        assert!(self.standing != Standing::Suspect, "an acceptor is seeded before it is trusted");
        self.standing = Standing::Whole;
    }

    pub(super) fn check_not_suspect(&self) -> Result<(), AcceptorError> {
        match self.standing {
            Standing::Suspect => Err(AcceptorError::Suspect { key: self.key }),
            Standing::Whole | Standing::Seeding { .. } => Ok(()),
        }
    }

    pub(super) fn check_whole(&self) -> Result<(), AcceptorError> {
        match self.standing {
            Standing::Whole => Ok(()),
            Standing::Suspect | Standing::Seeding { .. } => {
                Err(AcceptorError::Suspect { key: self.key })
            }
        }
    }
}
