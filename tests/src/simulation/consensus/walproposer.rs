//! A second proposer, written from the protocol's description and sharing no decision with `core`'s: what one
//! misunderstands the other one shows.
//!
//! It takes its WAL from whoever drives it, and never sends more than [`WINDOW_BYTES`] that were not flushed.

use std::collections::BTreeMap;

use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::{Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use firn_core::wire::walproposer::{
    AcceptorMessage, AppendRequest, AppendResponse, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, VoteRequest, VoteResponse,
};

use super::actor::{Event, send};
use super::network::NodeIndex;
use crate::simulation::random::Random;

/// WAL sent to an acceptor ahead of what it flushed: more than any record, and a segment switch is as long as a segment.
const WINDOW_BYTES: u64 = 2 << 20;

/// Most WAL in one message: 16 pages.
const APPEND_BYTES_MAX: u64 = 128 * 1024;

#[derive(Debug)]
enum Peer {
    /// Connected, greeting sent.
    Greeting,
    /// Greeted; asked for its vote when there is a term.
    Greeted,
    /// Its answer to the vote request.
    Voted(VoteResponse),
    /// Elected message sent.
    Streaming { next: Lsn, flush: Lsn },
}

/// The cluster whose WAL it proposes.
#[derive(Debug, Clone, Copy)]
pub struct Proposal {
    /// The timeline.
    pub key: TimelineKey,
    /// Postgres' version.
    pub postgres_version: PostgresVersion,
    /// 0: a proposer that only fences.
    pub system_id: SystemId,
    /// Bytes in a segment.
    pub segment_size_bytes: u32,
}

/// One proposer, for at most one term.
#[derive(Debug)]
pub struct WalProposer {
    proposal: Proposal,
    membership: Membership,
    peers: BTreeMap<NodeIndex, Peer>,
    ids: BTreeMap<NodeIndex, NodeId>,
    highest_seen: Term,
    /// 0 before the campaign.
    term: Term,
    history: TermHistory,
    elected: bool,
    commit_lsn: Lsn,
}

impl WalProposer {
    /// A proposer that knows no membership yet.
    pub fn new(proposal: Proposal) -> WalProposer {
        WalProposer {
            proposal,
            membership: Membership::default(),
            peers: BTreeMap::new(),
            ids: BTreeMap::new(),
            highest_seen: Term(0),
            term: Term(0),
            history: TermHistory::default(),
            elected: false,
            commit_lsn: Lsn::INVALID,
        }
    }

    /// The membership that its quorums are counted in.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// A connection is there.
    pub fn connected(&mut self, node: NodeIndex, out: &mut Vec<Event>) {
        self.peers.insert(node, Peer::Greeting);
        let greeting = ProposerMessage::Greeting(ProposerGreeting {
            key: self.proposal.key,
            membership: self.membership.clone(),
            postgres_version: self.proposal.postgres_version,
            system_id: self.proposal.system_id,
            segment_size_bytes: self.proposal.segment_size_bytes,
        });
        out.push(send(node, &greeting));
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, node: NodeIndex) {
        self.peers.remove(&node);
    }

    /// A message from a node.
    pub fn receive(&mut self, node: NodeIndex, bytes: &[u8], out: &mut Vec<Event>) {
        match AcceptorMessage::decode(ProtocolVersion::V3, bytes) {
            Err(error) => out.push(Event::Stop(error.to_string())),
            Ok(AcceptorMessage::Greeting(greeting)) => {
                if greeting.membership.generation > self.membership.generation {
                    if self.term != Term(0) {
                        out.push(Event::Stop("a newer membership".to_string()));
                        return;
                    }
                    self.membership = greeting.membership;
                }
                self.ids.insert(node, greeting.node_id);
                self.highest_seen = self.highest_seen.max(greeting.term);
                self.peers.insert(node, Peer::Greeted);
                self.campaign(node, out);
            }
            Ok(AcceptorMessage::VoteResponse(vote)) => self.vote(node, vote, out),
            Ok(AcceptorMessage::AppendResponse(response)) => self.response(node, &response, out),
        }
    }

    /// Streams `wal(from, to)`, which exists up to `end`, to everyone who has room for it.
    pub fn stream<'a>(
        &mut self,
        end: Lsn,
        wal: impl Fn(Lsn, Lsn) -> &'a [u8],
        random: &mut Random,
        out: &mut Vec<Event>,
    ) {
        let (generation, term, commit_lsn) =
            (self.membership.generation, self.term, self.commit_lsn);
        let truncate_lsn = self.truncate_lsn();
        for (node, peer) in &mut self.peers {
            let Peer::Streaming { next, flush } = peer else { continue };
            let ahead_bytes = *next - (*flush).min(*next);
            if *next >= end || ahead_bytes >= WINDOW_BYTES || random.percent(40) {
                continue;
            }
            let most = (end - *next).min(APPEND_BYTES_MAX);
            let to = *next + if random.percent(50) { most } else { 1 + random.below(most) };
            let request = AppendRequest {
                generation,
                term,
                begin_lsn: *next,
                commit_lsn,
                truncate_lsn,
                wal: wal(*next, to),
            };
            out.push(send(*node, &ProposerMessage::Append(request)));
            *next = to;
        }
    }

    /// Time passed: heartbeats.
    pub fn tick(&mut self, out: &mut Vec<Event>) {
        let truncate_lsn = self.truncate_lsn();
        for (node, peer) in &self.peers {
            if let Peer::Streaming { next, .. } = peer {
                let request = AppendRequest {
                    generation: self.membership.generation,
                    term: self.term,
                    begin_lsn: *next,
                    commit_lsn: self.commit_lsn,
                    truncate_lsn,
                    wal: &[],
                };
                out.push(send(*node, &ProposerMessage::Append(request)));
            }
        }
    }

    fn campaign(&mut self, node: NodeIndex, out: &mut Vec<Event>) {
        if self.term != Term(0) {
            out.push(self.vote_request(node));
            return;
        }
        let greeted = |id| {
            let is_greeted = |node| matches!(self.peers.get(node), Some(Peer::Greeted));
            self.ids.iter().any(|(node, own)| *own == id && is_greeted(node))
        };
        if self.membership.is_quorum(greeted) {
            self.term = Term(self.highest_seen.0 + 1);
            let greeted = self.peers.iter().filter(|(_, peer)| matches!(peer, Peer::Greeted));
            out.extend(greeted.map(|(node, _)| self.vote_request(*node)));
        }
    }

    fn vote_request(&self, node: NodeIndex) -> Event {
        let request = VoteRequest { generation: self.membership.generation, term: self.term };
        send(node, &ProposerMessage::VoteRequest(request))
    }

    fn vote(&mut self, node: NodeIndex, vote: VoteResponse, out: &mut Vec<Event>) {
        let same_term_again = self.elected && vote.term == self.term;
        if !vote.vote_given && !same_term_again {
            out.push(Event::Stop(format!("vote refused in term {}", vote.term)));
            return;
        }
        self.peers.insert(node, Peer::Voted(vote));
        if !self.elected && !self.try_to_win(out) {
            return;
        }
        let voters: Vec<NodeIndex> = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer, Peer::Voted(_)))
            .map(|(node, _)| *node)
            .collect();
        for voter in voters {
            self.announce(voter, out);
        }
    }

    fn try_to_win(&mut self, out: &mut Vec<Event>) -> bool {
        let votes: Vec<(NodeIndex, &VoteResponse)> = self
            .peers
            .iter()
            .filter_map(|(node, peer)| match peer {
                Peer::Voted(vote) => Some((*node, vote)),
                _ => None,
            })
            .collect();
        let voted = |id| votes.iter().any(|(node, _)| self.ids.get(node) == Some(&id));
        if !self.membership.is_quorum(voted) {
            return false;
        }
        let rank = |vote: &VoteResponse| (vote.term_history.last_term(), vote.flush_lsn);
        let best = votes.iter().max_by_key(|(_, vote)| rank(vote));
        let (donor, vote) = best.expect("a quorum is not empty");
        let (donor, at) = (*donor, vote.flush_lsn);
        self.history = vote.term_history.clone();
        self.history.0.push(TermStart { term: self.term, lsn: at });
        self.elected = true;
        out.push(Event::Elected { term: self.term, donor, at });
        true
    }

    fn announce(&mut self, node: NodeIndex, out: &mut Vec<Event>) {
        let Some(Peer::Voted(vote)) = self.peers.get(&node) else { return };
        let common = vote.term_history.common_prefix_end(vote.flush_lsn, &self.history);
        let start = match common {
            Ok(common) => common.unwrap_or(self.history.0[0].lsn),
            Err(error) => {
                out.push(Event::Stop(error.to_string()));
                return;
            }
        };
        let elected = ProposerElected {
            generation: self.membership.generation,
            term: self.term,
            start_streaming_at: start,
            term_history: self.history.clone(),
        };
        out.push(send(node, &ProposerMessage::Elected(elected)));
        self.peers.insert(node, Peer::Streaming { next: start, flush: start });
    }

    fn response(&mut self, node: NodeIndex, response: &AppendResponse, out: &mut Vec<Event>) {
        if response.term > self.term || response.generation != self.membership.generation {
            out.push(Event::Stop(format!("node is in term {}", response.term)));
            return;
        }
        if let Some(Peer::Streaming { flush, .. }) = self.peers.get_mut(&node) {
            *flush = (*flush).max(response.flush_lsn);
        }
        let term_start = self.history.0.last().map_or(Lsn::INVALID, |start| start.lsn);
        let reached = |id| {
            let node = self.ids.iter().find(|(_, own)| **own == id).map(|(node, _)| node);
            match node.and_then(|node| self.peers.get(node)) {
                Some(Peer::Streaming { flush, .. }) if *flush >= term_start => *flush,
                _ => Lsn::INVALID,
            }
        };
        let committed = self.membership.quorum_lsn(reached);
        if committed > self.commit_lsn {
            self.commit_lsn = committed;
            out.push(Event::Committed(committed));
            self.tick(out);
        }
    }

    fn truncate_lsn(&self) -> Lsn {
        let all_stream = self.membership.members.len() == self.peers.len();
        let lowest = self.peers.values().map(|peer| match peer {
            Peer::Streaming { flush, .. } => *flush,
            _ => Lsn::INVALID,
        });
        let lowest = lowest.min().filter(|_| all_stream).unwrap_or(Lsn::INVALID);
        lowest.min(self.commit_lsn)
    }
}
