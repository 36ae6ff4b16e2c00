//! The entries that carry an acceptor's changes.

use super::super::codec::{FormatError, Reader, Writer};
use super::lists::{
    check_membership, check_postgres_history, decode_history, decode_membership,
    decode_postgres_history, encode_history, encode_membership, encode_postgres_history,
    history_bytes, membership_bytes, postgres_history_bytes,
};
use super::{EntryError, kind};
use crate::consensus::change::{Change, Create};
use crate::types::{Lsn, PostgresVersion, SystemId, Term};

/// Bytes of an append's fields before its WAL: term, begin, end, commit and record end LSN.
pub(super) const APPEND_BYTES: usize = 40;

pub(in super::super) fn name(change: &Change<'_>) -> &'static str {
    match change {
        Change::Create(_) => "create",
        Change::Delete => "delete",
        Change::Vote { .. } => "vote",
        Change::Term { .. } => "term",
        Change::Elected { .. } => "elected",
        Change::Append { .. } => "append",
        Change::Position { .. } => "position",
        Change::Membership(_) => "membership",
        Change::Cluster { .. } => "cluster",
        Change::PostgresHistory(_) => "postgres history",
    }
}

pub(super) fn kind(change: &Change<'_>) -> u8 {
    match change {
        Change::Create(_) => kind::CREATE,
        Change::Delete => kind::DELETE,
        Change::Vote { .. } => kind::VOTE,
        Change::Term { .. } => kind::TERM,
        Change::Elected { .. } => kind::ELECTED,
        Change::Append { .. } => kind::APPEND,
        Change::Position { .. } => kind::POSITION,
        Change::Membership(_) => kind::MEMBERSHIP,
        Change::Cluster { .. } => kind::CLUSTER,
        Change::PostgresHistory(_) => kind::POSTGRES_HISTORY,
    }
}

pub(super) fn check(change: &Change<'_>) -> Result<(), EntryError> {
    match change {
        Change::Create(create) => check_membership(&create.membership),
        Change::Membership(membership) => check_membership(membership),
        Change::PostgresHistory(history) => check_postgres_history(history),
        _ => Ok(()),
    }
}

pub(super) fn field_bytes(change: &Change<'_>) -> usize {
    match change {
        Change::Create(create) => 32 + membership_bytes(&create.membership),
        Change::Delete => 0,
        Change::Vote { .. } | Change::Term { .. } => 8,
        Change::Elected { history, .. } => 16 + history_bytes(history),
        Change::Append { wal, .. } => APPEND_BYTES + wal.len(),
        Change::Position { .. } => 16,
        Change::Membership(membership) => membership_bytes(membership),
        Change::Cluster { .. } => 12,
        Change::PostgresHistory(history) => postgres_history_bytes(history),
    }
}

pub(super) fn encode(change: &Change<'_>, writer: &mut Writer<'_>) {
    match change {
        Change::Create(create) => encode_create(create, writer),
        Change::Delete => {}
        Change::Vote { term } | Change::Term { term } => writer.u64(term.0),
        Change::Elected { term, history, truncate_to } => {
            writer.u64(term.0);
            writer.u64(truncate_to.0);
            encode_history(history, writer);
        }
        Change::Append { term, begin, end, commit_lsn, record_end, wal } => {
            assert_eq!(*end - *begin, wal.len() as u64, "an append carries all its bytes");
            writer.u64(term.0);
            writer.u64(begin.0);
            writer.u64(end.0);
            writer.u64(commit_lsn.0);
            writer.u64(record_end.0);
            writer.bytes(wal);
        }
        Change::Position { commit_lsn, peer_horizon_lsn } => {
            writer.u64(commit_lsn.0);
            writer.u64(peer_horizon_lsn.0);
        }
        Change::Membership(membership) => encode_membership(membership, writer),
        Change::Cluster { postgres_version, system_id } => {
            writer.u64(system_id.0);
            writer.u32(postgres_version.0);
        }
        Change::PostgresHistory(history) => encode_postgres_history(history, writer),
    }
}

fn encode_create(create: &Create, writer: &mut Writer<'_>) {
    writer.u64(create.system_id.0);
    writer.u32(create.postgres_version.0);
    writer.u32(create.segment_size_bytes);
    writer.u64(create.start_lsn.0);
    writer.u64(create.commit_lsn.0);
    encode_membership(&create.membership, writer);
}

pub(super) fn decode<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Change<'a>, FormatError> {
    Ok(match kind {
        kind::CREATE => Change::Create(decode_create(reader)?),
        kind::DELETE => Change::Delete,
        kind::VOTE => Change::Vote { term: Term(reader.u64()?) },
        kind::TERM => Change::Term { term: Term(reader.u64()?) },
        kind::ELECTED => {
            let term = Term(reader.u64()?);
            let truncate_to = Lsn(reader.u64()?);
            Change::Elected { term, truncate_to, history: decode_history(reader)? }
        }
        kind::APPEND => decode_append(reader)?,
        kind::POSITION => Change::Position {
            commit_lsn: Lsn(reader.u64()?),
            peer_horizon_lsn: Lsn(reader.u64()?),
        },
        kind::MEMBERSHIP => Change::Membership(decode_membership(reader)?),
        kind::CLUSTER => {
            let system_id = SystemId(reader.u64()?);
            Change::Cluster { system_id, postgres_version: PostgresVersion(reader.u32()?) }
        }
        kind::POSTGRES_HISTORY => Change::PostgresHistory(decode_postgres_history(reader)?),
        _ => return Err(reader.invalid("kind")),
    })
}

fn decode_create(reader: &mut Reader<'_>) -> Result<Create, FormatError> {
    let system_id = SystemId(reader.u64()?);
    let postgres_version = PostgresVersion(reader.u32()?);
    let segment_size_bytes = decode_segment_size(reader)?;
    let start_lsn = Lsn(reader.u64()?);
    let commit_lsn = Lsn(reader.u64()?);
    let membership = decode_membership(reader)?;
    Ok(Create {
        membership,
        postgres_version,
        system_id,
        segment_size_bytes,
        start_lsn,
        commit_lsn,
    })
}

/// A WAL segment's size: a power of two from 1 MiB to 1 GiB.
pub(in super::super) fn decode_segment_size(reader: &mut Reader<'_>) -> Result<u32, FormatError> {
    let size = reader.u32()?;
    if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) {
        Ok(size)
    } else {
        Err(reader.invalid("segment_size_bytes"))
    }
}

fn decode_append<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, FormatError> {
    let term = Term(reader.u64()?);
    let begin = Lsn(reader.u64()?);
    let end = Lsn(reader.u64()?);
    let commit_lsn = Lsn(reader.u64()?);
    let record_end = Lsn(reader.u64()?);
    let count = end.0.checked_sub(begin.0).ok_or_else(|| reader.invalid("end"))?;
    let count = usize::try_from(count).map_err(|_| reader.invalid("end"))?;
    let wal = reader.bytes(count)?;
    Ok(Change::Append { term, begin, end, commit_lsn, record_end, wal })
}
