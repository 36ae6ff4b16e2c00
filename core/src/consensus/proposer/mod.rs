//! The Paxos role that writes a timeline's WAL: the relay for stock Postgres, and the fence.
//!
//! A [`Proposer`] is elected by a quorum of the members, continues from the most advanced log among its voters, brings
//! every acceptor's log up to its own, and knows what a quorum has: the commit LSN. It holds positions only; the caller
//! holds sockets and bytes. For each acceptor the caller asks [`Proposer::next`] what to send, until it says `None`, and
//! again after every event. When that is WAL, the caller gets the bytes (from the primary, or from the donor below the
//! start of the term) and turns them into a message by [`Proposer::append`]. What these two give for an acceptor goes to
//! its connection in that order.
//!
//! Invariants: a term is campaigned for once; the commit LSN never passes what a quorum has durable of this term, and never
//! goes back; nothing is proposed past what the caller said is there.
//!
//! Read first: [`election`], then [`hold`], then [`streaming`]; [`peer`] is what is known of one acceptor, [`holders`] who can
//! give which part of the log.

mod election;
mod hold;
mod holders;
mod peer;
mod streaming;

pub use holders::Holder;
pub use peer::PeerStatus;

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::consensus::membership::Membership;
use crate::consensus::proposer::peer::Peer;
use crate::consensus::term_history::TermHistory;
use crate::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use crate::wire::walproposer::{AcceptorMessage, ProposerMessage};

/// What a proposer knows before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProposerConfig {
    /// Whose WAL it proposes.
    pub key: TimelineKey,
    /// The acceptors; of a generation above 0.
    pub membership: Membership,
    /// The cluster's Postgres version, 0 when not known.
    pub postgres_version: PostgresVersion,
    /// The cluster's number, 0 for a fence.
    pub system_id: SystemId,
    /// Bytes in a WAL segment of the cluster.
    pub segment_size_bytes: u32,
    /// What for.
    pub role: Role,
}

/// What a proposer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Streams a primary's WAL until it is stopped.
    Stream {
        /// Where the log begins when no acceptor has any WAL.
        start_lsn: Lsn,
    },
    /// Commits the tail that a quorum already has, and ends: no proposer of a lower term can commit any more.
    Fence,
    /// Brings one acceptor, which may have lost what it acknowledged, up from the others, and ends: see
    /// [`crate::consensus::reseed`]. Writes to no one else and commits nothing.
    Reseed {
        /// The acceptor. Connected when [`Action::Elected`] came and it takes part again; its own vote is not counted.
        node: NodeId,
        /// Highest term that it still knows.
        known_term: Term,
    },
}

/// What the caller has to do or to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A quorum voted. From here on WAL may be announced by [`Proposer::wal_available`].
    Elected {
        /// The term won.
        term: Term,
        /// End of the log that a quorum has: the first byte of this term.
        term_start_lsn: Lsn,
        /// Whose log it is: has all WAL below `term_start_lsn` that any voter has.
        donor: NodeId,
    },
    /// A quorum has everything up to here.
    Committed {
        /// The commit LSN.
        lsn: Lsn,
    },
    /// The connection is of no use any more: close it, and log why. A later attempt may succeed.
    Disconnect {
        /// The acceptor.
        node: NodeId,
        /// Why.
        reason: PeerError,
    },
    /// The proposer ended and says nothing more to anyone.
    Stop(StopReason),
}

/// Why a proposer ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StopReason {
    /// The fence is complete: everything below `lsn` is committed on a quorum, and nothing past it ever will be in an older
    /// term. An invalid LSN: the timeline has no WAL.
    #[error("fenced at {lsn} in term {term}")]
    Fenced {
        /// The final LSN.
        lsn: Lsn,
        /// The term that fences.
        term: Term,
    },
    /// The acceptor has all that can have been committed below `term`.
    #[error("re-seeded up to {lsn} in term {term}")]
    Reseeded {
        /// End of its log; invalid: the timeline has no WAL.
        lsn: Lsn,
        /// The term that the others promised.
        term: Term,
    },
    /// Another proposer was there.
    #[error("node {node} is in term {found}, above our term {own}: another proposer took over")]
    HigherTerm {
        /// Who said so.
        node: NodeId,
        /// Its term.
        found: Term,
        /// Ours.
        own: Term,
    },
    /// The members changed: begin again with these.
    #[error("the membership changed to generation {}", .membership.generation)]
    Membership {
        /// The newer membership.
        membership: Membership,
    },
}

/// What is wrong with an acceptor's connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Another node answers at its address.
    #[error("expected node {expected}, but node {found} answers there")]
    WrongNode {
        /// Who was expected.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// An answer that nothing asked for.
    #[error("unexpected {message}")]
    Unexpected {
        /// Which message.
        message: &'static str,
    },
    /// An answer in another membership generation.
    #[error("answer of membership generation {found}, expected {expected}")]
    Generation {
        /// Ours.
        expected: Generation,
        /// Its.
        found: Generation,
    },
    /// It counts other members in our generation: another membership change is under way.
    #[error("it has other members in generation {generation}")]
    OtherMembers {
        /// Ours and its.
        generation: Generation,
    },
    /// A term that no counting reaches.
    #[error("its term {found} is beyond all counting")]
    Term {
        /// The term.
        found: Term,
    },
    /// Its log contradicts ours.
    #[error("its log contradicts the quorum's: {reason}")]
    Log {
        /// How.
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Waits for greetings of a quorum.
    Greeting,
    /// Asks for votes.
    Campaign {
        /// A vote was refused since the last tick.
        refused: bool,
    },
    /// Won.
    Elected(Elected),
    /// Ended.
    Stopped,
}

/// What a won election fixes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Elected {
    donor: NodeId,
    term_start_lsn: Lsn,
    /// The donor's history and our term.
    history: TermHistory,
}

/// One timeline's proposer. Pure: events in, actions out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposer {
    config: ProposerConfig,
    phase: Phase,
    peers: BTreeMap<NodeId, Peer>,
    /// Highest term seen anywhere; our own from the campaign on.
    term: Term,
    /// End of the WAL that the caller can give.
    available_lsn: Lsn,
    /// What a quorum has of this term; never goes back.
    commit_lsn: Lsn,
    /// What every member has; never goes back.
    truncate_lsn: Lsn,
    /// Nobody hears of an election yet.
    held: bool,
}

/// What to send to an acceptor next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This message.
    Message(ProposerMessage<'static>),
    /// WAL: give these bytes, or the first of them, to [`Proposer::append`].
    Wal {
        /// Position of the first byte.
        begin: Lsn,
        /// Position after the last byte; at most 128 KiB further. Never beyond the start of the term when `begin` is
        /// before it, so one source has all of them.
        end: Lsn,
    },
}

impl Proposer {
    /// A proposer that knows no acceptor yet.
    pub fn new(config: ProposerConfig) -> Proposer {
        assert!(config.membership.generation != Generation(0), "a proposer knows its acceptors");
        let peers = config.membership.all().map(|member| (member.id, Peer::default())).collect();
        Proposer {
            config,
            phase: Phase::Greeting,
            peers,
            term: Term(0),
            available_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            truncate_lsn: Lsn::INVALID,
            held: false,
        }
    }

    /// A connection to a member is ready for its first message.
    pub fn connected(&mut self, node: NodeId) {
        if let Some(peer) = self.live_peer(node) {
            peer.connect();
        }
    }

    /// A connection ended. No message of it may be given to [`Self::message`] any more.
    pub fn disconnected(&mut self, node: NodeId) {
        if let Some(peer) = self.live_peer(node) {
            peer.disconnect();
        }
    }

    /// An acceptor said something.
    pub fn message(&mut self, node: NodeId, message: &AcceptorMessage) -> Vec<Action> {
        let mut actions = VecDeque::new();
        if self.live_peer(node).is_some() {
            let result = match message {
                AcceptorMessage::Greeting(greeting) => self.greeting(node, greeting, &mut actions),
                AcceptorMessage::VoteResponse(vote) => self.vote(node, vote, &mut actions),
                AcceptorMessage::AppendResponse(response) => {
                    self.append_response(node, response, &mut actions)
                }
            };
            if let Err(reason) = result {
                self.disconnected(node);
                actions.push_back(Action::Disconnect { node, reason });
            }
        }
        actions.into()
    }

    /// Time passed: about once a second. Sends a heartbeat to every acceptor that was sent nothing since the last tick,
    /// and campaigns anew when votes were refused and no quorum came together.
    pub fn tick(&mut self) {
        if let Phase::Campaign { refused: true } = self.phase {
            self.campaign();
        }
        self.peers.values_mut().for_each(Peer::tick);
    }

    /// The caller can give WAL up to `end`. Only after the election, and only once it is known that its WAL continues the
    /// quorum's log.
    pub fn wal_available(&mut self, end: Lsn) {
        if let Phase::Elected(_) = self.phase {
            self.available_lsn = self.available_lsn.max(end);
        }
    }

    /// Own term: 0 before the campaign.
    pub fn term(&self) -> Term {
        match self.phase {
            Phase::Greeting => Term(0),
            _ => self.term,
        }
    }

    /// Own term, once elected: a quorum promised it.
    pub fn won_term(&self) -> Option<Term> {
        self.elected_state().map(|_| self.term)
    }

    /// First byte of the own term, once elected.
    pub fn term_start_lsn(&self) -> Option<Lsn> {
        self.elected_state().map(|elected| elected.term_start_lsn)
    }

    /// The acceptor that has all WAL below the own term, once elected.
    pub fn donor(&self) -> Option<NodeId> {
        self.elected_state().map(|elected| elected.donor)
    }

    /// The own history, once elected.
    pub fn history(&self) -> Option<&TermHistory> {
        self.elected_state().map(|elected| &elected.history)
    }

    /// What a quorum has; invalid until the start of the term is committed.
    pub fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// What every member has: WAL below may be forgotten by the caller.
    pub fn truncate_lsn(&self) -> Lsn {
        self.truncate_lsn
    }

    /// Lowest position that a streaming acceptor still needs: the caller keeps WAL from here on. `None` when none streams.
    pub fn lowest_needed_lsn(&self) -> Option<Lsn> {
        self.peers.values().filter_map(Peer::next_lsn).min()
    }

    /// Whether it ended.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// The membership it works with.
    pub fn membership(&self) -> &Membership {
        &self.config.membership
    }

    /// What is known of every acceptor, by node id.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, PeerStatus)> {
        self.peers.iter().map(|(node, peer)| (*node, peer.status()))
    }

    /// Whether the nodes for which `holds` says yes decide an election.
    fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        match self.config.role {
            Role::Reseed { node, .. } => self.config.membership.is_quorum_of_others(node, holds),
            Role::Stream { .. } | Role::Fence => self.config.membership.is_quorum(holds),
        }
    }

    fn elected_state(&self) -> Option<&Elected> {
        match &self.phase {
            Phase::Elected(elected) => Some(elected),
            _ => None,
        }
    }

    fn live_peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        match self.phase {
            Phase::Stopped => None,
            _ => self.peers.get_mut(&node),
        }
    }

    fn stop(&mut self, reason: StopReason, actions: &mut VecDeque<Action>) {
        self.phase = Phase::Stopped;
        self.peers.values_mut().for_each(Peer::disconnect);
        actions.push_back(Action::Stop(reason));
    }
}

#[cfg(test)]
mod tests;
