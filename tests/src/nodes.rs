//! Node processes that are the members of one timeline, written to by hand-made proposers.

use std::ops::{Index, IndexMut};

use anyhow::{Context, Result, ensure};
use firn_core::api::{CreateTimeline, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership};
use firn_core::types::{Generation, Lsn, NodeId, PostgresVersion, SystemId, Term, TimelineKey};
use firn_tools::client::NodeClient;
use firn_tools::clock::wait_until;
use tempfile::TempDir;

use crate::cluster::LIMIT;
use crate::local::node::{NodeOptions, NodeProcess};
use crate::proposer::{HandmadeProposer, RECORDED_COMMIT, RECORDED_START};

/// The database cluster that the recorded WAL is of.
pub const SYSTEM_ID: SystemId = SystemId(7_710_948_517_785_714_850);
/// The shards of each node.
pub const SHARD_COUNT: u32 = 2;
/// The segment of 16 MB that begins with the recorded WAL's.
const FIRST_SEGMENT: &str = "000000010000000000000001";

/// Nodes 1, 2, ... at indices 0, 1, ...; all members of [`Nodes::key`] once it is created. They end with this value.
pub struct Nodes {
    /// The one timeline.
    pub key: TimelineKey,
    processes: Vec<NodeProcess>,
    _folder: TempDir,
}

impl Index<usize> for Nodes {
    type Output = NodeProcess;

    fn index(&self, index: usize) -> &NodeProcess {
        &self.processes[index]
    }
}

impl IndexMut<usize> for Nodes {
    fn index_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.processes[index]
    }
}

impl Nodes {
    /// Starts nodes on the real device.
    pub fn start(count: u64) -> Result<Nodes> {
        Nodes::start_with(count, false)
    }

    /// Starts nodes on a device that forgets with `kill -9` what it was not told to flush.
    pub fn start_volatile(count: u64) -> Result<Nodes> {
        Nodes::start_with(count, true)
    }

    fn start_with(count: u64, volatile: bool) -> Result<Nodes> {
        let folder = tempfile::tempdir()?;
        let start = |id: u64| {
            let arguments = ["--node-id".to_string(), id.to_string()].to_vec();
            let options = NodeOptions { shards: Some(SHARD_COUNT), volatile, arguments };
            let name = format!("node-{id}");
            let mut node = NodeProcess::new(&name, &folder.path().join(&name), options)?;
            node.start()?;
            Ok(node)
        };
        let processes = (1..=count).map(start).collect::<Result<_>>()?;
        let key = TimelineKey {
            tenant_id: "11110000000000000000000000000006".parse()?,
            timeline_id: "22220000000000000000000000000006".parse()?,
        };
        Ok(Nodes { key, processes, _folder: folder })
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    /// Ends all of them as a power cut would.
    pub fn kill_all(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(NodeProcess::kill)
    }

    /// One node's HTTP API.
    pub fn client(&self, index: usize) -> Result<NodeClient> {
        Ok(NodeClient::new(&self[index].url()?, None))
    }

    /// All of them as members, generation 1.
    pub fn membership(&self) -> Result<Membership> {
        let member = |(index, node): (usize, &NodeProcess)| {
            let address = node.pg_address()?;
            let (host, port) = address.rsplit_once(':').context("an address has a port")?;
            let id = NodeId(index as u64 + 1);
            Ok(Member { id, host: host.to_string(), pg_port: port.parse()? })
        };
        let members = self.processes.iter().enumerate().map(member).collect::<Result<_>>()?;
        Ok(Membership { generation: Generation(1), members, new_members: None })
    }

    /// What makes the timeline, empty, on a node.
    pub fn creation(&self) -> Result<CreateTimeline> {
        Ok(CreateTimeline {
            key: self.key,
            mconf: self.membership()?,
            pg_version: PostgresVersion(170_008),
            system_id: Some(SYSTEM_ID),
            wal_seg_size: None,
            start_lsn: RECORDED_START,
            commit_lsn: None,
            to_be_added: false,
        })
    }

    /// Makes the timeline on every node.
    pub fn create(&self) -> Result<()> {
        let creation = self.creation()?;
        (0..self.count()).try_for_each(|index| self.client(index)?.create(&creation))
    }

    /// A proposer that has not said anything yet.
    pub fn connect(&self, index: usize) -> Result<HandmadeProposer> {
        HandmadeProposer::connect(&self[index].pg_address()?, self.key, Generation(1))
    }

    /// A proposer that the node gave its vote.
    pub fn vote(&self, index: usize, term: u64) -> Result<HandmadeProposer> {
        let mut proposer = self.connect(index)?;
        proposer.greet(SYSTEM_ID)?;
        proposer.vote(Term(term))?;
        Ok(proposer)
    }

    /// Writes WAL to one node as the elected proposer of a term, and waits until it is durable there and the node knows
    /// `commit_lsn`, when that is one.
    pub fn push(
        &self,
        index: usize,
        term: u64,
        wal: &[u8],
        commit_lsn: Lsn,
    ) -> Result<HandmadeProposer> {
        let mut proposer = self.vote(index, term)?;
        let history = [(Term(0), RECORDED_START), (Term(term), RECORDED_START)];
        proposer.elected(&history, RECORDED_START)?;
        let end = proposer.append_all(RECORDED_START, wal)?;
        proposer.append(end, &[], commit_lsn)?;
        proposer.wait_flushed(end.min(RECORDED_COMMIT))?;
        if commit_lsn != Lsn::INVALID {
            self.wait_for(index, "told", |status| status.commit_lsn >= commit_lsn.min(end))?;
        }
        Ok(proposer)
    }

    /// What a node says of the timeline.
    pub fn status(&self, index: usize) -> Result<TimelineStatus> {
        self.client(index)?.timeline(self.key)
    }

    /// Waits for a status; `what` names it.
    pub fn wait_for(
        &self,
        index: usize,
        what: &str,
        wanted: impl Fn(&TimelineStatus) -> bool,
    ) -> Result<TimelineStatus> {
        let mut last = None;
        let found = wait_until(LIMIT, || {
            let status = self.status(index)?;
            let matches = wanted(&status);
            last = Some(status.clone());
            Ok(matches.then_some(status))
        })?;
        found.with_context(|| format!("node {} is not {what}: {last:?}", index + 1))
    }

    /// Checks that a node serves `wal` from [`RECORDED_START`] on. Returns what follows it, up to the segment's end.
    pub fn check_wal(&self, index: usize, wal: &[u8]) -> Result<Vec<u8>> {
        let segment = self.client(index)?.wal_file(self.key, FIRST_SEGMENT)?;
        let mut segment = segment.context("the node serves the segment")?;
        ensure!(segment.len() == 16 << 20);
        let begin = (RECORDED_START.0 % (16 << 20)) as usize;
        ensure!(segment[begin..begin + wal.len()] == *wal, "node {}: other bytes", index + 1);
        Ok(segment.split_off(begin + wal.len()))
    }
}
