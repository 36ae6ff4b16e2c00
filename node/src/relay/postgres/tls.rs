//! TLS towards Postgres: which certificates are accepted, and what SCRAM binds to.
//!
//! The bytes are the runtime's business ([`crate::runtime::Stream::encrypt`]).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use thiserror::Error;

use super::authentication::BindingData;
use super::conninfo::{Conninfo, SslMode};
use crate::tls::{certificates, private_key};

/// Why no TLS connection could be prepared.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A certificate or key file.
    #[error(transparent)]
    Certificate(#[from] crate::tls::CertificateError),
    /// Verification was asked for and there is nothing to verify against.
    #[error(
        "sslmode={0} needs root certificates: set sslrootcert or create ~/.postgresql/root.crt"
    )]
    NoRoots(&'static str),
    /// A host name that no certificate can name.
    #[error("host {0:?} cannot be the name in a certificate")]
    Name(String),
    /// Anything that rustls refuses.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A client's side of TLS for one server, before the first byte.
pub fn client_connection(conninfo: &Conninfo, host: &str) -> Result<ClientConnection, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(conninfo, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &conninfo.ssl_client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
        }
    };
    let name = ServerName::try_from(host.to_string()).map_err(|_| TlsError::Name(host.to_string()));
    // Without a check of the name, anything that can stand in the handshake will do.
    let name = match name {
        Err(_) if conninfo.ssl_mode < SslMode::VerifyFull => {
            ServerName::try_from("postgres.invalid").expect("a valid DNS name")
        }
        name => name?,
    };
    Ok(ClientConnection::new(Arc::new(config), name)?)
}

fn verifier(
    conninfo: &Conninfo,
    provider: &Arc<CryptoProvider>,
) -> Result<PostgresVerifier, TlsError> {
    // As libpq: `require` with a root certificate file checks like `verify-ca`.
    let roots = match (conninfo.ssl_mode, &conninfo.ssl_root_certificate) {
        (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => None,
        (SslMode::VerifyCa, None) => return Err(TlsError::NoRoots("verify-ca")),
        (SslMode::VerifyFull, None) => return Err(TlsError::NoRoots("verify-full")),
        (_, Some(path)) => Some((path, certificates(path)?)),
    };
    let Some((path, roots)) = roots else {
        return Ok(PostgresVerifier { provider: provider.clone(), chain: None });
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| crate::tls::CertificateError::File {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    let check_name = conninfo.ssl_mode == SslMode::VerifyFull;
    let chain = Some(ChainCheck { inner, roots, check_name });
    Ok(PostgresVerifier { provider: provider.clone(), chain })
}

/// Accepts certificates by libpq's modes. Signatures of the handshake are always checked, so that the peer holds the
/// key of the certificate that SCRAM binds to.
#[derive(Debug)]
struct PostgresVerifier {
    provider: Arc<CryptoProvider>,
    /// `None`: any certificate will do.
    chain: Option<ChainCheck>,
}

#[derive(Debug)]
struct ChainCheck {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl ServerCertVerifier for PostgresVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verified = chain.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        if chain.check_name {
            return verified;
        }
        match verified {
            // The name is checked last, so the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            // A self-signed certificate that the user names as a root; webpki wants an issuer above it.
            Err(_) if chain.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What SCRAM binds to on an established connection.
pub fn binding_data(certificate: Option<CertificateDer<'_>>) -> BindingData {
    match certificate.as_ref().and_then(|certificate| server_end_point(certificate)) {
        Some(hash) => BindingData::ServerEndPoint(hash),
        None => BindingData::Unavailable,
    }
}

/// RFC 5929 section 4.1: the certificate's hash by the hash function of its own signature, SHA-256 for MD5 and SHA-1.
/// `None` for signatures without exactly one hash function.
fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // Object identifiers, DER contents (RFC 8017, RFC 5758).
    const RSA_PREFIX: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2_PREFIX: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const ECDSA_SHA1: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let oid = signature_algorithm(certificate)?;
    let last = *oid.last()?;
    let sha_bits = if oid.len() == 9 && oid.starts_with(&RSA_PREFIX) {
        match last {
            4 | 5 | 11 => 256,
            12 => 384,
            13 => 512,
            _ => return None,
        }
    } else if oid.len() == 8 && oid.starts_with(&ECDSA_SHA2_PREFIX) {
        match last {
            2 => 256,
            3 => 384,
            4 => 512,
            _ => return None,
        }
    } else if oid == ECDSA_SHA1 {
        256
    } else {
        return None;
    };
    Some(match sha_bits {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// The object identifier of a certificate's signature algorithm (RFC 5280 section 4.1): the second element of the
/// outer sequence is a sequence that begins with it.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (outer, _) = der_element(certificate, SEQUENCE)?;
    let (_, after_body) = der_element(outer, SEQUENCE)?;
    let (algorithm, _) = der_element(after_body, SEQUENCE)?;
    der_element(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
}

/// Content of the DER element at the front of `bytes`, and what follows it.
fn der_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = bytes else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;
