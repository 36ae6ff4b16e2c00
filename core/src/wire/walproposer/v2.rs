//! Version 2: little-endian, eight-byte tags, C structs of which some fields mean nothing any more (written as 0).

use crate::consensus::term_history::TermHistory;
use crate::types::{
    Generation, Id, Lsn, NodeId, PostgresVersion, SystemId, TenantId, Term, TimelineId, TimelineKey,
};
use crate::wire::WireError;
use crate::wire::bytes::{Put, Reader};
use crate::wire::walproposer::feedback::{HotStandbyFeedback, PageserverFeedback};
use crate::wire::walproposer::messages::*;
use crate::wire::walproposer::{append_wal, decode_history, no_membership};

/// The generation that version 2, which has none, counts as.
const GENERATION: Generation = Generation(0);
const PROPOSER_UUID_BYTES: usize = 16;
const GREETING: u64 = b'g' as u64;
const VOTE: u64 = b'v' as u64;
const ELECTED: u64 = b'e' as u64;
const APPEND: u64 = b'a' as u64;

pub(super) fn decode_proposer(bytes: &[u8]) -> Result<ProposerMessage<'_>, WireError> {
    let mut reader = Reader::new("proposer message", bytes);
    Ok(match reader.u64_le()? {
        GREETING => ProposerMessage::Greeting(proposer_greeting(&mut reader)?),
        VOTE => {
            reader.rename("VoteRequest");
            let term = Term(reader.u64_le()?);
            ProposerMessage::VoteRequest(VoteRequest { generation: GENERATION, term })
        }
        ELECTED => {
            reader.rename("ProposerElected");
            let term = Term(reader.u64_le()?);
            let start_streaming_at = reader.lsn_le()?;
            let term_history = history(&mut reader)?;
            let _timeline_start_lsn = reader.u64_le()?;
            let generation = GENERATION;
            ProposerMessage::Elected(ProposerElected {
                generation,
                term,
                start_streaming_at,
                term_history,
            })
        }
        APPEND => {
            reader.rename("AppendRequest");
            let term = Term(reader.u64_le()?);
            let _epoch_start_lsn = reader.u64_le()?;
            let (begin_lsn, end_lsn) = (reader.lsn_le()?, reader.lsn_le()?);
            let (commit_lsn, truncate_lsn) = (reader.lsn_le()?, reader.lsn_le()?);
            reader.take(PROPOSER_UUID_BYTES)?;
            let wal = append_wal(&mut reader, begin_lsn, end_lsn)?;
            let generation = GENERATION;
            ProposerMessage::Append(AppendRequest {
                generation,
                term,
                begin_lsn,
                commit_lsn,
                truncate_lsn,
                wal,
            })
        }
        found => return Err(WireError::UnknownTag { message: "proposer message", found }),
    })
}

pub(super) fn encode_proposer(message: &ProposerMessage<'_>, out: &mut Vec<u8>) {
    match message {
        ProposerMessage::Greeting(greeting) => {
            const PROTOCOL: u32 = 2;
            const POSTGRES_TIMELINE: u32 = 1;
            out.put_u64_le(GREETING);
            out.put_u32_le(PROTOCOL);
            out.put_u32_le(greeting.postgres_version.0);
            out.put(&[0; PROPOSER_UUID_BYTES]);
            out.put_u64_le(greeting.system_id.0);
            out.put(&greeting.key.timeline_id.0.0);
            out.put(&greeting.key.tenant_id.0.0);
            out.put_u32_le(POSTGRES_TIMELINE);
            out.put_u32_le(greeting.segment_size_bytes);
        }
        ProposerMessage::VoteRequest(request) => {
            out.put_u64_le(VOTE);
            out.put_u64_le(request.term.0);
            out.put(&[0; PROPOSER_UUID_BYTES]);
        }
        ProposerMessage::Elected(elected) => {
            let timeline_start_lsn = elected.term_history.0.first().map_or(Lsn::INVALID, |s| s.lsn);
            out.put_u64_le(ELECTED);
            out.put_u64_le(elected.term.0);
            out.put_u64_le(elected.start_streaming_at.0);
            put_history(&elected.term_history, out);
            out.put_u64_le(timeline_start_lsn.0);
        }
        ProposerMessage::Append(request) => {
            encode_append_header(request, out);
            out.put(request.wal);
        }
    }
}

pub(super) fn encode_append_header(request: &AppendRequest<'_>, out: &mut Vec<u8>) {
    const EPOCH_START_LSN: u64 = 0;
    out.put_u64_le(APPEND);
    out.put_u64_le(request.term.0);
    out.put_u64_le(EPOCH_START_LSN);
    for lsn in [request.begin_lsn, request.end_lsn(), request.commit_lsn, request.truncate_lsn] {
        out.put_u64_le(lsn.0);
    }
    out.put(&[0; PROPOSER_UUID_BYTES]);
}

pub(super) fn decode_acceptor(bytes: &[u8]) -> Result<AcceptorMessage, WireError> {
    let mut reader = Reader::new("acceptor message", bytes);
    let message = match reader.u64_le()? {
        GREETING => {
            reader.rename("AcceptorGreeting");
            let term = Term(reader.u64_le()?);
            let node_id = NodeId(reader.u64_le()?);
            AcceptorMessage::Greeting(AcceptorGreeting {
                node_id,
                membership: no_membership(),
                term,
            })
        }
        VOTE => {
            reader.rename("VoteResponse");
            let response = VoteResponse {
                generation: GENERATION,
                term: Term(reader.u64_le()?),
                vote_given: match reader.u64_le()? {
                    0 => false,
                    1 => true,
                    other => return Err(reader.out_of_range("vote_given", "0 or 1", other)),
                },
                flush_lsn: reader.lsn_le()?,
                truncate_lsn: reader.lsn_le()?,
                term_history: history(&mut reader)?,
            };
            let _timeline_start_lsn = reader.u64_le()?;
            AcceptorMessage::VoteResponse(response)
        }
        APPEND => {
            reader.rename("AppendResponse");
            AcceptorMessage::AppendResponse(AppendResponse {
                generation: GENERATION,
                term: Term(reader.u64_le()?),
                flush_lsn: reader.lsn_le()?,
                commit_lsn: reader.lsn_le()?,
                hot_standby: HotStandbyFeedback {
                    timestamp_us: reader.i64_le()?,
                    xmin: reader.u64_le()?,
                    catalog_xmin: reader.u64_le()?,
                },
                pageserver: match reader.left() {
                    0 => None,
                    _ => Some(PageserverFeedback::read(&mut reader)?),
                },
            })
        }
        found => return Err(WireError::UnknownTag { message: "acceptor message", found }),
    };
    reader.finish()?;
    Ok(message)
}

pub(super) fn encode_acceptor(message: &AcceptorMessage, out: &mut Vec<u8>) {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            out.put_u64_le(GREETING);
            out.put_u64_le(greeting.term.0);
            out.put_u64_le(greeting.node_id.0);
        }
        AcceptorMessage::VoteResponse(response) => {
            const TIMELINE_START_LSN: u64 = 0;
            out.put_u64_le(VOTE);
            out.put_u64_le(response.term.0);
            out.put_u64_le(response.vote_given.into());
            out.put_u64_le(response.flush_lsn.0);
            out.put_u64_le(response.truncate_lsn.0);
            put_history(&response.term_history, out);
            out.put_u64_le(TIMELINE_START_LSN);
        }
        AcceptorMessage::AppendResponse(response) => {
            out.put_u64_le(APPEND);
            out.put_u64_le(response.term.0);
            out.put_u64_le(response.flush_lsn.0);
            out.put_u64_le(response.commit_lsn.0);
            out.put(&response.hot_standby.timestamp_us.to_le_bytes());
            out.put_u64_le(response.hot_standby.xmin);
            out.put_u64_le(response.hot_standby.catalog_xmin);
            if let Some(feedback) = &response.pageserver {
                feedback.encode(out);
            }
        }
    }
}

fn proposer_greeting(reader: &mut Reader<'_>) -> Result<ProposerGreeting, WireError> {
    reader.rename("ProposerGreeting");
    let _protocol_version = reader.u32_le()?;
    let postgres_version = PostgresVersion(reader.u32_le()?);
    reader.take(PROPOSER_UUID_BYTES)?;
    let system_id = SystemId(reader.u64_le()?);
    let timeline_id = TimelineId(Id(reader.array()?));
    let tenant_id = TenantId(Id(reader.array()?));
    let _postgres_timeline = reader.u32_le()?;
    let segment_size_bytes = reader.u32_le()?;
    Ok(ProposerGreeting {
        key: TimelineKey { tenant_id, timeline_id },
        membership: no_membership(),
        postgres_version,
        system_id,
        segment_size_bytes,
    })
}

fn history(reader: &mut Reader<'_>) -> Result<TermHistory, WireError> {
    let count = reader.u32_le()?;
    decode_history(reader, count, |reader| reader.u64_le())
}

fn put_history(history: &TermHistory, out: &mut Vec<u8>) {
    out.put_u32_le(history.0.len() as u32);
    for start in &history.0 {
        out.put_u64_le(start.term.0);
        out.put_u64_le(start.lsn.0);
    }
}
