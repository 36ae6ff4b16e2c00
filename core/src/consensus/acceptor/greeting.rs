//! The first message of a connection: is this the proposer of this timeline's cluster, and what membership does it know?

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Step, When};
use crate::consensus::change::{Change, Create};
use crate::consensus::membership::Membership;
use crate::marks;
use crate::mutant::{self, Mutant};
use crate::types::{Generation, Lsn, PostgresVersion, SystemId, TimelineKey};
use crate::wire::walproposer::{AcceptorGreeting, AcceptorMessage, ProposerGreeting};

/// Smallest and largest segment of a cluster (PostgreSQL src/include/access/xlog_internal.h).
const SEGMENT_SIZE_BYTES: std::ops::RangeInclusive<u32> = 1 << 20..=1 << 30;

/// How a timeline begins that a proposer's greeting is the first to name. Only a proposer without a membership may begin
/// one: where members are listed, a node that does not know the timeline has lost it.
pub fn create_on_push(
    key: TimelineKey,
    greeting: &ProposerGreeting,
    allowed: bool,
) -> Result<Create, AcceptorError> {
    check_key(key, greeting)?;
    let may_create = allowed && greeting.membership.generation == Generation(0);
    if !may_create && !mutant::active(Mutant::AnswerUnknownTimeline) {
        marks::hit("acceptor.refused_unknown_timeline");
        return Err(AcceptorError::Unknown { key });
    }
    let segment_size_bytes = greeting.segment_size_bytes;
    if !SEGMENT_SIZE_BYTES.contains(&segment_size_bytes) || !segment_size_bytes.is_power_of_two() {
        return Err(AcceptorError::ImpossibleSegmentSize { found: segment_size_bytes });
    }
    Ok(Create {
        membership: Membership::default(),
        postgres_version: greeting.postgres_version,
        system_id: greeting.system_id,
        segment_size_bytes,
        start_lsn: Lsn::INVALID,
        commit_lsn: Lsn::INVALID,
    })
}

impl Acceptor {
    pub(super) fn greeting<'a>(
        &mut self,
        greeting: &ProposerGreeting,
    ) -> Result<Step<'a>, AcceptorError> {
        check_key(self.key, greeting)?;
        self.check_wal_form(greeting)?;
        let cluster = self.learned_cluster(greeting)?;
        let membership = self.higher_membership(&greeting.membership)?;
        let changes = Changes::two(cluster, membership);
        let when = if changes.is_empty() { When::Now } else { When::Witnessed };
        let mut step = self.step(changes, Reply::None);
        let message = AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: self.node_id,
            membership: self.state.membership.clone(),
            term: self.state.term,
        });
        step.reply = Reply::Message { message, when };
        Ok(step)
    }

    fn check_wal_form(&self, greeting: &ProposerGreeting) -> Result<(), AcceptorError> {
        let (expected, found) = (self.state.postgres_version, greeting.postgres_version);
        if expected != PostgresVersion(0) && expected.major() != found.major() {
            return Err(AcceptorError::PostgresVersion { expected, found });
        }
        let (expected, found) = (self.state.segment_size_bytes, greeting.segment_size_bytes);
        if expected != found {
            return Err(AcceptorError::SegmentSize { expected, found });
        }
        Ok(())
    }

    /// What the greeting tells about the cluster that was not known. A system id may only change while there is no WAL.
    fn learned_cluster<'a>(
        &self,
        greeting: &ProposerGreeting,
    ) -> Result<Option<Change<'a>>, AcceptorError> {
        const UNKNOWN: SystemId = SystemId(0);
        let (expected, found) = (self.state.system_id, greeting.system_id);
        let other_cluster = found != UNKNOWN && found != expected;
        let has_wal = self.state.write_lsn > self.state.local_start_lsn;
        if other_cluster && expected != UNKNOWN && has_wal {
            return Err(AcceptorError::SystemId { expected, found });
        }
        let version_unknown = self.state.postgres_version == PostgresVersion(0);
        let learned = other_cluster || (version_unknown && greeting.postgres_version.0 != 0);
        Ok(learned.then_some(Change::Cluster {
            postgres_version: greeting.postgres_version,
            system_id: if other_cluster { found } else { expected },
        }))
    }

    /// The change to a membership of a higher generation; none when it is not higher. Quorums of one generation are counted
    /// in the same way everywhere: other members of the generation here are refused.
    pub(super) fn higher_membership<'a>(
        &self,
        membership: &Membership,
    ) -> Result<Option<Change<'a>>, AcceptorError> {
        let generation = membership.generation;
        if generation == self.generation() && !membership.has_members_of(&self.state.membership) {
            return Err(AcceptorError::OtherMembers { generation });
        }
        if generation <= self.generation() {
            return Ok(None);
        }
        membership.validate()?;
        if !membership.contains(self.node_id) {
            return Err(AcceptorError::NotMember { node_id: self.node_id, generation });
        }
        Ok(Some(Change::Membership(membership.clone())))
    }
}

fn check_key(expected: TimelineKey, greeting: &ProposerGreeting) -> Result<(), AcceptorError> {
    match greeting.key == expected {
        true => Ok(()),
        false => Err(AcceptorError::Key { expected, found: greeting.key }),
    }
}
