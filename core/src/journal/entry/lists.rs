//! Memberships and term histories: the parts of entries and snapshots that hold lists.

use super::super::codec::{FormatError, Reader, Writer};
use super::EntryError;
use crate::consensus::membership::{Member, Membership};
use crate::consensus::postgres_history::{PostgresHistory, PostgresSwitch, SWITCHES_MAX};
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::types::{Generation, Lsn, NodeId, PostgresTimeline, Term};

/// Members that one list may have: a compute lists at most 32 acceptors.
pub const MEMBERS_MAX: usize = 32;

/// The longest host name of the DNS.
pub const HOST_BYTES_MAX: usize = 255;

const TERM_START_BYTES: usize = 16;
const SWITCH_BYTES: usize = 12;
const MEMBER_BYTES_MIN: usize = 8 + 2 + 2;

pub(super) fn check_membership(membership: &Membership) -> Result<(), EntryError> {
    let new_members = membership.new_members.as_deref().unwrap_or_default();
    for list in [&membership.members[..], new_members] {
        bound("members", list.len(), MEMBERS_MAX)?;
        for member in list {
            bound("host", member.host.len(), HOST_BYTES_MAX)?;
        }
    }
    Ok(())
}

pub(super) fn check_postgres_history(history: &PostgresHistory) -> Result<(), EntryError> {
    bound("switches", history.0.len(), SWITCHES_MAX)
}

fn bound(field: &'static str, found: usize, expected: usize) -> Result<(), EntryError> {
    if found > expected { Err(EntryError::Bound { field, expected, found }) } else { Ok(()) }
}

/// Bytes of an encoded membership.
pub fn membership_bytes(membership: &Membership) -> usize {
    let new_members = membership.new_members.as_deref();
    12 + list_bytes(&membership.members) + new_members.map_or(0, list_bytes)
}

fn list_bytes(members: &[Member]) -> usize {
    members.iter().map(|member| MEMBER_BYTES_MIN + member.host.len()).sum()
}

/// Generation, members, and members to be: one more than their count, 0 when there are none.
pub fn encode_membership(membership: &Membership, writer: &mut Writer<'_>) {
    writer.u32(membership.generation.0);
    writer.count(membership.members.len());
    writer.count(membership.new_members.as_ref().map_or(0, |members| members.len() + 1));
    for member in membership.members.iter().chain(membership.new_members.iter().flatten()) {
        writer.u64(member.id.0);
        writer.u16(member.pg_port);
        writer.text(&member.host);
    }
}

/// The reverse of [`encode_membership`].
pub fn decode_membership(reader: &mut Reader<'_>) -> Result<Membership, FormatError> {
    let generation = Generation(reader.u32()?);
    let members = reader.u32()? as usize;
    let new_members = reader.u32()? as usize;
    if members > MEMBERS_MAX || new_members > MEMBERS_MAX + 1 {
        return Err(reader.invalid("members"));
    }
    let members = decode_list(reader, members)?;
    let new_members = match new_members {
        0 => None,
        count => Some(decode_list(reader, count - 1)?),
    };
    Ok(Membership { generation, members, new_members })
}

fn decode_list(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Member>, FormatError> {
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = NodeId(reader.u64()?);
        let pg_port = reader.u16()?;
        let host = reader.text("host")?;
        if host.len() > HOST_BYTES_MAX {
            return Err(reader.invalid("host"));
        }
        members.push(Member { id, host: host.to_string(), pg_port });
    }
    Ok(members)
}

/// Bytes of an encoded term history.
pub fn history_bytes(history: &TermHistory) -> usize {
    4 + history.0.len() * TERM_START_BYTES
}

/// Count, then term and position of each.
pub fn encode_history(history: &TermHistory, writer: &mut Writer<'_>) {
    writer.count(history.0.len());
    for start in &history.0 {
        writer.u64(start.term.0);
        writer.u64(start.lsn.0);
    }
}

/// The reverse of [`encode_history`].
pub fn decode_history(reader: &mut Reader<'_>) -> Result<TermHistory, FormatError> {
    let count = reader.count("history", TERM_START_BYTES)?;
    let mut history = Vec::with_capacity(count);
    for _ in 0..count {
        history.push(TermStart { term: Term(reader.u64()?), lsn: Lsn(reader.u64()?) });
    }
    let ordered = history
        .windows(2)
        .all(|pair: &[TermStart]| pair[0].term < pair[1].term && pair[0].lsn <= pair[1].lsn);
    if !ordered {
        return Err(reader.invalid("history"));
    }
    Ok(TermHistory(history))
}

/// Bytes of an encoded history of Postgres timelines.
pub fn postgres_history_bytes(history: &PostgresHistory) -> usize {
    4 + history.0.len() * SWITCH_BYTES
}

/// Count, then timeline and position of each.
pub fn encode_postgres_history(history: &PostgresHistory, writer: &mut Writer<'_>) {
    writer.count(history.0.len());
    for switch in &history.0 {
        writer.u32(switch.timeline.0);
        writer.u64(switch.lsn.0);
    }
}

/// The reverse of [`encode_postgres_history`].
pub fn decode_postgres_history(reader: &mut Reader<'_>) -> Result<PostgresHistory, FormatError> {
    let count = reader.count("postgres_history", SWITCH_BYTES)?;
    let mut switches = Vec::with_capacity(count.min(SWITCHES_MAX));
    for _ in 0..count.min(SWITCHES_MAX + 1) {
        let timeline = PostgresTimeline(reader.u32()?);
        switches.push(PostgresSwitch { timeline, lsn: Lsn(reader.u64()?) });
    }
    let history = PostgresHistory(switches);
    history.validate().map_err(|_| reader.invalid("postgres_history"))?;
    Ok(history)
}
