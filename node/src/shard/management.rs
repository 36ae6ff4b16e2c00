//! What a shard does when it is asked: one request after the other, each in a task of its own when it waits for
//! anything.

use std::collections::BTreeMap;

use firn_core::api::{
    CreateTimeline, DEFAULT_SEGMENT_SIZE_BYTES, Deleted, MembershipSwitched, TermBump, TermBumped,
};
use firn_core::consensus::acceptor::{AcceptorError, Standing, Step};
use firn_core::consensus::change::Create;
use firn_core::consensus::membership::Membership;
use firn_core::types::{Generation, SystemId, TenantId, TimelineId, TimelineKey};
use tracing::Instrument;

use crate::journal::JournalError;
use crate::runtime::{Mailbox, TaskClass};
use crate::shard::request::{ManagementError, Reply, Request};
use crate::shard::timeline::StepError;
use crate::shard::{Shard, TimelineError, fence, reseed, wal_files};
use crate::wal_service::session;

impl From<TimelineError> for ManagementError {
    fn from(error: TimelineError) -> ManagementError {
        match error {
            TimelineError::Unknown(key) => ManagementError::no_timeline(key),
            TimelineError::Deleted { .. } | TimelineError::Exists(_) => {
                ManagementError::Conflict(error.to_string())
            }
            TimelineError::Journal(error) => error.into(),
        }
    }
}

impl From<JournalError> for ManagementError {
    fn from(error: JournalError) -> ManagementError {
        ManagementError::Unavailable(error.to_string())
    }
}

impl From<StepError> for ManagementError {
    fn from(error: StepError) -> ManagementError {
        let text = error.to_string();
        match error {
            StepError::Acceptor(AcceptorError::NotMember { .. }) => {
                ManagementError::Forbidden(text)
            }
            StepError::Acceptor(
                AcceptorError::OldMembership { .. } | AcceptorError::OtherMembers { .. },
            ) => ManagementError::Conflict(text),
            StepError::Acceptor(AcceptorError::Suspect { .. }) => {
                ManagementError::Unavailable(text)
            }
            StepError::Acceptor(_) => ManagementError::Invalid(text),
            StepError::Deleted(key) => ManagementError::no_timeline(key),
            StepError::Journal(_) | StepError::Failed(_) => ManagementError::Unavailable(text),
        }
    }
}

/// Handles requests until nobody can ask any more.
pub(super) async fn serve(shard: Shard, mut mailbox: Mailbox<Request>) {
    while let Some(request) = mailbox.recv().await {
        match request {
            Request::Connection(handover) => {
                let serving = session::serve(shard.clone(), handover);
                shard.runtime().spawn(TaskClass::Latency, serving).detach();
            }
            Request::Positions(reply) => answer(reply, Ok(shard.position_news())),
            Request::PeerPositions(peer, positions) => {
                for position in positions {
                    // It may have been deleted here, or not be there yet.
                    if let Ok(timeline) = shard.timeline(position.key) {
                        timeline.set_peer_position(peer, position);
                    }
                }
            }
            Request::List(reply) => answer(reply, Ok(shard.keys())),
            Request::Metrics(reply) => {
                let counters = &shard.metrics().counters;
                counters.ring_enters.set(shard.runtime().ring_enters());
                counters.cpu_ns.set(shard.runtime().cpu_time().as_nanos() as u64);
                let lags = shard.timelines();
                let lags = lags.iter().map(|timeline| timeline.reader_lag_bytes());
                counters.reader_lag_bytes.set(lags.max().unwrap_or(0));
                let (queue, device) = shard.journal().latencies();
                answer(reply, Ok(shard.metrics().snapshot(shard.number(), queue, device)));
            }
            Request::Status(key, reply) => {
                let status = shard.timeline(key).map(|timeline| timeline.status());
                answer(reply, status.map_err(ManagementError::from));
            }
            Request::Create(body, reply) => {
                spawn(&shard, body.key, reply, |shard| async move { create(&shard, &body).await });
            }
            Request::Delete(key, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    Ok(Deleted { dir_existed: shard.delete_timeline(key).await? })
                });
            }
            Request::DeleteTenant(tenant_id, reply) => {
                let key = TimelineKey { tenant_id, timeline_id: TimelineId::default() };
                spawn(&shard, key, reply, move |shard| delete_tenant(shard, tenant_id));
            }
            Request::SwitchMembership(key, membership, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    switch_membership(&shard, key, &membership).await
                });
            }
            Request::Exclude(key, membership, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    exclude(&shard, key, &membership).await
                });
            }
            Request::BumpTerm(key, bump, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    bump_term(&shard, key, bump).await
                });
            }
            Request::Fence(key, reply) => {
                shard.metrics().counters.fences.increment();
                spawn(
                    &shard,
                    key,
                    reply,
                    move |shard| async move { fence::run(&shard, key).await },
                );
            }
            Request::AcceptLoss(key, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    reseed::accept_loss(&shard, key).await
                });
            }
            Request::ReadWalFile(key, piece, reply) => {
                spawn(&shard, key, reply, move |shard| async move {
                    wal_files::read(&shard, key, &piece).await
                });
            }
        }
    }
}

/// Runs what a request asks for and answers it.
fn spawn<T, F>(
    shard: &Shard,
    key: TimelineKey,
    reply: Reply<T>,
    work: impl FnOnce(Shard) -> F + 'static,
) where
    T: Send + 'static,
    F: Future<Output = Result<T, ManagementError>> + 'static,
{
    let span = tracing::info_span!(
        "request",
        shard = shard.number(),
        tenant = %key.tenant_id,
        timeline = %key.timeline_id,
    );
    let working = work(shard.clone());
    let task = async move { answer(reply, working.await) }.instrument(span);
    shard.runtime().spawn(TaskClass::Latency, task).detach();
}

fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T, ManagementError>) {
    // Who asked may have given up.
    let _ = reply.send(result);
}

async fn create(shard: &Shard, body: &CreateTimeline) -> Result<(), ManagementError> {
    let create = to_create(body)?;
    check_member(shard, body)?;
    let timeline = match shard.create_timeline(body.key, &create) {
        Ok(timeline) => timeline,
        // Asking again is no error, but only for the same thing.
        Err(TimelineError::Exists(_)) => shard.timeline(body.key)?,
        Err(error) => return Err(error.into()),
    };
    // Also when it was there: the first asker may not have had its answer. One that may have been among lost frames is
    // made, and re-seeded before it takes part.
    let nothing = timeline.step(|acceptor| match acceptor.standing() {
        Standing::Whole => acceptor.switch_membership(&create.membership),
        Standing::Suspect | Standing::Seeding { .. } => Ok(Step::nothing()),
    })?;
    Ok(timeline.settle(&nothing).await?)
}

fn to_create(body: &CreateTimeline) -> Result<Create, ManagementError> {
    let invalid = |text: String| ManagementError::Invalid(text);
    body.mconf.validate().map_err(|error| invalid(error.to_string()))?;
    let segment_size_bytes = body.wal_seg_size.unwrap_or(DEFAULT_SEGMENT_SIZE_BYTES);
    if !segment_size_bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&segment_size_bytes) {
        let expected = "expected a power of two from 1 MiB to 1 GiB";
        return Err(invalid(format!("wal_seg_size {segment_size_bytes}: {expected}")));
    }
    let commit_lsn = body.commit_lsn.unwrap_or(body.start_lsn);
    if commit_lsn != body.start_lsn {
        let start_lsn = body.start_lsn;
        return Err(invalid(format!(
            "commit_lsn {commit_lsn}: expected start_lsn {start_lsn}, as there is no WAL yet"
        )));
    }
    Ok(Create {
        membership: body.mconf.clone(),
        postgres_version: body.pg_version,
        system_id: body.system_id.unwrap_or(SystemId(0)),
        segment_size_bytes,
        start_lsn: body.start_lsn,
        commit_lsn,
    })
}

/// Refuses a membership that does without this node, unless the node is to be added to it.
fn check_member(shard: &Shard, body: &CreateTimeline) -> Result<(), ManagementError> {
    let (node_id, generation) = (shard.node_id(), body.mconf.generation);
    let is_member = generation == Generation(0) || body.mconf.contains(node_id);
    match (is_member, body.to_be_added) {
        (true, false) | (false, true) => Ok(()),
        (false, false) => Err(ManagementError::Forbidden(format!(
            "node {node_id} is not a member in generation {generation}"
        ))),
        (true, true) => Err(ManagementError::Conflict(format!(
            "node {node_id} is a member in generation {generation} already: it is not added"
        ))),
    }
}

async fn delete_tenant(
    shard: Shard,
    tenant_id: TenantId,
) -> Result<BTreeMap<TimelineId, Deleted>, ManagementError> {
    let mut deleted = BTreeMap::new();
    for key in shard.keys().into_iter().filter(|key| key.tenant_id == tenant_id) {
        let dir_existed = shard.delete_timeline(key).await?;
        deleted.insert(key.timeline_id, Deleted { dir_existed });
    }
    Ok(deleted)
}

async fn switch_membership(
    shard: &Shard,
    key: TimelineKey,
    membership: &Membership,
) -> Result<MembershipSwitched, ManagementError> {
    let timeline = shard.timeline(key)?;
    let current = || timeline.with_acceptor(|acceptor| acceptor.state().membership.clone());
    let previous_conf = current();
    let stepped = timeline.step(|acceptor| acceptor.switch_membership(membership))?;
    timeline.settle(&stepped).await?;
    tracing::info!(generation = %membership.generation, "membership switched");
    Ok(MembershipSwitched {
        previous_conf,
        current_conf: current(),
        last_log_term: timeline.with_acceptor(|acceptor| acceptor.last_log_term()),
        flush_lsn: timeline.positions().flush_lsn,
    })
}

/// Deletes a timeline that a newer membership has placed elsewhere.
async fn exclude(
    shard: &Shard,
    key: TimelineKey,
    membership: &Membership,
) -> Result<Deleted, ManagementError> {
    membership.validate().map_err(|error| ManagementError::Invalid(error.to_string()))?;
    let generation = membership.generation;
    if membership.contains(shard.node_id()) {
        let node_id = shard.node_id();
        return Err(ManagementError::Forbidden(format!(
            "node {node_id} is a member in generation {generation}: it is not excluded"
        )));
    }
    let Ok(timeline) = shard.timeline(key) else { return Ok(Deleted { dir_existed: false }) };
    let current = timeline.with_acceptor(|acceptor| acceptor.state().membership.generation);
    if generation <= current {
        return Err(ManagementError::Conflict(format!(
            "membership generation {generation} is not above {current}"
        )));
    }
    Ok(Deleted { dir_existed: shard.delete_timeline(key).await? })
}

async fn bump_term(
    shard: &Shard,
    key: TimelineKey,
    bump: TermBump,
) -> Result<TermBumped, ManagementError> {
    let timeline = shard.timeline(key)?;
    let previous_term = timeline.positions().term;
    let stepped =
        timeline.step(|acceptor| Ok::<_, AcceptorError>(acceptor.bump_term(bump.term)))?;
    let current_term = timeline.positions().term;
    timeline.settle(&stepped).await?;
    tracing::info!(%previous_term, %current_term, "term bumped");
    Ok(TermBumped { previous_term, current_term })
}

#[cfg(test)]
mod tests {
    use firn_core::types::{Lsn, PostgresVersion};

    use super::*;

    #[test]
    fn a_creation_is_checked() {
        let body = CreateTimeline {
            key: TimelineKey::default(),
            mconf: Membership::default(),
            pg_version: PostgresVersion(170_008),
            system_id: None,
            wal_seg_size: None,
            start_lsn: Lsn(0x100_0000),
            commit_lsn: None,
            to_be_added: false,
        };
        let create = to_create(&body).unwrap();
        assert_eq!((create.segment_size_bytes, create.commit_lsn), (16 << 20, Lsn(0x100_0000)));
        let odd = CreateTimeline { wal_seg_size: Some(3 << 20), ..body.clone() };
        assert!(matches!(to_create(&odd), Err(ManagementError::Invalid(_))));
        let ahead = CreateTimeline { commit_lsn: Some(Lsn(0x200_0000)), ..body };
        assert!(matches!(to_create(&ahead), Err(ManagementError::Invalid(_))));
    }
}
