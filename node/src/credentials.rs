//! What a node shows and what it trusts, read from files at its start and again whenever it is told to.
//!
//! Invariant: what is used was loaded whole. A reload replaces everything or nothing; connections keep what they began
//! with. All threads share it: a lock is taken once for each new connection and request, never on the data path.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;

use crate::auth::{AuthError, PublicKeys};
use crate::tls::{self, CertificateError};

/// Where credentials are read from; what is absent is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Ed25519 public key, or a directory of them: tokens are required.
    pub public_keys: Option<PathBuf>,
    /// The node's certificate and its key: the Postgres port offers TLS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Authorities of other nodes' certificates: this node speaks TLS to them.
    pub authorities: Option<PathBuf>,
}

/// Why credentials cannot be used. Each is one line.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// Public keys.
    #[error(transparent)]
    PublicKeys(#[from] AuthError),
    /// Certificates or their key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Credentials of one moment.
#[derive(Default)]
pub struct Loaded {
    /// Keys of valid tokens; absent = everyone may do everything.
    pub public_keys: Option<PublicKeys>,
    /// What the Postgres port shows; absent = it has no TLS.
    pub server: Option<Arc<ServerConfig>>,
    /// What is trusted of other nodes; absent = they are spoken to in clear.
    pub client: Option<Arc<ClientConfig>>,
}

/// A node's credentials. Shared by all its threads for its life.
#[derive(Default)]
pub struct Credentials {
    files: CredentialFiles,
    current: RwLock<Arc<Loaded>>,
}

impl Loaded {
    /// Reads all files, or says which one is wrong.
    pub fn load(files: &CredentialFiles) -> Result<Loaded, CredentialError> {
        let public_keys = files.public_keys.as_deref().map(PublicKeys::load).transpose()?;
        let certificate = files.certificate.as_ref();
        let server = certificate.map(|(certificate, key)| tls::server(certificate, key));
        let client = files.authorities.as_deref().map(tls::client);
        Ok(Loaded { public_keys, server: server.transpose()?, client: client.transpose()? })
    }
}

impl Credentials {
    /// Reads all files.
    pub fn load(files: CredentialFiles) -> Result<Credentials, CredentialError> {
        let current = RwLock::new(Arc::new(Loaded::load(&files)?));
        Ok(Credentials { files, current })
    }

    /// What is in use now.
    pub fn current(&self) -> Arc<Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads all files again. After an error everything is used as before.
    pub fn reload(&self) -> Result<(), CredentialError> {
        let loaded = Arc::new(Loaded::load(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }
}
