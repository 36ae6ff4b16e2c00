//! The command line of `firn-node run`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use firn_core::types::NodeId;
use thiserror::Error;

use crate::credentials::CredentialFiles;
use crate::runtime::{
    CoresParseError, Device, RuntimeName, RuntimeOptions, parse_cores, parse_time,
};

/// Most shards of a node: file names and metrics are made for three digits.
pub const SHARDS_MAX: usize = 256;

/// Options of `firn-node run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Data directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address of the Postgres-protocol port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5454")]
    pub listen: String,
    /// Address of the HTTP port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7676")]
    pub http: String,
    /// Number of shards: threads with a journal each [default: one per available core]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Cores to pin shards to, as 0,2-5; without it nothing is pinned
    #[arg(long, value_name = "LIST")]
    pub cores: Option<CoreList>,
    /// File that gets the node id and the addresses as JSON once the node listens
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,
    /// How long an idle shard polls before it sleeps, as 100us; only on cores of its own (--cores)
    #[arg(long, value_name = "TIME", default_value = "0us", value_parser = parse_time)]
    pub spin: Duration,
    /// What stands between files and the disk: real, volatile (what is not flushed is lost with the process, as in a power
    /// cut) or modelled[:WRITE[:READ]] (operations take at least 20us and 80us)
    #[arg(long, value_name = "DEVICE", default_value = "real")]
    pub device: Device,
    /// How shards reach disks and sockets
    #[arg(long, value_name = "NAME", default_value = "uring")]
    pub runtime: RuntimeName,
    /// Ed25519 public key (PEM), or a directory of them; without it everyone may do everything, on loopback only
    #[arg(long, value_name = "PEM|DIR")]
    pub auth_public_key: Option<PathBuf>,
    /// Certificate of this node and those above it (PEM): the Postgres-protocol port offers TLS
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Refuse clients without TLS on the Postgres-protocol port
    #[arg(long, requires = "tls_cert")]
    pub tls_required: bool,
    /// Authorities of the other nodes' certificates (PEM): speaks TLS to them, and checks their host names
    #[arg(long, value_name = "PEM")]
    pub tls_ca: Option<PathBuf>,
    /// Token that this node shows to other acceptors [env: FIRN_AUTH_TOKEN]
    #[arg(long, value_name = "JWT", env = "FIRN_AUTH_TOKEN", hide_env_values = true)]
    pub auth_token: Option<String>,
    /// Where others reach the Postgres-protocol port: what firn tells relays and members [default: what it listens on]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Number of the node: chosen at random for a new data directory, compared with that of an old one
    #[arg(long, value_name = "ID", value_parser = parse_node_id)]
    pub node_id: Option<NodeId>,
    /// Look at everything that a start would look at, change nothing, say each problem in a line, and end
    #[arg(long)]
    pub check_config: bool,
}

/// Cores, as the text `0,2-5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

/// Options that do not go together, or mean nothing.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ArgumentError {
    /// An address that is none.
    #[error("{option} {value}: {reason}")]
    Address {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A node without authentication on an address that others reach.
    #[error(
        "{option} {address} is not a loopback address: without --auth-public-key a node serves loopback only"
    )]
    NotLoopback {
        /// The option.
        option: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A number of shards out of bounds.
    #[error("--shards {found}: expected 1 to {SHARDS_MAX}")]
    Shards {
        /// The number.
        found: usize,
    },
    /// An advertised address that is none.
    #[error("--advertise {value}: expected HOST:PORT")]
    Advertise {
        /// The value.
        value: String,
    },
    /// Fewer cores than shards.
    #[error("--cores names {cores} cores for {shards} shards: expected one for each")]
    Cores {
        /// Cores named.
        cores: usize,
        /// Shards to run.
        shards: usize,
    },
}

impl RunArguments {
    /// Address of the Postgres-protocol port, resolved and allowed.
    pub fn listen_address(&self) -> Result<SocketAddr, ArgumentError> {
        self.address("--listen", &self.listen)
    }

    /// Address of the HTTP port, resolved and allowed.
    pub fn http_address(&self) -> Result<SocketAddr, ArgumentError> {
        self.address("--http", &self.http)
    }

    /// Where the node's credentials are read from.
    pub fn credential_files(&self) -> CredentialFiles {
        CredentialFiles {
            public_keys: self.auth_public_key.clone(),
            certificate: self.tls_cert.clone().zip(self.tls_key.clone()),
            authorities: self.tls_ca.clone(),
        }
    }

    /// Host and port under which others reach the Postgres-protocol port, if they were given.
    pub fn advertised(&self) -> Result<Option<(String, u16)>, ArgumentError> {
        let Some(value) = &self.advertise else { return Ok(None) };
        let parsed =
            value.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parsed {
            // Brackets belong to the written form of an IPv6 address only.
            Some((host, port @ 1..)) if !host.trim_matches(['[', ']']).is_empty() => {
                Ok(Some((host.trim_matches(['[', ']']).to_string(), port)))
            }
            _ => Err(ArgumentError::Advertise { value: value.clone() }),
        }
    }

    fn address(&self, option: &'static str, value: &str) -> Result<SocketAddr, ArgumentError> {
        let error = |reason: String| ArgumentError::Address { option, value: value.into(), reason };
        let mut found = value.to_socket_addrs().map_err(|error_| error(error_.to_string()))?;
        let address = found.next().ok_or_else(|| error("no such host".to_string()))?;
        if self.auth_public_key.is_none() && !is_loopback(address.ip()) {
            return Err(ArgumentError::NotLoopback { option, address });
        }
        Ok(address)
    }

    /// The number of shards; `available` is the number of cores that this process may use.
    pub fn shard_count(&self, available: usize) -> Result<usize, ArgumentError> {
        let cores = self.cores.as_ref().map(|list| list.0.len());
        let shards = self.shards.or(cores).unwrap_or(available.min(SHARDS_MAX));
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(ArgumentError::Shards { found: shards });
        }
        match cores {
            Some(cores) if cores < shards => Err(ArgumentError::Cores { cores, shards }),
            _ => Ok(shards),
        }
    }

    /// How that many shards are started.
    pub fn runtime_options(&self, shards: usize) -> RuntimeOptions {
        RuntimeOptions {
            shards,
            cores: self.cores.clone().map(|list| list.0).unwrap_or_default(),
            spin: self.spin,
            device: self.device,
            runtime: self.runtime,
            ..RuntimeOptions::default()
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn parse_node_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 to 2^64-1".to_string()),
        Ok(id) => Ok(NodeId(id)),
    }
}

impl FromStr for CoreList {
    type Err = CoresParseError;
    fn from_str(text: &str) -> Result<CoreList, CoresParseError> {
        parse_cores(text).map(CoreList)
    }
}

#[cfg(test)]
mod tests;
