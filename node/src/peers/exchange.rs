//! The exchange of positions between nodes. On shard 0.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::{PeerPosition, PeerReport};
use firn_core::consensus::membership::Member;
use firn_core::types::{NodeId, TimelineKey};

use crate::peers::POSITIONS_MAX;
use crate::peers::table::PositionTable;
use crate::runtime::{Task, TaskClass};
use crate::shard::Shard;
use crate::shard::request::Request;

/// How often positions are exchanged.
const EXCHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a connection failed; doubled after each further one.
const RECONNECT_MIN: Duration = Duration::from_secs(1);
/// Longest pause: a peer that is back is noticed within it.
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// An exchange is a round trip and some microseconds per position.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to peers: a node shares its timelines with far fewer.
const PEERS_MAX: usize = 256;

/// What shard 0 knows for the exchange. Clones are the same.
#[derive(Clone, Default)]
pub struct Exchange(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    table: PositionTable,
    /// Through which change each peer has heard us, on its present connection; of members only.
    told: BTreeMap<NodeId, u64>,
    links: BTreeMap<NodeId, Task<()>>,
}

/// Exchanges positions with all peers, for ever.
pub async fn run(shard: Shard) {
    let exchange = shard.exchange().clone();
    loop {
        exchange.gather(&shard).await;
        exchange.connect(&shard);
        shard.runtime().sleep(EXCHANGE_INTERVAL).await;
    }
}

impl Exchange {
    /// Takes over what changed on all shards.
    async fn gather(&self, shard: &Shard) {
        for number in 0..shard.node().shard_count() {
            // A shard tells each change once, so what the others told stays when one has stopped.
            let asked = shard.node().ask_shard(number, Request::Positions).await;
            let Ok((changed, gone)) = asked else { continue };
            let table = &mut self.0.borrow_mut().table;
            gone.into_iter().for_each(|key| table.remove(key));
            changed.into_iter().for_each(|own| table.set(own));
        }
    }

    /// Keeps a connection to every peer with a higher id: those with lower ones connect to us.
    fn connect(&self, shard: &Shard) {
        let own = shard.node_id();
        let peers = self.0.borrow().table.peers(own);
        let mut inner = self.0.borrow_mut();
        inner.links.retain(|peer, _| peers.contains(peer));
        inner.told.retain(|peer, _| peers.contains(peer));
        for peer in peers.into_iter().filter(|peer| *peer > own) {
            if inner.links.len() < PEERS_MAX && !inner.links.contains_key(&peer) {
                let link = self.clone().link(shard.clone(), peer);
                inner.links.insert(peer, shard.runtime().spawn(TaskClass::Background, link));
            }
        }
    }

    async fn link(self, shard: Shard, peer: NodeId) {
        let mut pause = RECONNECT_MIN;
        loop {
            let member = self.0.borrow().table.address(peer).cloned();
            let Some(member) = member else { return };
            let error = match self.talk(&shard, &member, &mut pause).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            tracing::debug!(%peer, error, "exchange with a peer ended");
            shard.runtime().sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    async fn talk(
        &self,
        shard: &Shard,
        member: &Member,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, String> {
        let peer = member.id;
        let client = shard.connect(&member.address(), None, "firn-peer").await;
        let mut client = client.map_err(|error| error.to_string())?;
        self.0.borrow_mut().told.remove(&peer);
        let mut fresh = true;
        loop {
            let report = self.report(shard, peer, fresh);
            let text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
            let command = format!("EXCHANGE_POSITIONS {text}");
            let answer = shard.runtime().within(ANSWER_TIMEOUT, client.ask(&command)).await;
            let answer = answer.ok_or("no answer")?.map_err(|error| error.to_string())?;
            let answer: PeerReport =
                serde_json::from_str(&answer).map_err(|error| error.to_string())?;
            if answer.node_id != peer {
                return Err(format!("node {} answers at its address", answer.node_id));
            }
            deliver(shard, peer, answer.positions).await;
            fresh = false;
            *pause = RECONNECT_MIN;
            shard.runtime().sleep(EXCHANGE_INTERVAL).await;
        }
    }

    /// Takes a peer's report and gives ours.
    pub async fn answer(&self, shard: &Shard, report: PeerReport) -> PeerReport {
        let peer = report.node_id;
        deliver(shard, peer, report.positions).await;
        if report.fresh {
            self.0.borrow_mut().told.remove(&peer);
        }
        self.report(shard, peer, report.fresh)
    }

    fn report(&self, shard: &Shard, peer: NodeId, fresh: bool) -> PeerReport {
        let mut inner = self.0.borrow_mut();
        if inner.table.address(peer).is_none() {
            // A node id that anybody may claim, of no member: nothing is kept for it.
            return PeerReport { node_id: shard.node_id(), fresh, positions: Vec::new() };
        }
        let after = inner.told.get(&peer).copied().unwrap_or(0);
        let (positions, through) = inner.table.news_for(peer, after, POSITIONS_MAX);
        inner.told.insert(peer, through);
        PeerReport { node_id: shard.node_id(), fresh, positions }
    }
}

/// Tells the shards what a peer said of their timelines.
async fn deliver(shard: &Shard, peer: NodeId, positions: Vec<PeerPosition>) {
    let mut by_shard: BTreeMap<usize, Vec<PeerPosition>> = BTreeMap::new();
    for position in positions.into_iter().take(POSITIONS_MAX) {
        let owner = shard.node().shard_of(position.key.tenant_id);
        by_shard.entry(owner).or_default().push(position);
    }
    for (owner, positions) in by_shard {
        // A shard that has stopped has no use for it.
        let _ = shard.node().sender(owner).send(Request::PeerPositions(peer, positions)).await;
    }
}

/// What of a shard's timelines changed since it was asked last, and which are gone.
pub type ShardNews = (Vec<super::table::OwnPosition>, Vec<TimelineKey>);
