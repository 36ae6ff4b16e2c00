//! A running proposer: `core`'s own, or the second one, behind the same events.

use firn_core::consensus::membership::Membership;
use firn_core::consensus::proposer::{Action, Next, Proposer, ProposerConfig, Role, StopReason};
use firn_core::types::{Lsn, NodeId, Term};
use firn_core::wire::walproposer::{AcceptorMessage, ProposerMessage, ProtocolVersion};

use super::network::NodeIndex;
use super::walproposer::{Proposal, WalProposer};
use crate::simulation::random::Random;

/// What the driver must do, or must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send this to that node.
    Send(NodeIndex, Vec<u8>),
    /// Close the connection to that node.
    Disconnect(NodeIndex),
    /// This proposer won its term.
    Elected {
        /// Its term.
        term: Term,
        /// The most advanced acceptor, whose log is gone on with.
        donor: NodeIndex,
        /// Where its own WAL begins.
        at: Lsn,
    },
    /// Everything below is committed.
    Committed(Lsn),
    /// A fence is complete: older terms commit nothing past this.
    Fenced(Lsn),
    /// The acceptor that it re-seeds has all that can have been committed; an invalid LSN: there is no WAL.
    Reseeded {
        /// End of its log.
        lsn: Lsn,
        /// The term that the others promised.
        term: Term,
    },
    /// It counted members of an old membership: another proposer may begin with this one.
    Outdated(Membership),
    /// It gives up; another proposer may begin.
    Stop(String),
}

/// Either kind of proposer.
#[derive(Debug)]
pub enum AnyProposer {
    /// The one that relay and fence run.
    Core(CoreProposer),
    /// The second opinion.
    Second(WalProposer),
}

/// `core`'s proposer with what its caller keeps.
#[derive(Debug)]
pub struct CoreProposer {
    proposer: Proposer,
    ids: Vec<NodeId>,
}

impl AnyProposer {
    /// `core`'s, for the members of `membership`; `ids` are those of the nodes by index.
    pub fn core(proposal: Proposal, membership: Membership, ids: Vec<NodeId>, role: Role) -> Self {
        let proposer = Proposer::new(ProposerConfig {
            key: proposal.key,
            membership,
            postgres_version: proposal.postgres_version,
            system_id: proposal.system_id,
            segment_size_bytes: proposal.segment_size_bytes,
            role,
        });
        AnyProposer::Core(CoreProposer { proposer, ids })
    }

    /// The membership that its quorums are counted in.
    pub fn membership(&self) -> &Membership {
        match self {
            AnyProposer::Core(core) => core.proposer.membership(),
            AnyProposer::Second(second) => second.membership(),
        }
    }

    /// A connection is there.
    pub fn connected(&mut self, node: NodeIndex, out: &mut Vec<Event>) {
        match self {
            AnyProposer::Core(core) => {
                core.proposer.connected(core.ids[node]);
                core.send_messages(out);
            }
            AnyProposer::Second(second) => second.connected(node, out),
        }
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, node: NodeIndex) {
        match self {
            AnyProposer::Core(core) => core.proposer.disconnected(core.ids[node]),
            AnyProposer::Second(second) => second.disconnected(node),
        }
    }

    /// A message from a node.
    pub fn receive(&mut self, node: NodeIndex, bytes: &[u8], out: &mut Vec<Event>) {
        match self {
            AnyProposer::Core(core) => {
                let message = AcceptorMessage::decode(ProtocolVersion::V3, bytes)
                    .expect("the network does not change bytes");
                let actions = core.proposer.message(core.ids[node], &message);
                actions.into_iter().for_each(|action| core.report(action, out));
                core.send_messages(out);
            }
            AnyProposer::Second(second) => second.receive(node, bytes, out),
        }
    }

    /// Streams `wal(from, to)`, which exists up to `end`, to whoever has room for it. Called only once it is known that
    /// this WAL continues the quorum's log.
    pub fn stream<'a>(
        &mut self,
        end: Lsn,
        wal: impl Fn(Lsn, Lsn) -> &'a [u8],
        random: &mut Random,
        out: &mut Vec<Event>,
    ) {
        match self {
            AnyProposer::Core(core) => core.stream(end, wal, random, out),
            AnyProposer::Second(second) => second.stream(end, wal, random, out),
        }
    }

    /// Time passed.
    pub fn tick(&mut self, out: &mut Vec<Event>) {
        match self {
            AnyProposer::Core(core) => {
                core.proposer.tick();
                core.send_messages(out);
            }
            AnyProposer::Second(second) => second.tick(out),
        }
    }
}

impl CoreProposer {
    fn report(&self, action: Action, out: &mut Vec<Event>) {
        let index = |id: NodeId| {
            self.ids.iter().position(|own| *own == id).expect("a proposer knows members only")
        };
        out.push(match action {
            Action::Elected { term, term_start_lsn, donor } => {
                Event::Elected { term, donor: index(donor), at: term_start_lsn }
            }
            Action::Committed { lsn } => Event::Committed(lsn),
            Action::Disconnect { node, .. } => Event::Disconnect(index(node)),
            Action::Stop(StopReason::Fenced { lsn, .. }) => Event::Fenced(lsn),
            Action::Stop(StopReason::Reseeded { lsn, term }) => Event::Reseeded { lsn, term },
            Action::Stop(StopReason::Membership { membership }) => Event::Outdated(membership),
            Action::Stop(reason @ StopReason::HigherTerm { .. }) => Event::Stop(reason.to_string()),
        });
    }

    /// Sends all that is no WAL.
    fn send_messages(&mut self, out: &mut Vec<Event>) {
        for node in 0..self.ids.len() {
            while let Some(Next::Message(message)) = self.next(node, out) {
                out.push(send(node, &message));
            }
        }
    }

    fn stream<'a>(
        &mut self,
        end: Lsn,
        wal: impl Fn(Lsn, Lsn) -> &'a [u8],
        random: &mut Random,
        out: &mut Vec<Event>,
    ) {
        self.proposer.wal_available(end);
        for node in 0..self.ids.len() {
            if random.percent(40) {
                continue;
            }
            match self.next(node, out) {
                None => {}
                Some(Next::Message(message)) => out.push(send(node, &message)),
                Some(Next::Wal { begin, end }) => {
                    let all = random.percent(50);
                    let to = if all { end } else { begin + 1 + random.below(end - begin) };
                    let request = self.proposer.append(self.ids[node], begin, wal(begin, to));
                    let request = request.expect("nothing came between");
                    out.push(send(node, &ProposerMessage::Append(request)));
                }
            }
        }
    }

    fn next(&mut self, node: NodeIndex, out: &mut Vec<Event>) -> Option<Next> {
        match self.proposer.next(self.ids[node]) {
            Ok(next) => next,
            Err(action) => {
                self.report(action, out);
                None
            }
        }
    }
}

/// A message to a node as an event.
pub fn send(node: NodeIndex, message: &ProposerMessage<'_>) -> Event {
    let mut bytes = Vec::new();
    message.encode(ProtocolVersion::V3, &mut bytes);
    Event::Send(node, bytes)
}
