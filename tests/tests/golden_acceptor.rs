//! Our acceptor answers real proposers as the recorded acceptor did.
//!
//! The proposers' side of the recordings is fed message by message; everything is durable at once. What may differ:
//!
//! - *How many answers*: one AppendResponse may stand for several appends, so a recorded one has to be what ours would have
//!   said after some append since the one before it.
//! - *AppendResponse, commit LSN*: ours is at least the recorded one and at most the flush LSN, because every append that
//!   carries WAL makes the commit LSN durable with it.
//! - *AppendResponse, page server feedback*: is put in by the node, not by the acceptor.
//! - *Text of errors*: only that and where a message is refused has to agree.
//! - *Stale proposers* are told of the higher term with all positions 0, always; the recorded acceptor once sent its real
//!   ones (`005`).
//! - *A system id other than that of the WAL here* is refused (`011`); the recorded acceptor took it over.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use firn_core::consensus::acceptor::{Acceptor, AcceptorError, Reply, create_on_push};
use firn_core::consensus::state::TimelineState;
use firn_core::types::{Lsn, NodeId, TimelineKey};
use firn_core::wire::walproposer::{
    AcceptorMessage, AppendResponse, ProposerMessage, ProtocolVersion,
};
use firn_tests::recordings::conversation::{Conversation, Message, Sender};
use firn_tests::recordings::scenario;

/// The acceptors of one node.
struct Node {
    id: NodeId,
    acceptors: BTreeMap<TimelineKey, Acceptor>,
    /// What happened, for the test to name what it expects.
    refusals: Vec<(String, AcceptorError)>,
    answers: usize,
}

impl Default for Node {
    fn default() -> Node {
        Node { id: NodeId(1), acceptors: BTreeMap::new(), refusals: Vec::new(), answers: 0 }
    }
}

impl Node {
    /// Forgets everything that is not durable.
    fn restart(&mut self) {
        for (key, acceptor) in &mut self.acceptors {
            *acceptor = Acceptor::new(*key, self.id, acceptor.state().clone());
        }
    }

    /// Ends in good order, and begins again.
    fn stop_and_start(&mut self) {
        for acceptor in self.acceptors.values_mut() {
            acceptor.checkpoint();
        }
        self.restart();
    }

    /// Replays the connections in order. One that waits for a term which the next connection brings is interrupted by
    /// that one, as it was when they were recorded.
    fn replay(&mut self, connections: &mut VecDeque<(String, Conversation)>) -> Result<()> {
        while let Some((name, conversation)) = connections.pop_front() {
            self.connection(&name, &conversation, connections).with_context(|| name.clone())?;
        }
        Ok(())
    }

    fn connection(
        &mut self,
        name: &str,
        conversation: &Conversation,
        later: &mut VecDeque<(String, Conversation)>,
    ) -> Result<()> {
        let query = conversation.first_query();
        if !query.starts_with("START_WAL_PUSH") {
            return Ok(());
        }
        let version = match query {
            query if query.contains("proto_version '3'") => ProtocolVersion::V3,
            query if query.contains("proto_version '2'") => ProtocolVersion::V2,
            _ => return Ok(()),
        };
        let parameters = conversation.parameters.as_ref().context("a startup message")?;
        let key = TimelineKey {
            tenant_id: parameters.tenant_id.context("a tenant id")?,
            timeline_id: parameters.timeline_id.context("a timeline id")?,
        };
        let allow_creation = !query.contains("allow_timeline_creation 'false'");
        let mut session = Session {
            name,
            key,
            version,
            allow_creation,
            greeted: false,
            said: VecDeque::new(),
            last: None,
        };
        for (index, message) in conversation.messages.iter().enumerate() {
            let rest = &conversation.messages[index + 1..];
            match (message.sender, message.tag) {
                (Sender::Client, b'd') => {
                    while recorded_term(rest, version) > self.term(key) {
                        let Some((name, other)) = later.pop_front() else { break };
                        self.connection(&name, &other, later).with_context(|| name.clone())?;
                    }
                    if let Err(error) = self.client_message(&mut session, message) {
                        let error = error.downcast::<AcceptorError>()?;
                        self.refusals.push((name.to_string(), error));
                        return ends_here(rest);
                    }
                }
                (Sender::Server, b'd') => {
                    session.recorded(message)?;
                    self.answers += 1;
                }
                // A proposer that gives up is answered by the node.
                (Sender::Client, b'f') => break,
                (Sender::Server, b'E') => bail!("recorded as refused, but ours took it"),
                _ => {}
            }
        }
        session.no_answer_is_left()
    }

    fn term(&self, key: TimelineKey) -> u64 {
        self.acceptors.get(&key).map_or(0, |acceptor| acceptor.term().0)
    }

    /// Feeds one message and keeps what ours says to it.
    fn client_message(&mut self, session: &mut Session<'_>, message: &Message) -> Result<()> {
        let message =
            ProposerMessage::decode(session.version, &message.payload).map_err(|error| {
                anyhow::anyhow!(AcceptorError::Unknown { key: session.key }).context(error)
            })?;
        if let (ProposerMessage::Greeting(greeting), false) =
            (&message, self.acceptors.contains_key(&session.key))
        {
            let create = create_on_push(session.key, greeting, session.allow_creation)?;
            let state = TimelineState::create(&create);
            self.acceptors.insert(session.key, Acceptor::new(session.key, self.id, state));
        }
        // A node looks a timeline up when it is greeted: whoever does not greet first is refused.
        session.greeted |= matches!(message, ProposerMessage::Greeting(_));
        let acceptor = self.acceptors.get_mut(&session.key).filter(|_| session.greeted);
        let acceptor = acceptor.ok_or(AcceptorError::Unknown { key: session.key })?;
        let step = acceptor.handle(&message)?;
        if let Some(mark) = step.mark {
            acceptor.durable(mark);
        }
        session.said.extend(match step.reply {
            Reply::None => None,
            Reply::Message { message, .. } => Some(message),
            Reply::AppendResponse { .. } => {
                let response = acceptor.append_response().context("everything is durable")?;
                Some(AcceptorMessage::AppendResponse(response))
            }
        });
        Ok(())
    }
}

/// One connection under replay.
struct Session<'a> {
    name: &'a str,
    key: TimelineKey,
    version: ProtocolVersion,
    allow_creation: bool,
    greeted: bool,
    /// What ours said and the recording has not yet.
    said: VecDeque<AcceptorMessage>,
    /// The last of ours that the recording has said: it may be repeated with news from a page server.
    last: Option<AcceptorMessage>,
}

impl Session<'_> {
    /// Finds a recorded answer among ours.
    fn recorded(&mut self, message: &Message) -> Result<()> {
        let recorded = AcceptorMessage::decode(self.version, &message.payload)?;
        let is_append =
            |message: &AcceptorMessage| matches!(message, AcceptorMessage::AppendResponse(_));
        // Nothing but answers to appends may be merged into a later one.
        let merged = self.said.iter().take_while(|ours| is_append(ours)).count();
        let candidates = self.said.iter().take(merged + usize::from(!is_append(&recorded)));
        let found = candidates.clone().position(|ours| self.same(ours, &recorded));
        match found {
            Some(index) => self.last = self.said.drain(..=index).next_back(),
            None => {
                let repeated = self.last.as_ref().filter(|_| is_append(&recorded));
                ensure!(
                    repeated.is_some_and(|ours| self.same(ours, &recorded)),
                    "recorded {recorded:?}, ours: {:?}, then {:?}",
                    self.last,
                    self.said
                );
            }
        }
        Ok(())
    }

    fn same(&self, ours: &AcceptorMessage, recorded: &AcceptorMessage) -> bool {
        match (ours, recorded) {
            (AcceptorMessage::AppendResponse(ours), AcceptorMessage::AppendResponse(recorded)) => {
                self.agrees(ours, recorded)
            }
            (ours, recorded) => ours == recorded,
        }
    }

    fn agrees(&self, ours: &AppendResponse, recorded: &AppendResponse) -> bool {
        let same = ours.generation == recorded.generation
            && ours.term == recorded.term
            && ours.hot_standby == recorded.hot_standby;
        let stale = ours.flush_lsn == Lsn(0) && self.name == "005-compute-sk1";
        let flush = ours.flush_lsn == recorded.flush_lsn || stale;
        let commit = (recorded.commit_lsn..=ours.flush_lsn).contains(&ours.commit_lsn) || stale;
        same && flush && commit
    }

    /// Ours may not have said more than the recorded acceptor, but for appends that came after its last word.
    fn no_answer_is_left(&self) -> Result<()> {
        let flush = |message: &AcceptorMessage| match message {
            AcceptorMessage::AppendResponse(response) => Some(response.flush_lsn),
            _ => None,
        };
        let last = self.last.as_ref().and_then(flush);
        for message in &self.said {
            ensure!(last.is_some() && flush(message) == last, "never recorded: {message:?}");
        }
        Ok(())
    }
}

/// The term of the next recorded answer to an append, if that is the next answer.
fn recorded_term(rest: &[Message], version: ProtocolVersion) -> u64 {
    let next = rest.iter().find(|message| message.sender == Sender::Server);
    let decoded = next.and_then(|message| AcceptorMessage::decode(version, &message.payload).ok());
    match decoded {
        Some(AcceptorMessage::AppendResponse(response)) => response.term.0,
        _ => 0,
    }
}

/// Where ours refuses a message the recorded acceptor sent nothing more but its error.
fn ends_here(rest: &[Message]) -> Result<()> {
    let said = rest.iter().find(|message| message.sender == Sender::Server && message.tag != b'E');
    match said {
        None => Ok(()),
        Some(message) if message.payload.first() == Some(&b'g') => Ok(()),
        Some(message) => bail!("ours refused, but the recorded acceptor said {message:?}"),
    }
}

fn compute_connections(scenario_name: &str) -> Result<VecDeque<(String, Conversation)>> {
    let mut connections = VecDeque::new();
    for (name, recording) in scenario(scenario_name)? {
        if name.contains("compute-sk") {
            connections.push_back((name, recording.conversation()?));
        }
    }
    Ok(connections)
}

fn replay_life(scenarios: [&str; 5]) -> Result<()> {
    let mut node = Node::default();
    for name in scenarios {
        if name.contains("safekeeper-restart") {
            node.restart();
        }
        node.replay(&mut compute_connections(name)?).with_context(|| name.to_string())?;
    }
    ensure!(node.refusals.is_empty(), "{:?}", node.refusals);
    ensure!(node.answers > 100, "only {} answers", node.answers);
    let acceptor = node.acceptors.values().next().context("a timeline")?;
    ensure!(acceptor.flush_lsn() == Lsn(0x163C6E0), "flush LSN {}", acceptor.flush_lsn());
    ensure!(acceptor.term().0 == 7, "term {}", acceptor.term());
    Ok(())
}

#[test]
fn the_life_of_a_compute_in_version_3() -> Result<()> {
    replay_life([
        "a1-first-start",
        "a2-walproposer-restart",
        "a3-safekeeper-restart",
        "a4-stop-sync-restart",
        "a5-crash-sync-restart",
    ])
}

#[test]
fn the_life_of_a_compute_in_version_2() -> Result<()> {
    replay_life([
        "b1-first-start",
        "b2-walproposer-restart",
        "b3-safekeeper-restart",
        "b4-stop-sync-restart",
        "b5-crash-sync-restart",
    ])
}

/// One of three acceptors: it is killed, comes back, is stopped, gets WAL that no one else gets, and has to cut it off.
#[test]
fn the_life_of_an_acceptor_among_three() -> Result<()> {
    let mut node = Node { id: NodeId(3), ..Node::default() };
    let third = |name: &str, node: &mut Node| -> Result<()> {
        let mut connections = compute_connections(name)?;
        connections.retain(|(name, _)| name.ends_with("sk3"));
        node.replay(&mut connections).with_context(|| name.to_string())
    };
    third("c1-first-start", &mut node)?;
    node.restart();
    third("c2-sk3-down-and-back", &mut node)?;
    node.stop_and_start();
    third("c3-new-compute-then-sk3-back", &mut node)?;
    let acceptor = node.acceptors.values().next().context("a timeline")?;
    ensure!(acceptor.flush_lsn() == Lsn(0x15F23C8), "the lonely tail: {}", acceptor.flush_lsn());
    node.restart();
    third("c4-divergence", &mut node)?;
    ensure!(node.refusals.is_empty(), "{:?}", node.refusals);
    let acceptor = node.acceptors.values().next().context("a timeline")?;
    let cut = acceptor.state().term_history.0.last().context("a term")?;
    ensure!(cut.lsn == Lsn(0x15E9170), "term {} begins at {}", cut.term, cut.lsn);
    Ok(())
}

#[test]
fn errors_of_proposers() -> Result<()> {
    let mut node = Node::default();
    node.replay(&mut compute_connections("e5-acceptor-errors")?)?;
    let refused: Vec<(&str, String)> =
        node.refusals.iter().map(|(name, error)| (&name[..3], format!("{error:?}"))).collect();
    let expected = [
        ("001", "StartPosition"),
        // Recorded: `WalAcceptor task panicked`.
        ("002", "CutsCommitted"),
        ("003", "Gap"),
        ("004", "Rewrite"),
        ("007", "NotElected"),
        ("008", "Unknown"),
        ("009", "PostgresVersion"),
        // Recorded: taken over, with a warning.
        ("011", "SystemId"),
        ("012", "SegmentSize"),
        ("013", "Key"),
        ("014", "Generation"),
        ("015", "Unknown"),
        ("020", "Unknown"),
        ("023", "History(Empty"),
        ("024", "StartPosition"),
    ];
    let agrees = refused.len() == expected.len()
        && refused.iter().zip(expected).all(|((name, error), (expected_name, expected_error))| {
            *name == expected_name && error.starts_with(expected_error)
        });
    ensure!(agrees, "refused: {refused:#?}");
    Ok(())
}
