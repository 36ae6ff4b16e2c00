//! Makes this shard's timelines whole again after its journal lost acknowledged frames: each is re-seeded from its other
//! members, by itself and again and again until it worked. `firn_core::consensus::reseed` says how and why.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::TimelineStatus;
use firn_core::consensus::acceptor::Standing;
use firn_core::consensus::membership::{Member, Membership};
use firn_core::consensus::proposer::{Role, StopReason};
use firn_core::consensus::reseed::reseed_term;
use firn_core::marks;
use firn_core::types::{Generation, TimelineKey};
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};

use crate::runtime::MonotonicTime;
use crate::shard::request::ManagementError;
use crate::shard::timeline::Timeline;
use crate::shard::{Shard, campaign};

/// How often suspect timelines are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Timelines re-seeded at once: each copies WAL, and the journal's bandwidth is everybody's.
const RESEEDS_MAX: usize = 8;
/// Pause after a first failed attempt; doubled after each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause: a member that comes back is noticed within it. Each attempt that gets votes stops a proposer for a moment.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Attempts that begin again at once because the membership had changed.
const RESTARTS_MAX: usize = 4;
/// How long a member may take to tell its membership.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a proposer that took over may take to bring the log to the start of its term, while it comes forward.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// When a timeline is tried next.
struct Retry {
    at: MonotonicTime,
    pause: Duration,
}

/// Re-seeds whatever needs it, for ever.
pub(super) async fn watch(shard: Shard) {
    let mut retries: BTreeMap<TimelineKey, Retry> = BTreeMap::new();
    loop {
        let suspects = suspects(&shard);
        shard.metrics().counters.timelines_suspect.set(suspects.len() as u64);
        retries.retain(|key, _| suspects.iter().any(|timeline| timeline.key() == *key));
        let now = shard.runtime().now();
        let due = |timeline: &Rc<Timeline>| {
            retries.get(&timeline.key()).is_none_or(|retry| retry.at <= now)
        };
        let due: Vec<_> = suspects.into_iter().filter(due).collect();
        let attempts = stream::iter(due).map(|timeline| attempt(&shard, timeline));
        let failed: Vec<Option<TimelineKey>> =
            attempts.buffer_unordered(RESEEDS_MAX).collect().await;
        for key in failed.into_iter().flatten() {
            let earlier = retries.get(&key).map(|retry| retry.pause * 2);
            let pause = earlier.unwrap_or(PAUSE_MIN).min(PAUSE_MAX);
            retries.insert(key, Retry { at: shard.runtime().now() + pause, pause });
        }
        shard.runtime().sleep(LOOK_INTERVAL).await;
    }
}

/// Takes what is here for all there was, as its operator says: when the other members are gone for good, or there are none.
/// What was acknowledged and lost stays lost, and a vote that was forgotten may count twice.
pub(super) async fn accept_loss(
    shard: &Shard,
    key: TimelineKey,
) -> Result<TimelineStatus, ManagementError> {
    let timeline = shard.timeline(key)?;
    if timeline.standing() == Standing::Whole {
        return Err(ManagementError::Conflict(format!("timeline {key} has lost nothing here")));
    }
    timeline.recover().await?;
    let floor = reseed_term(timeline.positions().term);
    timeline.begin_seeding(floor).await?;
    timeline.become_whole().await?;
    tracing::warn!("the loss was accepted: the timeline votes and acknowledges with what is left");
    Ok(timeline.status())
}

fn suspects(shard: &Shard) -> Vec<Rc<Timeline>> {
    let timelines = shard.0.timelines.borrow();
    let suspect = |timeline: &&Rc<Timeline>| timeline.standing() != Standing::Whole;
    timelines.values().filter(suspect).cloned().collect()
}

/// One attempt; the key when it is to be repeated.
async fn attempt(shard: &Shard, timeline: Rc<Timeline>) -> Option<TimelineKey> {
    let key = timeline.key();
    let (tenant, timeline_id) = (key.tenant_id, key.timeline_id);
    match reseed(shard, &timeline).await {
        Ok(()) => {
            shard.metrics().counters.reseeds.increment();
            marks::hit("timeline.reseeded");
            tracing::warn!(%tenant, timeline = %timeline_id, "timeline re-seeded: it votes and acknowledges again");
            None
        }
        Err(reason) => {
            shard.metrics().counters.reseeds_failed.increment();
            tracing::warn!(%tenant, timeline = %timeline_id, reason, "timeline not re-seeded yet");
            timeline.note_reseed_error(reason);
            Some(key)
        }
    }
}

async fn reseed(shard: &Shard, timeline: &Rc<Timeline>) -> Result<(), String> {
    timeline.recover().await.map_err(|error| error.to_string())?;
    let (mut membership, known_term) =
        timeline.with_acceptor(|acceptor| (acceptor.state().membership.clone(), acceptor.term()));
    let node = shard.node_id();
    let mut reason = "the membership keeps changing".to_string();
    for _ in 0..RESTARTS_MAX {
        let generation = membership.generation;
        if generation == Generation(0) {
            return Err("it has no membership: nobody here knows its other acceptors".to_string());
        }
        if !membership.contains(node) {
            // It was removed, or is to be added and lost what it held before that.
            membership = newest_of_others(shard, timeline.key(), &membership).await;
        }
        if !membership.contains(node) {
            return Err(format!("this node is no member in generation {}", membership.generation));
        }
        let role = Role::Reseed { node, known_term };
        let ended = campaign::run(shard, timeline, membership.clone(), role).await;
        match ended.map(|(reason, _)| reason) {
            Ok(StopReason::Reseeded { lsn, term }) => {
                tracing::info!(%lsn, %term, "everything that can have been committed is here");
                if !lsn.is_valid() {
                    timeline.begin_seeding(term).await.map_err(|error| error.to_string())?;
                }
                return timeline.become_whole().await.map_err(|error| error.to_string());
            }
            Ok(StopReason::Membership { membership: newer }) => membership = newer,
            Ok(stopped @ (StopReason::HigherTerm { .. } | StopReason::Fenced { .. })) => {
                reason = stopped.to_string();
                break;
            }
            Err(errors) => {
                marks::hit("timeline.reseed_refused");
                reason = format!("too few of the other members agree: {errors}");
                break;
            }
        }
    }
    match follow(shard, timeline).await {
        true => timeline.become_whole().await.map_err(|error| error.to_string()),
        false => Err(reason),
    }
}

/// The newest membership that members of this one know, as far as they answer; or itself.
async fn newest_of_others(shard: &Shard, key: TimelineKey, known: &Membership) -> Membership {
    let mut newest = known.clone();
    for member in known.all() {
        let asked = shard.runtime().within(ANSWER_TIMEOUT, membership_of(shard, key, member)).await;
        match asked {
            Some(Ok(told)) if told.generation > newest.generation => newest = told,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::info!(node = %member.id, error, "member does not tell its membership");
            }
            None => {
                tracing::info!(node = %member.id, "member does not answer for {ANSWER_TIMEOUT:?}");
            }
        }
    }
    newest
}

async fn membership_of(
    shard: &Shard,
    key: TimelineKey,
    member: &Member,
) -> Result<Membership, String> {
    let client = shard.connect(&member.address(), Some(key), "firn-reseed").await;
    let mut client = client.map_err(|error| error.to_string())?;
    let status = client.timeline_status().await.map_err(|error| error.to_string())?;
    status.mconf.validate().map_err(|error| error.to_string())?;
    Ok(status.mconf)
}

/// Waits while a proposer that took over brings the log forward; whether it reached the start of its term.
async fn follow(shard: &Shard, timeline: &Timeline) -> bool {
    loop {
        let before = timeline.positions().flush_lsn;
        let mut timeout = Box::pin(shard.runtime().sleep(FOLLOW_TIMEOUT));
        loop {
            let changed = Box::pin(timeline.changed());
            match timeline.standing() {
                Standing::Seeding { .. } if timeline.with_acceptor(|a| a.is_seeded()) => {
                    return true;
                }
                Standing::Seeding { .. } => {}
                Standing::Suspect | Standing::Whole => return false,
            }
            if let Either::Right(_) = select(changed, &mut timeout).await {
                break;
            }
        }
        if timeline.positions().flush_lsn == before {
            return false;
        }
    }
}
