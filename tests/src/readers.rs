//! Stock readers of a node's WAL: hot standbys and `pg_receivewal`, as real processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use firn_core::types::{Lsn, TimelineKey};
use firn_core::wire::postgres::message::{self, Encode, Message};
use firn_core::wire::postgres::replication::FromServer;
use firn_core::wire::postgres::startup::encode_startup;
use firn_tools::clock::wait_until;
use firn_tools::local::cluster::LIMIT;
use firn_tools::local::node::NodeProcess;
use firn_tools::local::postgres::PostgresServer;
use firn_tools::local::postgres_install::{PostgresInstall, ServerUser};
use firn_tools::local::process::Process;

use crate::cluster::TestCluster;

/// The connection string with which stock clients read the cluster's timeline from a node.
pub fn conninfo(cluster: &TestCluster, node: &NodeProcess) -> Result<String> {
    let port = node.pg_address()?.rsplit_once(':').context("an address has a port")?.1.to_string();
    let (tenant, timeline) = (cluster.key.tenant_id, cluster.key.timeline_id);
    Ok(format!(
        "host=127.0.0.1 port={port} user=postgres options='-c tenant_id={tenant} -c timeline_id={timeline}'"
    ))
}

/// A standby from a new base backup of the primary, which streams from a node. Not started.
pub fn standby(
    cluster: &TestCluster,
    name: &str,
    node: &NodeProcess,
    settings: &[(&str, &str)],
) -> Result<PostgresServer> {
    let data = cluster.path(name);
    cluster.postgres.base_backup(&data)?;
    fs::write(data.join("standby.signal"), "")?;
    let standby = PostgresServer::adopt(cluster.postgres.install.clone(), &data)?;
    let conninfo = format!("{} application_name={name}", conninfo(cluster, node)?);
    // Its own loss of a connection shall be tried again at once.
    let retry = [("primary_conninfo", conninfo.as_str()), ("wal_retrieve_retry_interval", "100ms")];
    standby.configure(&retry)?;
    standby.configure(settings)?;
    Ok(standby)
}

/// Waits until a query to a server gives this.
pub fn wait_for(server: &mut PostgresServer, sql: &str, expected: &str) -> Result<()> {
    let mut last = String::new();
    let answers = || {
        server.check_running()?;
        // It may not accept connections yet.
        last = server.sql(sql).unwrap_or_else(|error| format!("{error:#}"));
        Ok((last == expected).then_some(()))
    };
    let found = wait_until(LIMIT, answers)?;
    found.with_context(|| format!("{sql}: expected {expected}, found {last}"))
}

/// Waits until a standby has replayed all that the primary has flushed.
pub fn catch_up(primary: &PostgresServer, standby: &mut PostgresServer) -> Result<()> {
    let end = primary.sql("SELECT pg_current_wal_flush_lsn()")?;
    wait_for(standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t")
}

/// A running `pg_receivewal` with its directory.
pub struct ReceiveWal {
    process: Process,
    directory: PathBuf,
}

impl ReceiveWal {
    /// Starts it with further arguments; it connects again by itself.
    pub fn start(
        install: &PostgresInstall,
        conninfo: &str,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<ReceiveWal> {
        fs::create_dir_all(directory)?;
        ServerUser::give(directory)?;
        let mut command = install.command("pg_receivewal")?;
        command.arg("-D").arg(directory).args(["-d", conninfo, "-v", "-s", "1"]).args(arguments);
        let log = directory.with_extension("log");
        let process = Process::start("pg_receivewal", &mut command, &log)?;
        Ok(ReceiveWal { process, directory: directory.to_path_buf() })
    }

    /// Waits until the segment of this name is complete.
    pub fn wait_for_segment(&mut self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        let complete = || {
            self.process.check_running()?;
            Ok(path.is_file().then_some(()))
        };
        let found = wait_until(LIMIT, complete)?;
        found.with_context(|| {
            let log = fs::read_to_string(self.process.log()).unwrap_or_default();
            format!("{name} was not received:\n{log}")
        })
    }

    /// Ends it as Ctrl-C does; what it said.
    pub fn stop(mut self) -> Result<String> {
        let status = self.process.interrupt()?;
        let said = fs::read_to_string(self.process.log())?;
        ensure!(status.success(), "pg_receivewal failed ({status}):\n{said}");
        Ok(said)
    }
}

/// A reader of Postgres timeline 1 that reads its socket only when told to.
pub struct RawReader {
    stream: TcpStream,
    received: Vec<u8>,
    position: Lsn,
}

impl RawReader {
    /// Connects and begins a stream; nothing of it is read.
    pub fn start(address: &str, key: TimelineKey, begin: Lsn) -> Result<RawReader> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (tenant, timeline) = (key.tenant_id, key.timeline_id);
        let options = format!("-c tenant_id={tenant} -c timeline_id={timeline}");
        let mut hello =
            encode_startup(&[("user", "any"), ("replication", "true"), ("options", &options)]);
        hello.query(&format!("START_REPLICATION {begin} TIMELINE 1"));
        stream.write_all(&hello)?;
        let mut reader = RawReader { stream, received: Vec::new(), position: begin };
        while reader.message(|message| Ok(message.tag == b'W'))? != Some(true) {}
        Ok(reader)
    }

    /// Reads the stream up to a position; all WAL that came.
    pub fn read_to(&mut self, end: Lsn) -> Result<Vec<u8>> {
        let mut wal = Vec::new();
        while self.position < end {
            let position = self.position;
            let read = self.message(|message| match FromServer::decode(message.payload)? {
                FromServer::Wal { start, wal: bytes, .. } => {
                    ensure!(start == position, "WAL at {start}, expected {position}");
                    wal.extend_from_slice(bytes);
                    Ok(bytes.len() as u64)
                }
                FromServer::Keepalive { .. } => Ok(0),
            })?;
            self.position = position + read.unwrap_or(0);
        }
        Ok(wal)
    }

    /// Handles the next message, or reads more and returns `None`.
    fn message<T>(&mut self, handle: impl FnOnce(Message<'_>) -> Result<T>) -> Result<Option<T>> {
        if let Some((message, length)) = message::decode(&self.received)? {
            let handled = handle(message)?;
            self.received.drain(..length);
            return Ok(Some(handled));
        }
        let mut buffer = vec![0; 64 * 1024];
        let count = self.stream.read(&mut buffer)?;
        ensure!(count > 0, "the node closed the stream");
        self.received.extend_from_slice(&buffer[..count]);
        Ok(None)
    }
}

/// The WAL segments in a directory, complete ones and `.partial` ones, by name.
pub fn segments(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() >= 24 && name[..24].bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(found)
}
