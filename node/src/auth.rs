//! Who may do what: Ed25519 tokens (JWT, EdDSA only) as passwords on the Postgres port and as bearer tokens over HTTP.
//!
//! Invariant: a token grants at most what its scope says, and a scope that is not known grants nothing. Without
//! configured keys everyone may do everything, which is why such a node listens on loopback only (`config`).

use std::path::{Path, PathBuf};

use firn_core::types::TenantId;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use thiserror::Error;

use crate::small_file;

/// Most public keys in a directory: rotation needs two or three.
const KEYS_MAX: usize = 64;

/// Longest token: claims of a few hundred bytes; keeps hostile passwords small.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why keys could not be loaded, or a token grants nothing.
#[derive(Debug, Error)]
pub enum AuthError {
    /// A file or directory of keys cannot be read.
    #[error("cannot read public key {path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not an Ed25519 public key.
    #[error("{path} is not an Ed25519 public key in PEM form")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// A directory without keys, or with too many.
    #[error("{path} holds {found} public keys: expected 1 to {KEYS_MAX}")]
    KeyCount {
        /// The directory.
        path: PathBuf,
        /// Files in it.
        found: usize,
    },
    /// No configured key verifies the token, or it is malformed.
    #[error("token is not signed by a configured key")]
    Signature,
    /// The token's time is over.
    #[error("token expired at {expired_at_unix_s}")]
    Expired {
        /// When, in seconds since 1970.
        expired_at_unix_s: u64,
    },
    /// The scope grants nothing on an acceptor.
    #[error("token scope {scope:?} grants nothing here: expected tenant or safekeeperdata")]
    Scope {
        /// The scope.
        scope: String,
    },
    /// A tenant token without a tenant.
    #[error("token of scope tenant names no tenant")]
    NoTenant,
    /// A tenant token used for another tenant.
    #[error("token is for tenant {granted}, not for {wanted}")]
    OtherTenant {
        /// The token's tenant.
        granted: TenantId,
        /// The tenant that was asked for.
        wanted: TenantId,
    },
    /// A tenant token used for what concerns the whole node.
    #[error("token is for tenant {granted}: this needs scope safekeeperdata")]
    NodeScope {
        /// The token's tenant.
        granted: TenantId,
    },
}

/// What a verified token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Everything: scope `safekeeperdata`, or a node without configured keys.
    Node,
    /// One tenant's timelines.
    Tenant(TenantId),
}

impl Grant {
    /// Whether this tenant's data may be read and written.
    pub fn check_tenant(self, wanted: TenantId) -> Result<(), AuthError> {
        match self {
            Grant::Tenant(granted) if granted != wanted => {
                Err(AuthError::OtherTenant { granted, wanted })
            }
            _ => Ok(()),
        }
    }

    /// Whether what concerns all tenants may be done.
    pub fn check_node(self) -> Result<(), AuthError> {
        match self {
            Grant::Tenant(granted) => Err(AuthError::NodeScope { granted }),
            Grant::Node => Ok(()),
        }
    }
}

/// The configured public keys; a token is valid if any of them verifies it.
pub struct PublicKeys {
    keys: Vec<DecodingKey>,
}

#[derive(Deserialize)]
struct Claims {
    scope: String,
    tenant_id: Option<TenantId>,
    exp: Option<u64>,
}

impl PublicKeys {
    /// Reads one PEM file, or all files of a directory.
    pub fn load(path: &Path) -> Result<PublicKeys, AuthError> {
        let read_error = |path: &Path, source| AuthError::Read { path: path.into(), source };
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(|error| read_error(path, error))? {
                files.push(entry.map_err(|error| read_error(path, error))?.path());
            }
            files.retain(|file| file.is_file());
        } else {
            files.push(path.to_path_buf());
        }
        if !(1..=KEYS_MAX).contains(&files.len()) {
            return Err(AuthError::KeyCount { path: path.into(), found: files.len() });
        }
        let mut keys = Vec::new();
        for file in files {
            let pem = small_file::read(&file).map_err(|error| read_error(&file, error))?;
            let key = DecodingKey::from_ed_pem(&pem);
            keys.push(key.map_err(|_| AuthError::NotAKey { path: file })?);
        }
        Ok(PublicKeys { keys })
    }

    /// What a token grants at `now_unix_s` (seconds since 1970).
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Grant, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Signature);
        }
        // The clock is the runtime's, and `exp` is optional: time is checked here, not by the library.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = self
            .keys
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok())
            .ok_or(AuthError::Signature)?
            .claims;
        match claims.exp {
            Some(expired_at_unix_s) if expired_at_unix_s <= now_unix_s => {
                return Err(AuthError::Expired { expired_at_unix_s });
            }
            _ => {}
        }
        match claims.scope.as_str() {
            "safekeeperdata" => Ok(Grant::Node),
            "tenant" => claims.tenant_id.map(Grant::Tenant).ok_or(AuthError::NoTenant),
            _ => Err(AuthError::Scope { scope: claims.scope }),
        }
    }
}

#[cfg(test)]
mod tests;
