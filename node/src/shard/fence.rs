//! A fence: a proposer without a primary that elects a new term on the timeline's members, commits the tail that a
//! quorum has, and ends. From then on no proposer of a lower term can commit anything.

use std::time::Duration;

use firn_core::api::Fenced;
use firn_core::consensus::proposer::{Role, StopReason};
use firn_core::types::{Generation, TimelineKey};

use crate::shard::request::ManagementError;
use crate::shard::{Shard, campaign};

/// Longest time for a fence: an election takes milliseconds, copying the tail to a majority seconds.
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Fences that begin again because the membership had changed.
const RESTARTS_MAX: usize = 4;

/// Fences a timeline that this node holds.
pub(super) async fn run(shard: &Shard, key: TimelineKey) -> Result<Fenced, ManagementError> {
    let timeline = shard.timeline(key)?;
    let commit_lsn = timeline.positions().commit_lsn;
    let mut membership = timeline.with_acceptor(|acceptor| acceptor.state().membership.clone());
    for _ in 0..RESTARTS_MAX {
        if membership.generation == Generation(0) {
            return Err(ManagementError::Conflict(format!(
                "timeline {key} has no membership: its proposer alone knows its acceptors"
            )));
        }
        let fence = Box::pin(campaign::run(shard, &timeline, membership.clone(), Role::Fence));
        let ended = shard.runtime().within(FENCE_TIMEOUT, fence).await;
        let ended = ended.unwrap_or_else(|| Err(format!("{} s are over", FENCE_TIMEOUT.as_secs())));
        let no_quorum = |reasons| {
            ManagementError::Unavailable(format!("no quorum of the members agreed: {reasons}"))
        };
        let (reason, history) = ended.map_err(no_quorum)?;
        match reason {
            StopReason::Fenced { lsn, term } => {
                tracing::info!(%lsn, %term, "fenced");
                return Ok(Fenced {
                    lsn,
                    term,
                    commit_lsn,
                    mconf: membership,
                    pg_info: timeline.status().pg_info,
                    postgres_timeline: history.map(|history| history.timeline_at(lsn)),
                });
            }
            StopReason::Membership { membership: newer } => membership = newer,
            reason @ (StopReason::HigherTerm { .. } | StopReason::Reseeded { .. }) => {
                return Err(ManagementError::Conflict(reason.to_string()));
            }
        }
    }
    Err(ManagementError::Unavailable(format!("the membership of timeline {key} keeps changing")))
}
