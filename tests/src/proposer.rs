//! A proposer made by hand over a real socket, protocol 3, and real WAL for it.

use anyhow::{Context, Result, ensure};
use firn_core::consensus::membership::Membership;
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::{Generation, Lsn, PostgresVersion, SystemId, Term, TimelineKey};
use firn_core::wire::postgres::message::Encode;
use firn_core::wire::postgres::startup::encode_startup;
use firn_core::wire::walproposer::{
    APPEND_BYTES_MAX, AppendRequest, ProposerElected, ProposerGreeting, ProposerMessage,
    ProtocolVersion, VoteRequest,
};

use crate::recordings::scenario;
use crate::replay::{Answer, Connection, recorded_answers};

/// Where the recorded timeline begins.
pub const RECORDED_START: Lsn = Lsn(0x14E_C3C8);
/// What of it was committed when its readers were recorded.
pub const RECORDED_COMMIT: Lsn = Lsn(0x173_BC10);

/// WAL of a real Postgres 17 from [`RECORDED_START`] on, 2.6 MB, as readers were sent it. Ends at a record's end.
pub fn recorded_wal() -> Result<(Lsn, Vec<u8>)> {
    let readers = scenario("e2-start-replication")?;
    let wal_of = |number: &str| -> Result<(Lsn, Vec<u8>)> {
        let found = readers.iter().find(|(name, _)| name.starts_with(number));
        let recording = &found.with_context(|| format!("no connection {number}"))?.1;
        let answers = recorded_answers(recording, ProtocolVersion::V3)?;
        let wal = answers.into_iter().find_map(|answer| match answer {
            Answer::Wal { start, bytes } => Some((start, bytes)),
            _ => None,
        });
        wal.context("the recorded reader got WAL")
    };
    let (start, mut wal) = wal_of("004")?;
    ensure!(start == RECORDED_START && start + wal.len() as u64 == RECORDED_COMMIT);
    let (tail_start, tail) = wal_of("008")?;
    wal.extend_from_slice(&tail[(RECORDED_COMMIT - tail_start) as usize..]);
    Ok((start, wal))
}

/// A connection to one acceptor.
pub struct HandmadeProposer {
    key: TimelineKey,
    generation: Generation,
    term: Term,
    /// The connection, for what has no method here.
    pub connection: Connection,
}

impl HandmadeProposer {
    /// Connects; an unknown timeline is made if the generation is 0.
    pub fn connect(
        address: &str,
        key: TimelineKey,
        generation: Generation,
    ) -> Result<HandmadeProposer> {
        let mut connection = Connection::open(address)?;
        let options = format!("-c timeline_id={} tenant_id={}", key.timeline_id, key.tenant_id);
        connection.send(&encode_startup(&[("user", "postgres"), ("options", &options)]))?;
        let mut query = Vec::new();
        query.query("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')");
        connection.send(&query)?;
        Ok(HandmadeProposer { key, generation, term: Term(0), connection })
    }

    /// Sends a message.
    pub fn send(&mut self, message: &ProposerMessage<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        bytes.message(b'd', |out| message.encode(ProtocolVersion::V3, out));
        self.connection.send(&bytes)
    }

    /// Says who we are.
    pub fn greet(&mut self, system_id: SystemId) -> Result<()> {
        let greeting = ProposerMessage::Greeting(ProposerGreeting {
            key: self.key,
            membership: Membership::default(),
            postgres_version: PostgresVersion(170_008),
            system_id,
            segment_size_bytes: 16 << 20,
        });
        self.send(&greeting)?;
        self.wait(|answer| matches!(answer, Answer::Greeting { .. }))
    }

    /// Asks for a vote.
    pub fn vote(&mut self, term: Term) -> Result<()> {
        self.term = term;
        let generation = self.generation;
        self.send(&ProposerMessage::VoteRequest(VoteRequest { generation, term }))?;
        self.wait(|answer| matches!(answer, Answer::Vote(_)))
    }

    /// Tells that we were elected.
    pub fn elected(&mut self, history: &[(Term, Lsn)], start_streaming_at: Lsn) -> Result<()> {
        let history = history.iter().map(|(term, lsn)| TermStart { term: *term, lsn: *lsn });
        self.send(&ProposerMessage::Elected(ProposerElected {
            generation: self.generation,
            term: self.term,
            start_streaming_at,
            term_history: TermHistory(history.collect()),
        }))
    }

    /// Sends WAL of any length. Returns where it ends.
    pub fn append_all(&mut self, begin: Lsn, wal: &[u8]) -> Result<Lsn> {
        let mut position = begin;
        for chunk in wal.chunks(APPEND_BYTES_MAX) {
            self.append(position, chunk, Lsn::INVALID)?;
            position = position + chunk.len() as u64;
        }
        Ok(position)
    }

    /// Sends one append.
    pub fn append(&mut self, begin_lsn: Lsn, wal: &[u8], commit_lsn: Lsn) -> Result<()> {
        self.send(&ProposerMessage::Append(AppendRequest {
            generation: self.generation,
            term: self.term,
            begin_lsn,
            commit_lsn,
            truncate_lsn: Lsn::INVALID,
            wal,
        }))
    }

    /// Waits until the acceptor says that it has everything up to `lsn` on disk.
    pub fn wait_flushed(&mut self, lsn: Lsn) -> Result<()> {
        self.wait(
            |answer| matches!(answer, Answer::Appended { flush_lsn, .. } if *flush_lsn >= lsn),
        )
    }

    fn wait(&mut self, wanted: impl Fn(&Answer) -> bool) -> Result<()> {
        let is_last = |answers: &[Answer]| answers.last().is_some_and(&wanted);
        self.connection.wait_until(ProtocolVersion::V3, is_last)?;
        let why = crate::replay::error_text(&self.connection.received);
        ensure!(!self.connection.closed, "the node closed: {why:?}");
        Ok(())
    }
}
