//! Deliberate bugs, each in one line of production code, to prove that the simulation would notice such a bug.
//!
//! They exist only in builds with debug assertions, and there only for a thread that switched one on: in a release
//! build [`active`] is the constant `false`, and nothing of them is left.

/// One bug. Its call sites say what breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// An acceptor answers for what it only wrote.
    SkipFlush,
    /// An acceptor votes whatever term it knows already.
    IgnoreTerm,
    /// The journal acknowledges a frame before the ones in front of it are durable.
    AcknowledgeOutOfOrder,
    /// Recovery passes over votes.
    ForgetVote,
    /// A new life of the journal goes on in the segment in which the one before it was cut, right behind the cut.
    WriteBehindCut,
    /// Nothing tells one life of the journal from the next.
    DropLifeId,
    /// A frame's CRC covers neither the life nor the use of the file that it was written in.
    DropFrameIds,
    /// A node that lost a timeline that it should know makes an empty one.
    AnswerUnknownTimeline,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 8] = [
        Mutant::SkipFlush,
        Mutant::IgnoreTerm,
        Mutant::AcknowledgeOutOfOrder,
        Mutant::ForgetVote,
        Mutant::WriteBehindCut,
        Mutant::DropLifeId,
        Mutant::DropFrameIds,
        Mutant::AnswerUnknownTimeline,
    ];
}

#[cfg(debug_assertions)]
mod switched {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this thread has the bug.
    pub fn active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Gives this thread the bug, or none.
    pub fn switch(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }
}

#[cfg(debug_assertions)]
pub use switched::{active, switch};

/// No build without debug assertions has a bug on purpose.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn active(_mutant: Mutant) -> bool {
    false
}
