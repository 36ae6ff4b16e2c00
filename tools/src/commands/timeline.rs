//! `firn timeline`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use firn_core::api::{CreateTimeline, StandingStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::{
    Generation, Lsn, PostgresVersion, SystemId, TenantId, TimelineId, TimelineKey,
};

use crate::client::NodeClient;
use crate::commands::nodes::{KeyArguments, NodesArguments, random_id};
use crate::commands::rebuild::RebuildCommand;
use crate::commands::timeline_members::MembersCommand;

/// Timelines.
#[derive(Debug, Subcommand)]
pub enum TimelineCommand {
    /// Make a timeline whose acceptors are the named nodes.
    Create(CreateArguments),
    /// The timelines of the named nodes.
    List(ListArguments),
    /// What each node knows of a timeline.
    Show(ShowArguments),
    /// Stop all proposers of lower terms and print the final LSN.
    Fence(FenceArguments),
    /// Fence, then make a data directory that ends exactly where the quorum's WAL ends.
    Rebuild(RebuildCommand),
    /// Add or remove a timeline's acceptors while it is written.
    #[command(subcommand)]
    Members(MembersCommand),
    /// Remove a timeline from the named nodes.
    Delete(DeleteArguments),
}

impl TimelineCommand {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            TimelineCommand::Create(arguments) => create(&arguments),
            TimelineCommand::List(arguments) => list(&arguments),
            TimelineCommand::Show(arguments) => show(&arguments),
            TimelineCommand::Fence(arguments) => fence(&arguments),
            TimelineCommand::Rebuild(arguments) => arguments.run(),
            TimelineCommand::Members(command) => command.run(),
            TimelineCommand::Delete(arguments) => delete(&arguments),
        }
    }
}

/// `firn timeline create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    /// Tenant: 32 hex digits; random when not given.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Timeline: 32 hex digits; random when not given.
    #[arg(long)]
    timeline: Option<TimelineId>,
    /// The primary to follow (libpq connection string): tells where the timeline begins, and the rest below.
    #[arg(long, required_unless_present = "start_lsn")]
    postgres: Option<String>,
    /// Where the timeline begins, when no primary can be asked.
    #[arg(long, conflicts_with = "postgres")]
    start_lsn: Option<Lsn>,
    /// Version of Postgres, as 160009.
    #[arg(long, default_value_t = 0, conflicts_with = "postgres")]
    pg_version: u32,
    /// The cluster's system identifier.
    #[arg(long, default_value_t = 0, conflicts_with = "postgres")]
    system_id: u64,
    /// Bytes in a WAL segment.
    #[arg(long, default_value_t = firn_core::api::DEFAULT_SEGMENT_SIZE_BYTES, conflicts_with = "postgres")]
    segment_size_bytes: u32,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// What has to be known of a cluster to create a timeline for it.
pub struct Cluster {
    start_lsn: Lsn,
    pg_version: u32,
    system_id: u64,
    segment_size_bytes: u32,
}

/// Asks a primary; the timeline begins with the segment that it writes now.
pub fn ask_primary(conninfo: &str) -> Result<Cluster> {
    let mut client = postgres::Client::connect(conninfo, postgres::NoTls)
        .context("cannot connect to the primary")?;
    let row = client.query_one(
        "SELECT pg_current_wal_lsn()::text, current_setting('server_version_num'), system_identifier::text, \
         (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_control_system()",
        &[],
    );
    let row = row.context("cannot ask the primary for its WAL position")?;
    let lsn: Lsn = row.get::<_, String>(0).parse()?;
    let segment_size_bytes: u32 = row.get::<_, String>(3).parse()?;
    Ok(Cluster {
        start_lsn: lsn.segment_start(segment_size_bytes.into()),
        pg_version: row.get::<_, String>(1).parse()?,
        system_id: row.get::<_, String>(2).parse()?,
        segment_size_bytes,
    })
}

fn create(arguments: &CreateArguments) -> Result<()> {
    let cluster = match (&arguments.postgres, arguments.start_lsn) {
        (Some(conninfo), _) => ask_primary(conninfo)?,
        (None, Some(start_lsn)) => Cluster {
            start_lsn,
            pg_version: arguments.pg_version,
            system_id: arguments.system_id,
            segment_size_bytes: arguments.segment_size_bytes,
        },
        (None, None) => bail!("say --postgres or --start-lsn"),
    };
    let key = TimelineKey {
        tenant_id: arguments.tenant.map_or_else(|| random_id().map(TenantId), Ok)?,
        timeline_id: arguments.timeline.map_or_else(|| random_id().map(TimelineId), Ok)?,
    };
    let created = create_on(&arguments.nodes.clients(), key, &cluster)?;
    if arguments.json {
        let (start_lsn, acceptors) = (created.start_lsn, acceptors(&created.mconf));
        println!(
            "{}",
            serde_json::json!({
                "tenant_id": key.tenant_id,
                "timeline_id": key.timeline_id,
                "start_lsn": start_lsn,
                "acceptors": acceptors,
            })
        );
        return Ok(());
    }
    println!("tenant    {}", key.tenant_id);
    println!("timeline  {}", key.timeline_id);
    println!("begins    {}", created.start_lsn);
    println!("acceptors {}", acceptors(&created.mconf).join(","));
    Ok(())
}

/// Creates a timeline for `cluster` whose acceptors are these nodes, with the first generation.
pub fn create_on(
    clients: &[NodeClient],
    key: TimelineKey,
    cluster: &Cluster,
) -> Result<CreateTimeline> {
    let members = clients.iter().map(member).collect::<Result<Vec<Member>>>()?;
    let ids: BTreeSet<_> = members.iter().map(|member| member.id).collect();
    ensure!(ids.len() == members.len(), "two of the addresses lead to the same node");
    let body = CreateTimeline {
        key,
        mconf: Membership { generation: Generation(1), members, new_members: None },
        pg_version: PostgresVersion(cluster.pg_version),
        system_id: (cluster.system_id != 0).then_some(SystemId(cluster.system_id)),
        wal_seg_size: Some(cluster.segment_size_bytes),
        start_lsn: cluster.start_lsn,
        commit_lsn: None,
        to_be_added: false,
    };
    for client in clients {
        client.create(&body)?;
    }
    Ok(body)
}

/// The members' acceptors as `host:port`, as a relay wants them.
pub fn acceptors(membership: &Membership) -> Vec<String> {
    membership.members.iter().map(Member::address).collect()
}

/// The node behind a client as a member: its id and where its acceptor is, as it tells; without a host, the one where its
/// HTTP API is.
pub fn member(client: &NodeClient) -> Result<Member> {
    let status = client.status()?;
    let pg_port = status
        .pg_port
        .with_context(|| format!("node {} does not tell its Postgres port", client.address()))?;
    let host = status.pg_host.unwrap_or_else(|| client.host().to_string());
    Ok(Member { id: status.id, host, pg_port })
}

/// `firn timeline list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn list(arguments: &ListArguments) -> Result<()> {
    let mut holders: BTreeMap<TimelineKey, Vec<(u64, Lsn)>> = BTreeMap::new();
    let mut answered = 0;
    for client in arguments.nodes.clients() {
        let found = client.status().and_then(|status| Ok((status.id, client.timelines()?)));
        match found {
            Ok((id, keys)) => {
                answered += 1;
                for key in keys {
                    let commit_lsn = client.timeline(key)?.commit_lsn;
                    holders.entry(key).or_default().push((id.0, commit_lsn));
                }
            }
            Err(error) => eprintln!("firn: {error:#}"),
        }
    }
    ensure!(answered > 0, "no node answered");
    if arguments.json {
        let timelines: Vec<_> = holders
            .iter()
            .map(|(key, nodes)| {
                let nodes: Vec<_> = nodes
                    .iter()
                    .map(|(id, lsn)| serde_json::json!({"node_id": id, "commit_lsn": lsn}))
                    .collect();
                serde_json::json!({"tenant_id": key.tenant_id, "timeline_id": key.timeline_id, "nodes": nodes})
            })
            .collect();
        println!("{}", serde_json::json!({ "timelines": timelines }));
        return Ok(());
    }
    println!("{:<32}  {:<32}  {:>5}  commit LSN", "tenant", "timeline", "nodes");
    for (key, nodes) in holders {
        let commit_lsn = nodes.iter().map(|(_, lsn)| *lsn).max().unwrap_or_default();
        println!("{}  {}  {:>5}  {commit_lsn}", key.tenant_id, key.timeline_id, nodes.len());
    }
    Ok(())
}

/// `firn timeline show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// The nodes' own JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn show(arguments: &ShowArguments) -> Result<()> {
    let statuses = arguments.nodes.statuses(arguments.key.key())?;
    if arguments.json {
        let nodes: BTreeMap<_, _> =
            statuses.iter().map(|(client, status)| (client.address(), status)).collect();
        println!("{}", serde_json::to_string_pretty(&nodes)?);
        return Ok(());
    }
    for (client, status) in statuses {
        let members: Vec<String> =
            status.mconf.members.iter().map(|member| member.id.to_string()).collect();
        println!("{}", client.address());
        println!(
            "  term       {} (log: {})",
            status.acceptor_state.term, status.acceptor_state.epoch
        );
        if status.standing != StandingStatus::Whole {
            println!("  standing   {:?}: see firn journal repair", status.standing);
        }
        println!("  durable    {}", status.flush_lsn);
        println!("  committed  {}", status.commit_lsn);
        println!(
            "  WAL from   {} (timeline from {})",
            status.local_start_lsn, status.timeline_start_lsn
        );
        for reader in &status.walsenders {
            let name = reader.appname.as_deref().unwrap_or("a reader");
            println!("  reader     {name}: sent {}, durable {}", reader.sent_lsn, reader.flush_lsn);
        }
        for slot in &status.slots {
            println!("  slot       {}: from {}", slot.name, slot.restart_lsn);
        }
        println!("  members    {} (generation {})", members.join(", "), status.mconf.generation);
        if let Some(new_members) = &status.mconf.new_members {
            let new_members: Vec<String> =
                new_members.iter().map(|member| member.id.to_string()).collect();
            println!("  changing to {}", new_members.join(", "));
        }
        println!(
            "  Postgres   {} system {} segments of {} bytes",
            status.pg_info.pg_version.0, status.pg_info.system_id, status.pg_info.wal_seg_size
        );
    }
    Ok(())
}

/// `firn timeline fence`.
#[derive(Debug, Args)]
pub struct FenceArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// The node's own JSON instead of lines.
    #[arg(long)]
    json: bool,
}

fn fence(arguments: &FenceArguments) -> Result<()> {
    let fenced = arguments.nodes.first(|client| client.fence(arguments.key.key()))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&fenced)?);
        return Ok(());
    }
    println!("fenced at {} in term {}", fenced.lsn, fenced.term);
    Ok(())
}

/// `firn timeline delete`.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    #[command(flatten)]
    nodes: NodesArguments,
    #[command(flatten)]
    key: KeyArguments,
    /// Say that you mean it: the WAL on these nodes is gone afterwards.
    #[arg(long, required = true)]
    yes: bool,
}

fn delete(arguments: &DeleteArguments) -> Result<()> {
    ensure!(arguments.yes, "say --yes");
    for client in arguments.nodes.clients() {
        let deleted = client.delete(arguments.key.key())?;
        let what = if deleted.dir_existed { "deleted" } else { "was not there" };
        println!("{}: {what}", client.address());
    }
    Ok(())
}
