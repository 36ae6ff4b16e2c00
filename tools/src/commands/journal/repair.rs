//! `firn journal repair`: what is left to do after nodes lost acknowledged data.
//!
//! Nodes re-seed their timelines from the other members by themselves; this shows how far they are and why they are not.
//! What no node does by itself is to give acknowledged data up: `--accept-loss`.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use firn_core::api::StandingStatus;
use firn_core::types::{TenantId, TimelineId, TimelineKey};

use crate::client::NodeClient;
use crate::clock::wait_until;
use crate::commands::nodes::NodesArguments;

/// `firn journal repair`.
#[derive(Debug, Args)]
pub struct RepairArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    /// How long to wait for nodes to re-seed their timelines, in seconds.
    #[arg(long, default_value_t = 60)]
    limit_s: u64,
    /// The other members are gone for good: vote without what was lost, acknowledged commits too.
    #[arg(long, requires_all = ["tenant", "timeline"])]
    accept_loss: bool,
    /// With --accept-loss: the timeline's tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// With --accept-loss: the timeline.
    #[arg(long)]
    timeline: Option<TimelineId>,
}

/// A timeline that is not whole on a node.
struct Affected {
    key: TimelineKey,
    line: String,
}

pub(super) fn run(arguments: &RepairArguments) -> Result<()> {
    let clients = arguments.nodes.clients();
    if let (true, Some(tenant_id), Some(timeline_id)) =
        (arguments.accept_loss, arguments.tenant, arguments.timeline)
    {
        return accept_loss(&clients, TimelineKey { tenant_id, timeline_id });
    }
    let mut waiting = 0;
    for client in &clients {
        let found = affected(client)?;
        for timeline in &found {
            println!("{}: {}", client.address(), timeline.line);
        }
        waiting += found.len();
    }
    if waiting == 0 {
        println!("nothing to repair: every timeline of these nodes is whole");
        return Ok(());
    }
    println!("waiting until the nodes have re-seeded {waiting} timelines from their other members");
    let limit = Duration::from_secs(arguments.limit_s);
    let all_whole = || {
        let left = clients.iter().map(affected).collect::<Result<Vec<_>>>()?;
        Ok(left.iter().all(Vec::is_empty).then_some(()))
    };
    if wait_until(limit, all_whole)?.is_some() {
        println!("repaired: every timeline of these nodes is whole");
        return Ok(());
    }
    let mut left = 0;
    for client in &clients {
        for timeline in affected(client)? {
            left += 1;
            println!("{}: {}", client.address(), timeline.line);
        }
    }
    bail!(
        "{left} timelines are not whole after {limit:?}. The nodes go on trying: bring the members named above back. A member that \
         is gone for good is replaced (firn timeline members); only when too few are left to do so, firn journal repair --accept-loss"
    )
}

fn affected(client: &NodeClient) -> Result<Vec<Affected>> {
    let mut found = Vec::new();
    for key in client.timelines()? {
        let status = client.timeline(key)?;
        let state = match status.standing {
            StandingStatus::Whole => continue,
            StandingStatus::Suspect => "lost acknowledged data, votes and acknowledges nothing",
            StandingStatus::Seeding => "is being re-seeded",
        };
        let why =
            status.reseed_error.map_or(String::new(), |error| format!("; last attempt: {error}"));
        found.push(Affected { key, line: format!("timeline {key} {state}{why}") });
    }
    Ok(found)
}

fn accept_loss(clients: &[NodeClient], key: TimelineKey) -> Result<()> {
    ensure!(clients.len() == 1, "--accept-loss is about one node: name only that one in --nodes");
    let is_affected = affected(&clients[0])?.iter().any(|timeline| timeline.key == key);
    ensure!(is_affected, "{}: timeline {key} has lost nothing there", clients[0].address());
    let status = clients[0].accept_loss(key)?;
    println!(
        "{}: timeline {key} goes on with what is left, up to {} (committed up to {}) in term {}",
        clients[0].address(),
        status.flush_lsn,
        status.commit_lsn,
        status.acceptor_state.term
    );
    Ok(())
}
