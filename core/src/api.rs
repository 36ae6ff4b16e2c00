//! The bodies of a node's HTTP API, one definition for the node and for everyone who calls it.
//!
//! All JSON. The acceptor's part has the shapes of Neon's safekeeper API (libs/safekeeper_api, as recorded): ids and
//! LSNs are strings, numbers are numbers, unknown fields are ignored, an error is `{"msg": "..."}` with its status.
//!
//! | method and path | body | answer |
//! | --- | --- | --- |
//! | GET /v1/status | | [`NodeStatus`] |
//! | GET /v1/utilization | | [`Utilization`] |
//! | POST /v1/tenant/timeline | [`CreateTimeline`] | `null` |
//! | GET /v1/tenant/timeline | | list of [`TimelineKey`] |
//! | GET /v1/tenant/T/timeline/X | | [`TimelineStatus`] |
//! | DELETE /v1/tenant/T/timeline/X | | [`Deleted`] |
//! | DELETE /v1/tenant/T | | map of timeline id to [`Deleted`] |
//! | PUT /v1/tenant/T/timeline/X/membership | [`Membership`] | [`MembershipSwitched`] |
//! | PUT /v1/tenant/T/timeline/X/exclude | [`Membership`] | [`Deleted`] |
//! | POST /v1/tenant/T/timeline/X/term_bump | [`TermBump`] | [`TermBumped`] |
//! | POST /v1/tenant/T/timeline/X/fence | | [`Fenced`] |
//! | POST /v1/tenant/T/timeline/X/accept_loss | | [`TimelineStatus`] |
//! | GET /v1/tenant/T/timeline/X/wal/FILE | | bytes of a WAL segment or of a `.history` file |
//!
//! `wal/FILE` answers committed bytes, padded with zeros to the segment's size; 404 when nothing of the segment is
//! committed here.

use serde::{Deserialize, Serialize};

use crate::consensus::membership::Membership;
use crate::types::{
    Generation, Lsn, NodeId, PostgresTimeline, PostgresVersion, SystemId, Term, TimelineKey,
};

/// Bytes in a WAL segment when nobody says otherwise: Postgres' own default.
pub const DEFAULT_SEGMENT_SIZE_BYTES: u32 = 16 << 20;

/// Any answer with a status of 400 and more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One line for people.
    pub msg: String,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Made once per data directory.
    pub id: NodeId,
    /// Host under which its Postgres-protocol port is reached; absent = where its HTTP port is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_host: Option<String>,
    /// Its Postgres-protocol port; Neon's acceptors do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_port: Option<u16>,
}

/// How loaded a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utilization {
    /// Timelines that exist on it.
    pub timeline_count: u64,
}

/// What a node writes to its `--ports-file` once it listens (replaced atomically).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsFile {
    /// The node.
    pub node_id: NodeId,
    /// `host:port` of the Postgres-protocol listener.
    pub pg: String,
    /// `host:port` of the HTTP listener.
    pub http: String,
}

/// Asks a node to hold a timeline. Idempotent: a timeline that exists stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTimeline {
    /// Tenant and timeline.
    #[serde(flatten)]
    pub key: TimelineKey,
    /// Its acceptors; generation 1 or more for a timeline that a relay writes.
    pub mconf: Membership,
    /// 0 = unknown until the first greeting.
    pub pg_version: PostgresVersion,
    /// Absent = unknown until the first greeting.
    #[serde(default)]
    pub system_id: Option<SystemId>,
    /// Bytes in a WAL segment; absent = 16 MiB.
    #[serde(default)]
    pub wal_seg_size: Option<u32>,
    /// Where the timeline begins.
    pub start_lsn: Lsn,
    /// Absent = `start_lsn`.
    #[serde(default)]
    pub commit_lsn: Option<Lsn>,
    /// The node is to be added: it is no acceptor in `mconf`, and a switch of the membership makes it one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_be_added: bool,
}

impl CreateTimeline {
    /// The timeline that another node has, as an empty one on a node that is to be added to these acceptors.
    pub fn added_to(status: &TimelineStatus, mconf: Membership) -> CreateTimeline {
        CreateTimeline {
            key: status.key,
            mconf,
            pg_version: status.pg_info.pg_version,
            system_id: Some(status.pg_info.system_id),
            wal_seg_size: Some(status.pg_info.wal_seg_size),
            start_lsn: status.timeline_start_lsn,
            commit_lsn: None,
            to_be_added: true,
        }
    }
}

/// What an acceptor knows of a timeline. Positions are what its memory says, which may run ahead of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineStatus {
    /// Tenant and timeline.
    #[serde(flatten)]
    pub key: TimelineKey,
    /// Its acceptors.
    pub mconf: Membership,
    /// Terms.
    pub acceptor_state: AcceptorStatus,
    /// The cluster that writes it.
    pub pg_info: PostgresInfo,
    /// End of the last complete record that is durable here.
    pub flush_lsn: Lsn,
    /// Where the timeline begins globally.
    pub timeline_start_lsn: Lsn,
    /// Since where this node has had WAL.
    pub local_start_lsn: Lsn,
    /// Committed by a quorum, as far as this node has heard.
    pub commit_lsn: Lsn,
    /// Everything below is in object storage.
    #[serde(default)]
    pub backup_lsn: Lsn,
    /// Every member has WAL up to here.
    #[serde(default)]
    pub peer_horizon_lsn: Lsn,
    /// Everything below is in a page store's remote layers.
    #[serde(default)]
    pub remote_consistent_lsn: Lsn,
    /// Whether it votes and acknowledges here; Neon's acceptors do not tell.
    #[serde(default)]
    pub standing: StandingStatus,
    /// Why the last attempt to re-seed it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed_error: Option<String>,
    /// Other acceptors' positions, where they are exchanged.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// Readers of its WAL.
    #[serde(default)]
    pub walsenders: Vec<WalSenderStatus>,
    /// Replication slots that this node remembers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotStatus>,
    /// From where slots here or at a peer need WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_lsn: Option<Lsn>,
    /// Proposers that are connected.
    #[serde(default)]
    pub walreceivers: Vec<WalReceiverStatus>,
}

/// Whether an acceptor knows all that it promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandingStatus {
    /// It does.
    #[default]
    Whole,
    /// Acknowledged changes may be lost: it takes nothing, and is waiting to be re-seeded from the other members.
    Suspect,
    /// It is being re-seeded: it takes WAL and gives no vote.
    Seeding,
}

/// An acceptor's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptorStatus {
    /// Highest term voted for or learned.
    pub term: Term,
    /// Term of the last entry of the local log.
    pub epoch: Term,
    /// Which term wrote which part of the log, oldest first.
    pub term_history: Vec<TermStartStatus>,
}

/// From `lsn` on, the log was written in `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermStartStatus {
    /// The term.
    pub term: Term,
    /// Where it begins.
    pub lsn: Lsn,
}

/// The cluster that writes a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresInfo {
    /// 0 = unknown.
    pub pg_version: PostgresVersion,
    /// 0 = unknown.
    pub system_id: SystemId,
    /// Bytes in a WAL segment.
    pub wal_seg_size: u32,
}

/// What an acceptor heard of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The other acceptor.
    pub sk_id: NodeId,
    /// Its term.
    pub term: Term,
    /// End of its durable log.
    pub flush_lsn: Lsn,
    /// Its commit position.
    pub commit_lsn: Lsn,
    /// Term of the last entry of its durable log; Neon's acceptors do not tell.
    #[serde(default)]
    pub last_log_term: Term,
    /// Whether it votes and acknowledges; Neon's acceptors do not tell.
    #[serde(default)]
    pub standing: StandingStatus,
    /// From where the slots of its readers need WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_lsn: Option<Lsn>,
}

/// What a node tells another one, once a second, of a timeline that both hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPosition {
    /// Tenant and timeline.
    #[serde(flatten)]
    pub key: TimelineKey,
    /// Of its membership.
    pub generation: Generation,
    /// Highest term voted for or learned.
    pub term: Term,
    /// Term of the last entry of its durable log.
    pub last_log_term: Term,
    /// End of its durable log: what it still needs begins here.
    pub flush_lsn: Lsn,
    /// Committed, as far as it has heard, and durable there.
    pub commit_lsn: Lsn,
    /// Whether it votes and acknowledges.
    pub standing: StandingStatus,
    /// From where the slots of its readers need WAL; absent = it has no slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_lsn: Option<Lsn>,
}

/// The positions that changed since the last report on the same connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Who says so.
    pub node_id: NodeId,
    /// The first one on its connection: the answer has to tell everything.
    pub fresh: bool,
    /// What changed; the rest follows in the next report when there is too much.
    pub positions: Vec<PeerPosition>,
}

/// A reader of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSenderStatus {
    /// The node's number of the connection.
    pub conn_id: u64,
    /// The reader's `application_name`.
    pub appname: Option<String>,
    /// Sent up to here.
    pub sent_lsn: Lsn,
    /// Durable at a standby or archiver, as it says; invalid until it does. Neon's acceptors do not tell.
    #[serde(default)]
    pub flush_lsn: Lsn,
    /// Replayed there.
    #[serde(default)]
    pub apply_lsn: Lsn,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Its reader needs WAL from here on.
    pub restart_lsn: Lsn,
}

/// A proposer that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalReceiverStatus {
    /// The node's number of the connection.
    pub conn_id: u64,
    /// `Voting` or `Streaming`.
    pub status: String,
}

/// What a deletion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Whether there was something to delete.
    pub dir_existed: bool,
}

/// What a switch of membership found. Of equal generations nothing changes and both are the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipSwitched {
    /// Before.
    pub previous_conf: Membership,
    /// Now.
    pub current_conf: Membership,
    /// Term of the last entry of the local log.
    pub last_log_term: Term,
    /// End of the local durable log.
    pub flush_lsn: Lsn,
}

/// Raises an acceptor's term, so that proposers of lower ones are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermBump {
    /// The term to reach; absent = one more than now. A lower one changes nothing.
    #[serde(default)]
    pub term: Option<Term>,
}

/// What a term bump did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermBumped {
    /// Before.
    pub previous_term: Term,
    /// Now.
    pub current_term: Term,
}

/// A completed fence: no proposer of a lower term can commit anything any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// End of the log, committed on a majority in `term`. A rebuild recovers to exactly this position.
    pub lsn: Lsn,
    /// The term that the fence won.
    pub term: Term,
    /// Committed before the fence, as the node that ran it knew; at most `lsn - commit_lsn` bytes were in doubt.
    pub commit_lsn: Lsn,
    /// The membership whose majority agreed.
    pub mconf: Membership,
    /// The cluster.
    pub pg_info: PostgresInfo,
    /// Postgres' timeline of the last byte, where the node knows it.
    #[serde(default)]
    pub postgres_timeline: Option<PostgresTimeline>,
}

#[cfg(test)]
mod tests;
