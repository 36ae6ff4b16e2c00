//! The command line of `firn-node relay`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::Args;
use firn_core::consensus::membership::MEMBERS_MAX;
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use thiserror::Error;

use super::acceptor::AcceptorOptions;
use super::postgres::conninfo::{Conninfo, ConninfoError};
use super::primary::PrimaryOptions;
use crate::tls::CertificateError;

/// Options of `firn-node relay`.
#[derive(Debug, Clone, Args)]
pub struct RelayArguments {
    /// The primary to follow: a libpq connection string or URI; PG* variables and password files count
    #[arg(long, value_name = "CONNINFO", env = "FIRN_POSTGRES", hide_env_values = true)]
    pub postgres: String,
    /// Tenant: 32 hex digits
    #[arg(long, value_name = "ID")]
    pub tenant: TenantId,
    /// Timeline: 32 hex digits
    #[arg(long, value_name = "ID")]
    pub timeline: TimelineId,
    /// Postgres-protocol addresses of the timeline's acceptors
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    pub acceptors: Vec<String>,
    /// Physical replication slot; made if it is not there
    #[arg(long, value_name = "NAME", default_value = "firn")]
    pub slot: String,
    /// Name to list in synchronous_standby_names [default: the connection string's, or firn]
    #[arg(long, value_name = "NAME")]
    pub application_name: Option<String>,
    /// Address of an HTTP port that serves /metrics; without it there is none
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Token to show to acceptors that ask for one
    #[arg(long, value_name = "JWT", env = "FIRN_AUTH_TOKEN", hide_env_values = true)]
    pub auth_token: Option<String>,
    /// Authorities of the acceptors' certificates (PEM): speaks TLS to them, and checks their host names
    #[arg(long, value_name = "PEM")]
    pub tls_ca: Option<PathBuf>,
}

/// Options that mean nothing.
#[derive(Debug, PartialEq, Error)]
pub enum OptionsError {
    /// The connection string.
    #[error("--postgres: {0}")]
    Conninfo(#[from] ConninfoError),
    /// The authorities.
    #[error("--tls-ca: {0}")]
    Authorities(#[from] CertificateError),
    /// More acceptors than a membership can have.
    #[error("--acceptors names {found} acceptors, expected at most {MEMBERS_MAX}")]
    TooManyAcceptors {
        /// How many.
        found: usize,
    },
    /// An acceptor that stands twice.
    #[error("--acceptors names {0} twice")]
    Twice(String),
    /// An address that is none.
    #[error("--acceptors: {0:?} is not HOST:PORT")]
    Address(String),
    /// Neither is this.
    #[error("--http: {0:?} is not HOST:PORT of this machine")]
    Http(String),
}

/// What a relay is told, checked.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The primary.
    pub primary: PrimaryOptions,
    /// Whose WAL it is.
    pub key: TimelineKey,
    /// `host:port` of the acceptors, distinct.
    pub addresses: Vec<String>,
    /// How to talk to them.
    pub acceptor: AcceptorOptions,
    /// Where metrics are served.
    pub http: Option<SocketAddr>,
}

impl RelayArguments {
    /// Checks what was given; the rest of the connection string comes from `environment`.
    pub fn check(
        self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<RelayOptions, OptionsError> {
        let conninfo = Conninfo::parse(&self.postgres, environment)?;
        if self.acceptors.len() > MEMBERS_MAX {
            return Err(OptionsError::TooManyAcceptors { found: self.acceptors.len() });
        }
        for (index, address) in self.acceptors.iter().enumerate() {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(OptionsError::Address(address.clone()));
            }
            if self.acceptors[..index].contains(address) {
                return Err(OptionsError::Twice(address.clone()));
            }
        }
        let http = match self.http {
            None => None,
            Some(text) => {
                let resolved = text.to_socket_addrs().ok().and_then(|mut found| found.next());
                Some(resolved.ok_or(OptionsError::Http(text))?)
            }
        };
        let trusted = self.tls_ca.as_deref().map(crate::tls::client).transpose()?;
        let named = self.application_name.or_else(|| conninfo.application_name.clone());
        let application_name = named.unwrap_or_else(|| "firn".to_string());
        Ok(RelayOptions {
            primary: PrimaryOptions { conninfo, slot: self.slot, application_name },
            key: TimelineKey { tenant_id: self.tenant, timeline_id: self.timeline },
            addresses: self.acceptors,
            acceptor: AcceptorOptions { auth_token: self.auth_token, trusted },
            http,
        })
    }
}

#[cfg(test)]
mod tests;
