//! What the acceptors are and hold, asked before anything is changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use firn_core::consensus::membership::Membership;
use firn_core::consensus::reseed::is_reseed_term;
use firn_core::types::{Generation, Lsn, NodeId, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::message::{Backend, Encode};
use firn_core::wire::walproposer::{
    AcceptorGreeting, AcceptorMessage, ProposerGreeting, ProposerMessage, ProtocolVersion,
};
use futures_util::future::join_all;
use thiserror::Error;

use super::acceptor::{self, ACCEPTOR_TIMEOUT, AcceptorError, AcceptorPosition, open_acceptor};
use super::members_wal::Source;
use super::options::RelayOptions;
use super::postgres::connection::{Connection, ConnectionError, refusal, within};
use super::primary::Primary;
use crate::runtime::Runtime;

/// The command that begins a proposer's session. A Firn timeline is created explicitly, never by a push.
pub const START_WAL_PUSH: &str =
    "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')";

/// Why the acceptors cannot be proposed to.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// Too few of them answer.
    #[error("no quorum of acceptors: {reasons}")]
    NoQuorum {
        /// What each of the others said.
        reasons: String,
    },
    /// They hold the timeline without a membership, as Neon's computes make it.
    #[error(
        "the acceptors hold timeline {key} without a membership: create it with its members (firn timeline create)"
    )]
    NoMembership {
        /// The timeline.
        key: TimelineKey,
    },
    /// A membership that is none.
    #[error("an acceptor tells a broken membership: {0}")]
    BrokenMembership(String),
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// The newest membership that any acceptor knows.
    pub membership: Membership,
    /// Where each member is reached.
    pub addresses: BTreeMap<NodeId, String>,
    /// What each member that answered holds.
    pub members: BTreeMap<NodeId, Surveyed>,
}

/// One acceptor's answer.
#[derive(Debug, Clone, Copy)]
pub struct Surveyed {
    /// Highest term that it knows.
    pub term: Term,
    /// How far it is.
    pub position: AcceptorPosition,
}

impl Survey {
    /// Asks all acceptors at once.
    pub async fn take(
        runtime: &Runtime,
        options: &RelayOptions,
        primary: &Primary,
    ) -> Result<Survey, SurveyError> {
        let mut reasons = Vec::new();
        let mut found = Vec::new();
        ask_all(runtime, options, primary, &options.addresses, &mut found, &mut reasons).await;
        let newest = found.iter().map(|(_, (greeting, _))| &greeting.membership);
        let newest = newest.max_by_key(|membership| membership.generation).cloned();
        let Some(membership) = newest else {
            return Err(SurveyError::NoQuorum { reasons: reasons.join("; ") });
        };
        if membership.generation == Generation(0) {
            return Err(SurveyError::NoMembership { key: options.key });
        }
        membership.validate().map_err(|error| SurveyError::BrokenMembership(error.to_string()))?;
        // Members that joined since the command line was written; their addresses are in the membership.
        let has_answered =
            |id: NodeId| found.iter().any(|(_, (greeting, _))| greeting.node_id == id);
        let joined = membership.all().filter(|member| !has_answered(member.id));
        let mut joined: Vec<String> = joined.map(|member| member.address()).collect();
        joined.sort();
        joined.dedup();
        joined.retain(|address| !options.addresses.contains(address));
        ask_all(runtime, options, primary, &joined, &mut found, &mut reasons).await;
        let mut addresses: BTreeMap<NodeId, String> =
            membership.all().map(|member| (member.id, member.address())).collect();
        let mut members = BTreeMap::new();
        for (address, (greeting, position)) in found {
            let node = greeting.node_id;
            if !membership.contains(node) {
                let generation = membership.generation;
                reasons.push(format!(
                    "{address}: node {node} is not a member of generation {generation}; an emptied or foreign data directory? replace it by a membership change (firn timeline members)"
                ));
                continue;
            }
            if members.contains_key(&node) {
                reasons.push(format!("{address}: leads to node {node} as another address does"));
                continue;
            }
            addresses.insert(node, address.clone());
            members.insert(node, Surveyed { term: greeting.term, position });
        }
        reasons.iter().for_each(|reason| tracing::warn!("acceptor {reason}"));
        if !membership.is_quorum(|id| members.contains_key(&id)) {
            return Err(SurveyError::NoQuorum { reasons: reasons.join("; ") });
        }
        Ok(Survey { membership, addresses, members })
    }

    /// The positions that members know to be committed, the highest first. Not empty: a quorum answered.
    pub fn committed(&self) -> Vec<Lsn> {
        let mut committed: Vec<Lsn> =
            self.members.values().map(|found| found.position.commit_lsn).collect();
        committed.sort_unstable_by(|a, b| b.cmp(a));
        committed.dedup();
        committed
    }

    /// Members that have WAL at `at` and know it to be committed, who knows of most first.
    pub fn sources(&self, at: Lsn) -> Vec<Source> {
        let source = |(node, found): (&NodeId, &Surveyed)| Source {
            node: *node,
            address: self.addresses[node].clone(),
            end: found.position.commit_lsn,
        };
        let all = self.members.iter().map(source);
        let mut sources: Vec<Source> = all.filter(|source| source.end > at).collect();
        sources.sort_by_key(|source| Reverse(source.end));
        sources
    }

    /// Whether those that answered are a quorum without these.
    pub fn can_do_without(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let others = |id: NodeId| self.members.contains_key(&id) && !nodes.contains(&id);
        self.membership.is_quorum(others)
    }

    /// Whether any member holds WAL, or knows where it begins.
    pub fn has_wal(&self) -> bool {
        self.members.values().any(|found| found.position.flush_lsn.is_valid())
    }

    /// Whether a quorum knows a higher term: another proposer was elected after `own`. A re-seed's term does not count: it
    /// writes nothing, and the next proposer goes on above it.
    pub fn is_superseded(&self, own: Term) -> Option<Term> {
        let higher = |id: NodeId| self.members.get(&id).is_some_and(|found| found.term > own);
        let highest = self.members.values().map(|found| found.term).max()?;
        let superseded = self.membership.is_quorum(higher) && !is_reseed_term(highest);
        superseded.then_some(highest)
    }
}

/// Asks acceptors at once; each one's answer, or why there is none.
async fn ask_all(
    runtime: &Runtime,
    options: &RelayOptions,
    primary: &Primary,
    addresses: &[String],
    found: &mut Vec<(String, (AcceptorGreeting, AcceptorPosition))>,
    reasons: &mut Vec<String>,
) {
    let asked = addresses.iter().map(|address| ask(runtime, options, primary, address));
    for (address, answer) in addresses.iter().zip(join_all(asked).await) {
        match answer {
            Ok(answer) => found.push((address.clone(), answer)),
            Err(error) => reasons.push(format!("{address}: {error}")),
        }
    }
}

async fn ask(
    runtime: &Runtime,
    options: &RelayOptions,
    primary: &Primary,
    address: &str,
) -> Result<(AcceptorGreeting, AcceptorPosition), AcceptorError> {
    let position = acceptor::position(runtime, &options.acceptor, address, options.key).await?;
    let mut connection = open_acceptor(runtime, &options.acceptor, address, options.key).await?;
    let greeting =
        within(runtime, ACCEPTOR_TIMEOUT, greet(&mut connection, options.key, primary)).await?;
    Ok((greeting, position))
}

/// Greets as a proposer without a cluster, which changes nothing.
async fn greet(
    connection: &mut Connection,
    key: TimelineKey,
    primary: &Primary,
) -> Result<AcceptorGreeting, ConnectionError> {
    connection.start_copy_both(START_WAL_PUSH).await?;
    let greeting = ProposerMessage::Greeting(ProposerGreeting {
        key,
        membership: Membership::default(),
        postgres_version: primary.version,
        system_id: SystemId(0),
        segment_size_bytes: primary.segment_size_bytes,
    });
    let mut out = Vec::new();
    out.message(b'd', |out| greeting.encode(ProtocolVersion::V3, out));
    connection.send(out).await?;
    let message = connection.receive().await?;
    let unexpected =
        ConnectionError::Unexpected { tag: message.tag.into(), during: "awaiting a greeting" };
    match Backend::from_message(message)? {
        Backend::CopyData(payload) => match AcceptorMessage::decode(ProtocolVersion::V3, payload) {
            Ok(AcceptorMessage::Greeting(greeting)) => Ok(greeting),
            _ => Err(unexpected),
        },
        Backend::Error { .. } => Err(refusal(message)),
        _ => Err(unexpected),
    }
}
