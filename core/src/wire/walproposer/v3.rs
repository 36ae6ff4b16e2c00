//! Version 3: big-endian, one-byte tags, a membership in greetings and a generation in everything else.

use crate::consensus::membership::{MEMBERS_MAX, Member, Membership};
use crate::consensus::term_history::TermHistory;
use crate::types::{Generation, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use crate::wire::WireError;
use crate::wire::bytes::{Put, Reader};
use crate::wire::walproposer::feedback::{HotStandbyFeedback, PageserverFeedback};
use crate::wire::walproposer::messages::*;
use crate::wire::walproposer::{append_wal, decode_history};

pub(super) fn decode_proposer(bytes: &[u8]) -> Result<ProposerMessage<'_>, WireError> {
    let mut reader = Reader::new("proposer message", bytes);
    Ok(match reader.u8()? {
        b'g' => ProposerMessage::Greeting(proposer_greeting(&mut reader)?),
        b'v' => {
            reader.rename("VoteRequest");
            let generation = Generation(reader.u32_be()?);
            ProposerMessage::VoteRequest(VoteRequest { generation, term: Term(reader.u64_be()?) })
        }
        b'e' => {
            reader.rename("ProposerElected");
            ProposerMessage::Elected(ProposerElected {
                generation: Generation(reader.u32_be()?),
                term: Term(reader.u64_be()?),
                start_streaming_at: reader.lsn_be()?,
                term_history: history(&mut reader)?,
            })
        }
        b'a' => {
            reader.rename("AppendRequest");
            let generation = Generation(reader.u32_be()?);
            let term = Term(reader.u64_be()?);
            let (begin_lsn, end_lsn) = (reader.lsn_be()?, reader.lsn_be()?);
            let (commit_lsn, truncate_lsn) = (reader.lsn_be()?, reader.lsn_be()?);
            let wal = append_wal(&mut reader, begin_lsn, end_lsn)?;
            ProposerMessage::Append(AppendRequest {
                generation,
                term,
                begin_lsn,
                commit_lsn,
                truncate_lsn,
                wal,
            })
        }
        tag => return Err(unknown_tag("proposer message", tag)),
    })
}

pub(super) fn encode_proposer(message: &ProposerMessage<'_>, out: &mut Vec<u8>) {
    match message {
        ProposerMessage::Greeting(greeting) => {
            out.put(b"g");
            out.put_text(&greeting.key.tenant_id.to_string());
            out.put_text(&greeting.key.timeline_id.to_string());
            put_membership(&greeting.membership, out);
            out.put_u32_be(greeting.postgres_version.0);
            out.put_u64_be(greeting.system_id.0);
            out.put_u32_be(greeting.segment_size_bytes);
        }
        ProposerMessage::VoteRequest(request) => {
            put_head(b'v', request.generation, request.term, out)
        }
        ProposerMessage::Elected(elected) => {
            put_head(b'e', elected.generation, elected.term, out);
            out.put_u64_be(elected.start_streaming_at.0);
            put_history(&elected.term_history, out);
        }
        ProposerMessage::Append(request) => {
            encode_append_header(request, out);
            out.put(request.wal);
        }
    }
}

pub(super) fn encode_append_header(request: &AppendRequest<'_>, out: &mut Vec<u8>) {
    put_head(b'a', request.generation, request.term, out);
    for lsn in [request.begin_lsn, request.end_lsn(), request.commit_lsn, request.truncate_lsn] {
        out.put_u64_be(lsn.0);
    }
}

pub(super) fn decode_acceptor(bytes: &[u8]) -> Result<AcceptorMessage, WireError> {
    let mut reader = Reader::new("acceptor message", bytes);
    let message = match reader.u8()? {
        b'g' => {
            reader.rename("AcceptorGreeting");
            AcceptorMessage::Greeting(AcceptorGreeting {
                node_id: NodeId(reader.u64_be()?),
                membership: membership(&mut reader)?,
                term: Term(reader.u64_be()?),
            })
        }
        b'v' => {
            reader.rename("VoteResponse");
            AcceptorMessage::VoteResponse(VoteResponse {
                generation: Generation(reader.u32_be()?),
                term: Term(reader.u64_be()?),
                vote_given: match reader.u8()? {
                    0 => false,
                    1 => true,
                    other => return Err(reader.out_of_range("vote_given", "0 or 1", other.into())),
                },
                flush_lsn: reader.lsn_be()?,
                truncate_lsn: reader.lsn_be()?,
                term_history: history(&mut reader)?,
            })
        }
        b'a' => {
            reader.rename("AppendResponse");
            AcceptorMessage::AppendResponse(AppendResponse {
                generation: Generation(reader.u32_be()?),
                term: Term(reader.u64_be()?),
                flush_lsn: reader.lsn_be()?,
                commit_lsn: reader.lsn_be()?,
                hot_standby: HotStandbyFeedback {
                    timestamp_us: reader.i64_be()?,
                    xmin: reader.u64_be()?,
                    catalog_xmin: reader.u64_be()?,
                },
                pageserver: match reader.left() {
                    0 => None,
                    _ => Some(PageserverFeedback::read(&mut reader)?),
                },
            })
        }
        tag => return Err(unknown_tag("acceptor message", tag)),
    };
    reader.finish()?;
    Ok(message)
}

pub(super) fn encode_acceptor(message: &AcceptorMessage, out: &mut Vec<u8>) {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            out.put(b"g");
            out.put_u64_be(greeting.node_id.0);
            put_membership(&greeting.membership, out);
            out.put_u64_be(greeting.term.0);
        }
        AcceptorMessage::VoteResponse(response) => {
            put_head(b'v', response.generation, response.term, out);
            out.put(&[u8::from(response.vote_given)]);
            out.put_u64_be(response.flush_lsn.0);
            out.put_u64_be(response.truncate_lsn.0);
            put_history(&response.term_history, out);
        }
        AcceptorMessage::AppendResponse(response) => {
            put_head(b'a', response.generation, response.term, out);
            out.put_u64_be(response.flush_lsn.0);
            out.put_u64_be(response.commit_lsn.0);
            out.put(&response.hot_standby.timestamp_us.to_be_bytes());
            out.put_u64_be(response.hot_standby.xmin);
            out.put_u64_be(response.hot_standby.catalog_xmin);
            if let Some(feedback) = &response.pageserver {
                feedback.encode(out);
            }
        }
    }
}

fn unknown_tag(message: &'static str, tag: u8) -> WireError {
    WireError::UnknownTag { message, found: tag.into() }
}

fn proposer_greeting(reader: &mut Reader<'_>) -> Result<ProposerGreeting, WireError> {
    reader.rename("ProposerGreeting");
    Ok(ProposerGreeting {
        key: TimelineKey {
            tenant_id: id(reader, "tenant id")?,
            timeline_id: id(reader, "timeline id")?,
        },
        membership: membership(reader)?,
        postgres_version: PostgresVersion(reader.u32_be()?),
        system_id: SystemId(reader.u64_be()?),
        segment_size_bytes: reader.u32_be()?,
    })
}

fn id<T: std::str::FromStr>(reader: &mut Reader<'_>, field: &'static str) -> Result<T, WireError> {
    let text = reader.text(field)?;
    text.parse().map_err(|_| reader.bad_text(field, "32 hex digits", text.as_bytes()))
}

fn membership(reader: &mut Reader<'_>) -> Result<Membership, WireError> {
    let generation = Generation(reader.u32_be()?);
    let members = members(reader)?;
    let new_members = self::members(reader)?;
    let new_members = if new_members.is_empty() { None } else { Some(new_members) };
    let membership = Membership { generation, members, new_members };
    membership.validate().map_err(|error| reader.invalid(error))?;
    Ok(membership)
}

fn members(reader: &mut Reader<'_>) -> Result<Vec<Member>, WireError> {
    let count = reader.u32_be()?;
    if count as usize > MEMBERS_MAX {
        return Err(reader.out_of_range("number of members", "at most 32", count.into()));
    }
    let mut members = Vec::with_capacity(count as usize);
    for _ in 0..count {
        members.push(Member {
            id: NodeId(reader.u64_be()?),
            host: reader.text("member host")?.to_string(),
            pg_port: reader.u16_be()?,
        });
    }
    Ok(members)
}

fn put_membership(membership: &Membership, out: &mut Vec<u8>) {
    out.put_u32_be(membership.generation.0);
    for list in [membership.members.as_slice(), membership.new_members.as_deref().unwrap_or(&[])] {
        out.put_u32_be(list.len() as u32);
        for member in list {
            out.put_u64_be(member.id.0);
            out.put_text(&member.host);
            out.put_u16_be(member.pg_port);
        }
    }
}

fn history(reader: &mut Reader<'_>) -> Result<TermHistory, WireError> {
    let count = reader.u32_be()?;
    decode_history(reader, count, |reader| reader.u64_be())
}

fn put_history(history: &TermHistory, out: &mut Vec<u8>) {
    out.put_u32_be(history.0.len() as u32);
    for start in &history.0 {
        out.put_u64_be(start.term.0);
        out.put_u64_be(start.lsn.0);
    }
}

fn put_head(tag: u8, generation: Generation, term: Term, out: &mut Vec<u8>) {
    out.put(&[tag]);
    out.put_u32_be(generation.0);
    out.put_u64_be(term.0);
}
