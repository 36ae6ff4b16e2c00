//! A proposer's connection: greeting, votes, elections and WAL in; answers out when the journal has what they rest on.
//!
//! Two halves of one task. The receiving half steps the acceptor and never waits for the device but by the journal's
//! own bounds; the answering half waits for the journal and sends. Whatever ends the connection, answers before it are
//! given and the acceptor learns what became durable.

use std::rc::Rc;

use firn_core::consensus::acceptor::{Reply, create_on_push};
use firn_core::types::TimelineKey;
use firn_core::wire::postgres::message::{Encode, Frontend};
use firn_core::wire::walproposer::{
    AcceptorMessage, PageserverFeedback, ProposerGreeting, ProposerMessage, ProtocolVersion,
};
use futures_util::FutureExt;
use futures_util::future::join;

use crate::journal::JournalError;
use crate::runtime::{MonotonicTime, Stream};
use crate::shard::Shard;
use crate::shard::timeline::{ProposerEntry, Timeline};
use crate::wal_service::connections::Place;
use crate::wal_service::receive::{ReceiveError, Received};
use crate::wal_service::reply_queue::{End, ReplyQueue, Waiting};
use crate::wal_service::session::{INTERNAL_ERROR, SUCCESSFUL, Session, SessionError};

/// Serves a proposer until either side ends the connection.
pub async fn serve(
    session: Session,
    key: TimelineKey,
    version_number: u32,
    allow_timeline_creation: bool,
) -> Result<(), SessionError> {
    let mut answer = Vec::new();
    answer.copy_both();
    session.send(answer).await?;
    let Session { shard, stream, received, place, .. } = session;
    let mut proposer = Receiving { shard: &shard, stream: &stream, received, place: &place };
    let greeted = proposer.greeting(key, version_number, allow_timeline_creation).await;
    let (version, timeline, greeting) = match greeted {
        Ok(greeted) => greeted,
        Err(end) => return finish(&shard, &stream, end).await,
    };

    let queue = Rc::new(ReplyQueue::default());
    let entry = timeline.enter_proposer(place.id(), queue.clone());
    let receiving = async {
        let first = ProposerMessage::Greeting(greeting);
        let end = match proposer.handle(&timeline, &entry, &queue, &first).await {
            Ok(()) => proposer.run(&timeline, &entry, &queue, version).await,
            Err(end) => end,
        };
        queue.finish(end);
    };
    let answering = answer_all(&shard, &stream, &timeline, &queue, version);
    let ((), end) = join(receiving, answering).await;
    drop(entry);
    if let Err(error) = timeline.checkpoint().await {
        tracing::warn!(%error, "positions were not made durable at the end of a proposer's connection");
    }
    finish(&shard, &stream, end).await
}

async fn finish(shard: &Shard, stream: &Stream, end: End) -> Result<(), SessionError> {
    let mut last = Vec::new();
    match end {
        End::Gone => return Ok(()),
        End::Done => last.copy_done(),
        End::CopyFail => last.error_response(SUCCESSFUL, "received CopyFail"),
        End::Failed(text) => {
            shard.metrics().counters.protocol_errors.increment();
            tracing::warn!(reason = text, "proposer refused");
            last.error_response(INTERNAL_ERROR, &text);
        }
    }
    stream.send_all(last).await.0.map_err(SessionError::Send)
}

struct Receiving<'a> {
    shard: &'a Shard,
    stream: &'a Stream,
    received: Received,
    place: &'a Place,
}

impl Receiving<'_> {
    /// Takes the first message and finds or makes the timeline.
    async fn greeting(
        &mut self,
        key: TimelineKey,
        version_number: u32,
        allow_timeline_creation: bool,
    ) -> Result<(ProtocolVersion, Rc<Timeline>, ProposerGreeting), End> {
        while !self.received.has_message().map_err(failed)? {
            self.fill().await?;
        }
        let version = ProtocolVersion::from_number(version_number)
            .ok_or_else(|| failed(format!("unsupported protocol version {version_number}")))?;
        let message = self.received.next_message().map_err(failed)?;
        let message = message.expect("a whole message was seen");
        let payload = copy_data(Frontend::from_message(message).map_err(failed)?)?;
        let message = ProposerMessage::decode(version, payload).map_err(failed)?;
        let ProposerMessage::Greeting(greeting) = message else {
            return Err(failed("expected a greeting as the first message of a proposer"));
        };
        let timeline = match self.shard.timeline(key) {
            Ok(timeline) => {
                timeline.recover().await.map_err(failed)?;
                timeline
            }
            Err(_) => {
                let create = create_on_push(key, &greeting, allow_timeline_creation);
                self.shard.create_timeline(key, &create.map_err(failed)?).map_err(failed)?
            }
        };
        Ok((version, timeline, greeting))
    }

    /// Handles messages until the connection ends.
    async fn run(
        &mut self,
        timeline: &Rc<Timeline>,
        entry: &ProposerEntry,
        queue: &ReplyQueue,
        version: ProtocolVersion,
    ) -> End {
        loop {
            match self.handle_received(timeline, entry, queue, version).await {
                Ok(()) => {}
                Err(end) => return end,
            }
            if let Err(end) = self.fill().await {
                return end;
            }
        }
    }

    async fn handle_received(
        &mut self,
        timeline: &Rc<Timeline>,
        entry: &ProposerEntry,
        queue: &ReplyQueue,
        version: ProtocolVersion,
    ) -> Result<(), End> {
        let received_at = self.shard.runtime().now();
        // The received bytes are lent to the messages, so they are taken out while these are handled.
        let mut received = std::mem::take(&mut self.received);
        let result = async {
            while let Some(message) = received.next_message().map_err(failed)? {
                let payload = copy_data(Frontend::from_message(message).map_err(failed)?)?;
                let message = ProposerMessage::decode(version, payload).map_err(failed)?;
                self.handle(timeline, entry, queue, &message).await?;
                let took = self.shard.runtime().now() - received_at;
                self.shard.metrics().receive.record(took);
            }
            Ok(())
        }
        .await;
        self.received = received;
        result
    }

    /// Steps the acceptor by one message and queues the answer.
    async fn handle(
        &self,
        timeline: &Timeline,
        entry: &ProposerEntry,
        queue: &ReplyQueue,
        message: &ProposerMessage<'_>,
    ) -> Result<(), End> {
        // A full journal takes no WAL, but goes on to take votes and positions.
        if matches!(message, ProposerMessage::Append(request) if !request.wal.is_empty()) {
            timeline.ready().await.map_err(failed)?;
        }
        let stepped = timeline.handle(message).map_err(failed)?;
        let counters = &self.shard.metrics().counters;
        match message {
            ProposerMessage::Append(request) => {
                counters.append_requests.increment();
                counters.append_bytes.add(request.wal.len() as u64);
            }
            ProposerMessage::Elected(elected) => {
                counters.elections.increment();
                entry.streams();
                tracing::info!(
                    term = %elected.term,
                    start_lsn = %elected.start_streaming_at,
                    "proposer elected"
                );
            }
            ProposerMessage::Greeting(_) | ProposerMessage::VoteRequest(_) => {}
        }
        if let Reply::Message { message: AcceptorMessage::VoteResponse(vote), .. } = &stepped.reply
        {
            let votes =
                if vote.vote_given { &counters.votes_granted } else { &counters.votes_refused };
            votes.increment();
            tracing::info!(term = %vote.term, given = vote.vote_given, "vote");
        }
        queue
            .push(Waiting { reply: stepped.reply, mark: stepped.mark, ticket: stepped.ticket })
            .await;
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), End> {
        match self.received.fill(self.stream).await {
            Ok(()) => {
                self.place.heard();
                Ok(())
            }
            Err(ReceiveError::Closed | ReceiveError::Io(_)) => Err(End::Gone),
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: impl ToString) -> End {
    End::Failed(error.to_string())
}

fn copy_data(message: Frontend<'_>) -> Result<&[u8], End> {
    match message {
        Frontend::CopyData(payload) => Ok(payload),
        Frontend::CopyDone => Err(End::Done),
        Frontend::CopyFail => Err(End::CopyFail),
        Frontend::Terminate => Err(End::Gone),
        _ => Err(failed("unexpected message from a proposer")),
    }
}

/// Gives all answers, then says how the connection ends.
async fn answer_all(
    shard: &Shard,
    stream: &Stream,
    timeline: &Timeline,
    queue: &ReplyQueue,
    version: ProtocolVersion,
) -> End {
    let mut answering = Answering { shard, timeline, version, answered_append: false };
    let mut answers = Vec::new();
    let mut gone = false;
    loop {
        if let Some(end) = queue.wait().await {
            return if gone { End::Gone } else { end };
        }
        let durable_at = match answering.gather(queue, &mut answers).await {
            Ok(durable_at) => durable_at,
            Err(error) => {
                // The receiving half may wait for messages of a proposer that waits for this answer.
                let _ = stream.shutdown(std::net::Shutdown::Read).await;
                return failed(error);
            }
        };
        if !answers.is_empty() && !gone {
            let (result, buffer) = stream.send_all(std::mem::take(&mut answers)).await;
            answers = buffer;
            if result.is_err() {
                gone = true;
                // Ends the receiving half too; what it queued is still waited for.
                let _ = stream.shutdown(std::net::Shutdown::Both).await;
            }
            if let Some(durable_at) = durable_at {
                shard.metrics().reply.record(shard.runtime().now() - durable_at);
            }
        }
        answers.clear();
    }
}

struct Answering<'a> {
    shard: &'a Shard,
    timeline: &'a Timeline,
    version: ProtocolVersion,
    /// A page server's feedback rides on an answer to an append; before the first one there is none to repeat.
    answered_append: bool,
}

impl Answering<'_> {
    /// Waits for the first answer, takes all that may be sent with it, and encodes them. Returns when the last became
    /// durable.
    async fn gather(
        &mut self,
        queue: &ReplyQueue,
        answers: &mut Vec<u8>,
    ) -> Result<Option<MonotonicTime>, JournalError> {
        let mut durable_at = None;
        let mut append_due = false;
        while let Some(rests_on) = queue.front() {
            let settled =
                self.timeline.settled(rests_on.ticket.as_ref(), rests_on.mark, rests_on.when);
            let mut settled = std::pin::pin!(settled);
            match settled.as_mut().now_or_never() {
                Some(result) => result?,
                // What may be sent already does not wait for what may not.
                None if append_due || !answers.is_empty() => break,
                None => settled.await?,
            }
            let next = queue.pop().expect("only this half takes answers");
            if next.mark.is_some() {
                durable_at = Some(self.shard.runtime().now());
            }
            match next.reply {
                Reply::None => {}
                Reply::AppendResponse { .. } => append_due = true,
                Reply::Message { mut message, .. } => {
                    self.encode_append_response(append_due, None, answers);
                    append_due = false;
                    if let AcceptorMessage::AppendResponse(response) = &mut message {
                        response.hot_standby = self.timeline.readers().standby_horizons();
                    }
                    self.encode(&message, answers);
                }
            }
        }
        let may_repeat = self.answered_append || append_due;
        let feedback = queue.take_feedback().filter(|_| may_repeat);
        self.encode_append_response(append_due || feedback.is_some(), feedback, answers);
        Ok(durable_at)
    }

    fn encode_append_response(
        &mut self,
        due: bool,
        feedback: Option<PageserverFeedback>,
        answers: &mut Vec<u8>,
    ) {
        let response = if due { self.timeline.append_response(feedback) } else { None };
        if let Some(response) = response {
            self.answered_append = true;
            self.shard.metrics().counters.append_responses.increment();
            self.encode(&AcceptorMessage::AppendResponse(response), answers);
        }
    }

    fn encode(&self, message: &AcceptorMessage, answers: &mut Vec<u8>) {
        answers.message(b'd', |out| message.encode(self.version, out));
    }
}
