//! How an acceptor that may have lost what it acknowledged gets whole again, from its other members alone.
//!
//! What recovery left of acceptor X is a past state of it: X may have forgotten votes and WAL that others rely on. X
//! therefore takes nothing from anyone. A proposer of [`Role::Reseed`] runs beside it: it asks the other members for their
//! votes in a *re-seed term* ([`reseed_term`]), and when a majority of the others R granted them
//! ([`Membership::is_quorum_of_others`]) it writes the most advanced log of R to X, as any elected proposer would. Then X is
//! whole. Nothing else is written anywhere, and nothing is committed; the others only know a higher term.
//!
//! **Why it is safe.** Let T be the re-seed term, and Q any quorum, with or without X; R meets Q in a member Y other than X.
//! - *WAL.* An entry of a term below T that Q committed, counting an acknowledgement that X forgot or not, is on Y. Y took it
//!   before it promised T, since it refuses lower terms afterwards. So it was in the log that Y told with its vote, and the
//!   most advanced of R's logs has it, by the same argument as for any election: X gets it before it votes again. An entry that
//!   Y lacked when it promised T is never committed in a lower term, however many forgotten acknowledgements of X a
//!   proposer holds: Q needs Y.
//! - *Votes.* An election below T that completed with a forgotten vote of X is one that Y voted in: R's logs and terms
//!   are at least those of that moment. One that did not complete before never will: Y refuses it. So no vote that X
//!   forgot counts any more, and X itself takes no term below T.
//! - *Only one wins T.* A member votes for T once. R meets every quorum in a node that is not X, and two sets such as R, of two
//!   acceptors that are re-seeded at once and vote for no one, are majorities of what is left: they meet as well.
//! - *A proposer of a term above T* that takes over meanwhile was elected by a quorum without X's vote, and its log has what
//!   was committed before by the same arguments: X may as well be completed by it ([`Acceptor::is_seeded`]).
//! - *Joint memberships.* A quorum is a majority of each list, and R is a majority of the others of each list: the argument
//!   holds for each list alone. A membership that X forgot and R never heard of has neither elected nor committed
//!   anything, since a quorum of it includes a majority of the list before, and with it a member of R. If R knows a newer
//!   membership the proposer stops with [`StopReason::Membership`] and begins again with that one.
//!
//! **What it rests on.** T is above every term that X can have voted in. R knows every term in which an election completed, but
//! a proposer can have had X's vote in a higher term and nobody else's, and still hold it. Terms are counted: each campaign
//! is for one more than its proposer heard of. A re-seed term is the next multiple of 2^32, so X would have to have voted in four
//! billion campaigns of which no member of R ever heard, each begun by greeting a quorum.
//!
//! **When it stays closed.** Too few of the others answer or are whole themselves; X is the only member; its commit LSN is above
//! what R holds (a majority lost its disks); it is not a member any more. Time and retries mend the first, operators the rest.
//!
//! [`Role::Reseed`]: crate::consensus::proposer::Role::Reseed
//! [`StopReason::Membership`]: crate::consensus::proposer::StopReason::Membership
//! [`Membership::is_quorum_of_others`]: crate::consensus::membership::Membership::is_quorum_of_others
//! [`Acceptor::is_seeded`]: crate::consensus::acceptor::Acceptor::is_seeded

use crate::types::Term;

/// Terms from one re-seed term to the next: more campaigns than a timeline has time for.
const RESEED_STEP: u64 = 1 << 32;

/// The term of a re-seed when `highest` is the highest term that anyone told. `highest` is far from the end of counting.
pub fn reseed_term(highest: Term) -> Term {
    Term((highest.0 / RESEED_STEP + 1) * RESEED_STEP)
}

/// Whether the term is a re-seed's: nobody writes WAL of its own in it. A proposer that was refused because of such a term
/// was not superseded by another one.
pub fn is_reseed_term(term: Term) -> bool {
    term != Term(0) && term.0.is_multiple_of(RESEED_STEP)
}

#[cfg(test)]
mod tests;
