//! Greetings, the campaign, and what winning it fixes.

use std::collections::VecDeque;

use crate::consensus::proposer::peer::{Log, Peer, Session};
use crate::consensus::proposer::{Action, Elected, PeerError, Phase, Proposer, Role, StopReason};
use crate::consensus::reseed::reseed_term;
use crate::consensus::term_history::TermStart;
use crate::types::{Generation, Lsn, NodeId, Term};
use crate::wire::walproposer::{
    AcceptorGreeting, ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};

/// Highest term that an acceptor is believed: it leaves more elections than there is time for, so counting on never
/// overflows.
const TERM_MAX: Term = Term(u64::MAX / 2);

impl Proposer {
    pub(super) fn greeting(
        &mut self,
        node: NodeId,
        greeting: &AcceptorGreeting,
        actions: &mut VecDeque<Action>,
    ) -> Result<(), PeerError> {
        self.expect(node, Session::AwaitsGreeting, "AcceptorGreeting")?;
        if greeting.node_id != node {
            return Err(PeerError::WrongNode { expected: node, found: greeting.node_id });
        }
        if greeting.term > TERM_MAX {
            return Err(PeerError::Term { found: greeting.term });
        }
        let generation = self.config.membership.generation;
        if greeting.membership.generation == generation
            && !greeting.membership.has_members_of(&self.config.membership)
        {
            return Err(PeerError::OtherMembers { generation });
        }
        if greeting.membership.generation > generation {
            let membership = greeting.membership.clone();
            self.stop(StopReason::Membership { membership }, actions);
            return Ok(());
        }
        self.peer(node).session = Session::Greeted;
        match self.phase {
            Phase::Greeting => {
                self.term = self.term.max(greeting.term);
                let greeted = |id| self.peers[&id].session == Session::Greeted;
                if self.is_quorum(greeted) {
                    self.campaign();
                }
            }
            _ if greeting.term > self.term => self.stop_for_term(node, greeting.term, actions),
            _ => {}
        }
        Ok(())
    }

    /// Stands for the next term: everyone who voted or was asked in the last one is asked again.
    pub(super) fn campaign(&mut self) {
        self.term = match self.config.role {
            Role::Reseed { known_term, .. } => reseed_term(self.term.max(known_term)),
            Role::Stream { .. } | Role::Fence => {
                Term(self.term.0.checked_add(1).expect("terms stay near TERM_MAX at most"))
            }
        };
        self.phase = Phase::Campaign { refused: false };
        for peer in self.peers.values_mut() {
            peer.granted = false;
            peer.log = None;
            if peer.session == Session::Voted {
                peer.session = Session::Greeted;
            }
        }
    }

    pub(super) fn vote(
        &mut self,
        node: NodeId,
        vote: &VoteResponse,
        actions: &mut VecDeque<Action>,
    ) -> Result<(), PeerError> {
        self.expect(node, Session::AwaitsVote, "VoteResponse")?;
        self.check_generation(vote.generation)?;
        if vote.term > self.term {
            self.stop_for_term(node, vote.term, actions);
            return Ok(());
        }
        if vote.term < self.term {
            // It was asked before the campaign began anew.
            self.peer(node).session = Session::Greeted;
            return Ok(());
        }
        vote.term_history.validate().map_err(|error| log_error(&error))?;
        let log = Log { flush_lsn: vote.flush_lsn, history: vote.term_history.clone() };
        let peer = self.peer(node);
        peer.session = Session::Voted;
        peer.granted |= vote.vote_given;
        peer.log = Some(log);
        let granted = peer.granted;
        if let Phase::Campaign { refused } = &mut self.phase {
            *refused |= !granted;
            self.truncate_lsn = self.truncate_lsn.max(vote.truncate_lsn);
            if self.is_quorum(|id| self.peers[&id].granted) {
                self.win(actions);
            }
        }
        Ok(())
    }

    /// Continues the most advanced log among those who granted their vote.
    fn win(&mut self, actions: &mut VecDeque<Action>) {
        let voters = self.peers.iter().filter(|(_, peer)| peer.granted);
        let logs = voters.filter_map(|(node, peer)| peer.log.as_ref().map(|log| (*node, log)));
        let (donor, log) = logs
            .max_by_key(|(_, log)| (log.history.last_term(), log.flush_lsn))
            .expect("a quorum is at least one voter, and a vote tells the log");
        let term_start_lsn = match self.config.role {
            Role::Stream { start_lsn } if !log.flush_lsn.is_valid() => start_lsn,
            _ => log.flush_lsn,
        };
        if !term_start_lsn.is_valid() {
            let (lsn, term) = (Lsn::INVALID, self.term);
            let reason = match self.config.role {
                Role::Reseed { .. } => StopReason::Reseeded { lsn, term },
                Role::Stream { .. } | Role::Fence => StopReason::Fenced { lsn, term },
            };
            return self.stop(reason, actions);
        }
        let mut history = log.history.clone();
        history.0.push(TermStart { term: self.term, lsn: term_start_lsn });
        self.available_lsn = term_start_lsn;
        self.truncate_lsn = self.truncate_lsn.min(term_start_lsn);
        self.phase = Phase::Elected(Elected { donor, term_start_lsn, history });
        actions.push_back(Action::Elected { term: self.term, term_start_lsn, donor });
    }

    /// What to send to an acceptor that does not stream yet.
    pub(super) fn next_before_streaming(
        &mut self,
        node: NodeId,
    ) -> Result<Option<ProposerMessage<'static>>, PeerError> {
        let generation = self.config.membership.generation;
        let term = self.term;
        let message = match (self.peer(node).session, &self.phase) {
            (Session::Connected, _) => {
                self.peer(node).session = Session::AwaitsGreeting;
                ProposerMessage::Greeting(self.own_greeting())
            }
            (Session::Greeted, Phase::Campaign { .. } | Phase::Elected(_)) => {
                self.peer(node).session = Session::AwaitsVote;
                ProposerMessage::VoteRequest(VoteRequest { generation, term })
            }
            (Session::Voted, Phase::Elected(elected)) if !self.held && self.writes_to(node) => {
                let log = self.peers[&node].log.as_ref().expect("a vote tells the log");
                let common = log.history.common_prefix_end(log.flush_lsn, &elected.history);
                let first = elected.history.0[0].lsn;
                let start_streaming_at =
                    common.map_err(|error| log_error(&error))?.unwrap_or(first);
                if start_streaming_at > self.available_lsn {
                    let reason = format!("it claims WAL up to {start_streaming_at}");
                    return Err(PeerError::Log { reason });
                }
                let term_history = elected.history.clone();
                self.peer(node).session =
                    Session::Streaming { next_lsn: start_streaming_at, announce: true, sent: true };
                ProposerMessage::Elected(ProposerElected {
                    generation,
                    term,
                    start_streaming_at,
                    term_history,
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(message))
    }

    fn writes_to(&self, acceptor: NodeId) -> bool {
        match self.config.role {
            Role::Reseed { node, .. } => node == acceptor,
            Role::Stream { .. } | Role::Fence => true,
        }
    }

    fn own_greeting(&self) -> ProposerGreeting {
        ProposerGreeting {
            key: self.config.key,
            membership: self.config.membership.clone(),
            postgres_version: self.config.postgres_version,
            system_id: self.config.system_id,
            segment_size_bytes: self.config.segment_size_bytes,
        }
    }

    pub(super) fn stop_for_term(
        &mut self,
        node: NodeId,
        found: Term,
        actions: &mut VecDeque<Action>,
    ) {
        let own = self.term;
        self.stop(StopReason::HigherTerm { node, found, own }, actions);
    }

    pub(super) fn peer(&mut self, node: NodeId) -> &mut Peer {
        self.peers.get_mut(&node).expect("events of strangers are dropped at the door")
    }

    fn expect(
        &self,
        node: NodeId,
        session: Session,
        message: &'static str,
    ) -> Result<(), PeerError> {
        match self.peers[&node].session == session {
            true => Ok(()),
            false => Err(PeerError::Unexpected { message }),
        }
    }

    pub(super) fn check_generation(&self, found: Generation) -> Result<(), PeerError> {
        let expected = self.config.membership.generation;
        match found == expected {
            true => Ok(()),
            false => Err(PeerError::Generation { expected, found }),
        }
    }
}

fn log_error(error: &impl ToString) -> PeerError {
    PeerError::Log { reason: error.to_string() }
}
