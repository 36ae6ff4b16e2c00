//! Committed WAL from a peer, for timelines that no proposer writes here.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::{StandingStatus, TimelineStatus};
use firn_core::consensus::acceptor::{AcceptorError, CatchUp, CommittedLog, Standing, Step};
use firn_core::consensus::term_history::{TermHistory, TermStart};
use firn_core::types::{Lsn, NodeId, TimelineKey};
use firn_core::wire::postgres::replication::FromServer;
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};

use crate::shard::Shard;
use crate::shard::timeline::Timeline;
use crate::wal_service::client::AcceptorClient;

/// How often timelines that lag are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Timelines that catch up at once: each streams WAL, and the journal's bandwidth is everybody's.
const CATCH_UPS_MAX: usize = 8;
/// A donor that sends nothing for this long is not waited for.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// WAL that is appended before its durability is waited for.
const UNSETTLED_BYTES_MAX: u64 = 4 << 20;

/// Peers that could not give what they have; forgotten once all others were asked, or the timeline caught up.
type Failed = BTreeMap<TimelineKey, BTreeSet<NodeId>>;

/// Lets timelines that lag catch up, for ever.
pub async fn watch(shard: Shard) {
    let mut failed = Failed::new();
    loop {
        shard.runtime().sleep(LOOK_INTERVAL).await;
        let lagging = lagging(&shard, &mut failed);
        let most = lagging.iter().map(|(_, lag_bytes, _)| *lag_bytes).max().unwrap_or(0);
        shard.metrics().counters.peer_lag_bytes.set(most);
        failed.retain(|key, _| lagging.iter().any(|(timeline, ..)| timeline.key() == *key));
        let attempts =
            stream::iter(lagging).map(|(timeline, _, donor)| attempt(&shard, timeline, donor));
        let ended: Vec<_> = attempts.buffer_unordered(CATCH_UPS_MAX).collect().await;
        for (key, donor) in ended.into_iter().flatten() {
            failed.entry(key).or_default().insert(donor);
        }
    }
}

/// Timelines without a proposer of which a peer has more committed than is known here, by how much, and the peer that has
/// most of those that did not fail before.
fn lagging(shard: &Shard, failed: &mut Failed) -> Vec<(Rc<Timeline>, u64, NodeId)> {
    let mut found = Vec::new();
    for timeline in shard.timelines() {
        if timeline.has_proposer() || timeline.standing() == Standing::Suspect {
            continue;
        }
        let own = timeline.positions().commit_lsn;
        let mut ahead = timeline.peer_positions();
        ahead.retain(|(_, peer)| peer.commit_lsn > own && peer.standing != StandingStatus::Suspect);
        if ahead.is_empty() {
            continue;
        }
        let failures = failed.entry(timeline.key()).or_default();
        if ahead.iter().all(|(node, _)| failures.contains(node)) {
            failures.clear();
        }
        let others = ahead.iter().filter(|(node, _)| !failures.contains(node));
        if let Some((donor, position)) = others.max_by_key(|(_, position)| position.commit_lsn) {
            let lag_bytes = position.commit_lsn - own;
            let donor = *donor;
            found.push((timeline, lag_bytes, donor));
        }
    }
    found
}

/// One attempt; whose it was when it failed.
async fn attempt(
    shard: &Shard,
    timeline: Rc<Timeline>,
    donor: NodeId,
) -> Option<(TimelineKey, NodeId)> {
    let key = timeline.key();
    let (tenant, timeline_id) = (key.tenant_id, key.timeline_id);
    let working = Box::pin(catch_up(shard, &timeline, donor));
    let stalled = Box::pin(watch_for_stall(shard, &timeline));
    let ended = match select(working, stalled).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), _)) => Err("nothing came for a while".to_string()),
    };
    match ended {
        Ok(taken_bytes) => {
            shard.metrics().counters.catch_ups.increment();
            tracing::info!(%tenant, timeline = %timeline_id, %donor, taken_bytes, "caught up with a peer");
            None
        }
        Err(reason) => {
            tracing::info!(%tenant, timeline = %timeline_id, %donor, reason, "not caught up with a peer");
            Some((key, donor))
        }
    }
}

/// Ready when the log did not grow for a while.
async fn watch_for_stall(shard: &Shard, timeline: &Timeline) {
    loop {
        let before = timeline.positions().flush_lsn;
        shard.runtime().sleep(STALL_TIMEOUT).await;
        if timeline.positions().flush_lsn == before {
            return;
        }
    }
}

/// Takes what the donor has committed; how many bytes were missing.
async fn catch_up(shard: &Shard, timeline: &Rc<Timeline>, donor: NodeId) -> Result<u64, String> {
    let text = |error: crate::wal_service::client::ClientError| error.to_string();
    let member = timeline.with_acceptor(|acceptor| {
        acceptor.state().membership.all().find(|member| member.id == donor).cloned()
    });
    let member = member.ok_or("it is not a member")?;
    let key = Some(timeline.key());
    let client = shard.connect(&member.address(), key, "firn-catch-up").await;
    let mut client = client.map_err(text)?;
    let status = client.timeline_status().await.map_err(text)?;
    let committed = committed_log(&status);
    if timeline.has_proposer() {
        return Err("a proposer came".to_string());
    }
    timeline.recover().await.map_err(|error| error.to_string())?;
    // Before the bytes: readers must not get them under the number of the timeline before.
    let history = client.postgres_history().await.map_err(text)?;
    let learned = timeline.step(|acceptor| {
        Ok::<_, AcceptorError>(acceptor.learn_postgres_history(&history, committed.commit_lsn))
    });
    let learned = learned.map_err(|error| error.to_string())?;
    timeline.settle(&learned).await.map_err(|error| error.to_string())?;
    let mut begin = None;
    let stepped = timeline.step(|acceptor| {
        Ok::<_, AcceptorError>(match acceptor.catch_up(&committed)? {
            CatchUp::Nothing => Step::nothing(),
            CatchUp::Known(step) => step,
            CatchUp::Append { step, begin: from } => {
                begin = Some(from);
                step
            }
        })
    });
    let stepped = stepped.map_err(|error| error.to_string())?;
    timeline.settle(&stepped).await.map_err(|error| error.to_string())?;
    let Some(begin) = begin else { return Ok(0) };
    client.start_replication(begin, None).await.map_err(text)?;
    stream_to(shard, timeline, &mut client, begin, committed.commit_lsn).await?;
    Ok(committed.commit_lsn - begin)
}

fn committed_log(status: &TimelineStatus) -> CommittedLog {
    let terms = status.acceptor_state.term_history.iter();
    let history = terms.map(|start| TermStart { term: start.term, lsn: start.lsn });
    CommittedLog {
        generation: status.mconf.generation,
        history: TermHistory(history.collect()),
        commit_lsn: status.commit_lsn,
    }
}

async fn stream_to(
    shard: &Shard,
    timeline: &Rc<Timeline>,
    client: &mut AcceptorClient,
    begin: Lsn,
    end: Lsn,
) -> Result<(), String> {
    let (mut position, mut settled) = (begin, begin);
    while position < end {
        let payload = client.next_data().await.map_err(|error| error.to_string())?;
        let wal = match FromServer::decode(payload).map_err(|error| error.to_string())? {
            FromServer::Keepalive { .. } => continue,
            FromServer::Wal { start, wal, .. } if start == position => wal,
            FromServer::Wal { start, .. } => {
                return Err(format!("sent WAL at {start}, expected {position}"));
            }
        };
        let wal = &wal[..wal.len().min((end - position) as usize)];
        timeline.ready().await.map_err(|error| error.to_string())?;
        let stepped = timeline.step(|acceptor| acceptor.append_committed(wal));
        let stepped = stepped.map_err(|error| error.to_string())?;
        position = position + wal.len() as u64;
        shard.metrics().counters.catch_up_bytes.add(wal.len() as u64);
        if position == end || position - settled >= UNSETTLED_BYTES_MAX {
            timeline.settle(&stepped).await.map_err(|error| error.to_string())?;
            settled = position;
        }
    }
    Ok(())
}
