//! TLS between nodes, and towards the clients of a node's Postgres port: what is shown and what is trusted.
//!
//! The bytes are the runtime's business ([`Stream::encrypt`]). How a relay trusts its Postgres, which follows libpq, is in
//! `relay::postgres::tls`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_core::wire::postgres::startup::SSL_REQUEST_PACKET;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use thiserror::Error;

use crate::runtime::{Runtime, Stream};
use crate::small_file;

/// What Postgres' protocol is called inside TLS, as registered with IANA for ALPN.
pub const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

/// Why a certificate or key cannot be used.
#[derive(Debug, PartialEq, Error)]
pub enum CertificateError {
    /// A file that cannot be read, or does not hold what it should.
    #[error("cannot read {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that is not the certificate's, or of a kind that is not known.
    #[error("certificate {certificate} with key {key}: {error}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
}

/// Reads the certificates of a PEM file; there is at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(file_error(path, "holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(file_error(path, error)),
    }
}

/// Reads the private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| file_error(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    small_file::read(path).map_err(|error| file_error(path, error))
}

fn file_error(path: &Path, reason: impl ToString) -> CertificateError {
    CertificateError::File { path: path.to_path_buf(), reason: reason.to_string() }
}

/// What a node shows on its Postgres port: a certificate with those that lead to its authority, and its key.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, CertificateError> {
    let (chain, private) = (certificates(certificate)?, private_key(key)?);
    let pair = |error| CertificateError::Pair {
        certificate: certificate.to_path_buf(),
        key: key.to_path_buf(),
        error,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
    // Connections are long: nothing is kept to resume them, as in Postgres.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What a node or relay trusts when it connects to acceptors: certificates of these authorities, for the acceptor's host.
pub fn client(authorities: &Path) -> Result<Arc<ClientConfig>, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| file_error(authorities, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error(authorities, error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects to an acceptor at `host:port`, through TLS where there is something to trust.
///
/// # Errors
/// If it cannot be reached, has no TLS, or shows a certificate that is not its host's or of no trusted authority.
pub async fn connect(
    runtime: &Runtime,
    address: &str,
    trusted: Option<&Arc<ClientConfig>>,
) -> io::Result<Stream> {
    let stream = runtime.connect(address).await?;
    let Some(trusted) = trusted else { return Ok(stream) };
    let failed = |error: String| io::Error::other(format!("TLS with {address}: {error}"));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string());
    let name = name.map_err(|error| failed(error.to_string()))?;
    stream.send_all(SSL_REQUEST_PACKET.to_vec()).await.0?;
    let (result, answer) = stream.recv(Vec::with_capacity(1)).await;
    result?;
    if answer != b"S" {
        return Err(failed("the acceptor has none".to_string()));
    }
    let connection = ClientConnection::new(trusted.clone(), name);
    let connection = connection.map_err(|error| failed(error.to_string()))?;
    stream.encrypt(connection, &[]).await.map_err(|error| failed(error.to_string()))?;
    Ok(stream)
}
