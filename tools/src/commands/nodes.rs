//! Which nodes and which timeline a command is about.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use firn_core::api::TimelineStatus;
use firn_core::types::{TenantId, TimelineId, TimelineKey};

use crate::client::NodeClient;

/// The nodes that a command asks.
#[derive(Debug, Clone, Args)]
pub struct NodesArguments {
    /// HTTP addresses of the nodes (host:port), separated by commas.
    #[arg(long, env = "FIRN_NODES", value_delimiter = ',', required = true)]
    pub nodes: Vec<String>,
    /// Token for nodes that want authentication.
    #[arg(long, env = "FIRN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl NodesArguments {
    /// A client for each node.
    pub fn clients(&self) -> Vec<NodeClient> {
        self.nodes.iter().map(|address| self.client(address)).collect()
    }

    /// A client for the node at `address`, with the same token.
    pub fn client(&self, address: &str) -> NodeClient {
        NodeClient::new(address, self.token.as_deref())
    }

    /// Asks the nodes one after the other until one answers well; the last error when none does.
    pub fn first<T>(&self, ask: impl Fn(&NodeClient) -> Result<T>) -> Result<T> {
        let mut last = None;
        for client in self.clients() {
            match ask(&client) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if let Some(earlier) = last.replace(error) {
                        eprintln!("firn: {earlier:#}");
                    }
                }
            }
        }
        Err(last.context("no node was named")?)
    }

    /// What each node that answers knows of a timeline, in the nodes' order.
    pub fn statuses(&self, key: TimelineKey) -> Result<Vec<(NodeClient, TimelineStatus)>> {
        let mut found = Vec::new();
        for client in self.clients() {
            match client.timeline(key) {
                Ok(status) => found.push((client, status)),
                Err(error) => eprintln!("firn: {error:#}"),
            }
        }
        ensure!(!found.is_empty(), "no node told about timeline {key}");
        Ok(found)
    }
}

/// The timeline that a command is about.
#[derive(Debug, Clone, Copy, Args)]
pub struct KeyArguments {
    /// Tenant: 32 hex digits.
    #[arg(long, env = "FIRN_TENANT")]
    pub tenant: TenantId,
    /// Timeline: 32 hex digits.
    #[arg(long, env = "FIRN_TIMELINE")]
    pub timeline: TimelineId,
}

impl KeyArguments {
    /// Tenant and timeline.
    pub fn key(&self) -> TimelineKey {
        TimelineKey { tenant_id: self.tenant, timeline_id: self.timeline }
    }
}

/// 16 random bytes, as an id that nobody has yet.
pub fn random_id() -> Result<firn_core::types::Id> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(0) => bail!("the system gave no random bytes"),
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot get random bytes"),
        }
    }
    Ok(firn_core::types::Id(bytes))
}
