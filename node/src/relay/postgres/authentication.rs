//! Proving who we are to Postgres: clear text, MD5, SCRAM-SHA-256 with and without channel binding
//! (PostgreSQL documentation, "SASL Authentication" and "Message Formats").
//!
//! A state machine without I/O: each authentication request goes in, what to send comes out.

use firn_core::wire::postgres::message::Encode;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as SaslBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use thiserror::Error;

use super::conninfo::ChannelBinding;

/// Why we could not, or would not, prove who we are.
#[derive(Debug, Error)]
pub enum AuthenticationError {
    /// The server asks for a password and none was given.
    #[error(
        "the server wants a password for user {user:?} and none was given (connection string, PGPASSWORD or a password file)"
    )]
    NoPassword {
        /// Role.
        user: String,
    },
    /// A method that this client does not speak (GSSAPI, SSPI, Kerberos).
    #[error(
        "the server wants authentication method {method}, which the relay does not speak; use scram-sha-256"
    )]
    UnsupportedMethod {
        /// The code in the request.
        method: u32,
    },
    /// The server offers no SASL mechanism that we know.
    #[error("the server offers SASL mechanisms {offered:?}, expected SCRAM-SHA-256")]
    UnsupportedMechanism {
        /// What it offers.
        offered: Vec<String>,
    },
    /// `channel_binding=require` and the server did not bind.
    #[error("channel_binding=require, but the server authenticates without it")]
    NoChannelBinding,
    /// The exchange broke the rules: perhaps this is not the server that knows our password.
    #[error("SCRAM exchange with the server failed: {0}")]
    Scram(std::io::Error),
    /// A request that is not formed as its code says, or out of order.
    #[error("malformed or unexpected authentication request {method}")]
    Malformed {
        /// The code in the request.
        method: u32,
    },
}

/// What the connection gives to bind SCRAM to.
pub enum BindingData {
    /// No TLS.
    NoTls,
    /// TLS, but its certificate has no hash to bind to.
    Unavailable,
    /// Hash of the server's certificate (RFC 5929 tls-server-end-point).
    ServerEndPoint(Vec<u8>),
}

/// One authentication exchange.
pub struct Authentication {
    user: String,
    password: Option<String>,
    channel_binding: ChannelBinding,
    binding_data: BindingData,
    scram: Option<ScramSha256>,
    bound: bool,
    scram_finished: bool,
}

/// What to do after a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, which may be none, and await the next message.
    Send(Vec<u8>),
    /// The server accepted us.
    Done,
}

impl Authentication {
    /// An exchange for `user`.
    pub fn new(
        user: &str,
        password: Option<String>,
        channel_binding: ChannelBinding,
        binding_data: BindingData,
    ) -> Authentication {
        Authentication {
            user: user.to_string(),
            password,
            channel_binding,
            binding_data,
            scram: None,
            bound: false,
            scram_finished: false,
        }
    }

    /// Answers the payload of one authentication request (message `R`).
    pub fn answer(&mut self, payload: &[u8]) -> Result<Step, AuthenticationError> {
        let Some((code, data)) = payload.split_first_chunk::<4>() else {
            return Err(AuthenticationError::Malformed { method: u32::MAX });
        };
        let method = u32::from_be_bytes(*code);
        let malformed = || AuthenticationError::Malformed { method };
        if self.channel_binding == ChannelBinding::Require && matches!(method, 3 | 5) {
            return Err(AuthenticationError::NoChannelBinding);
        }
        match method {
            0 => self.finish(),
            3 => Ok(Step::Send(password_message(self.password()?.as_bytes()))),
            5 => {
                let salt = *data.first_chunk::<4>().ok_or_else(malformed)?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                Ok(Step::Send(password_message(hash.as_bytes())))
            }
            10 => self.start_scram(data),
            11 => {
                let scram = self.scram.as_mut().ok_or_else(malformed)?;
                scram.update(data).map_err(AuthenticationError::Scram)?;
                let mut out = Vec::new();
                out.message(b'p', |out| out.extend_from_slice(scram.message()));
                Ok(Step::Send(out))
            }
            12 => {
                let scram = self.scram.as_mut().ok_or_else(malformed)?;
                scram.finish(data).map_err(AuthenticationError::Scram)?;
                self.scram_finished = true;
                Ok(Step::Send(Vec::new()))
            }
            _ => Err(AuthenticationError::UnsupportedMethod { method }),
        }
    }

    fn finish(&self) -> Result<Step, AuthenticationError> {
        if self.channel_binding == ChannelBinding::Require && !(self.bound && self.scram_finished) {
            return Err(AuthenticationError::NoChannelBinding);
        }
        // A server that skips its own proof may be someone else.
        if self.scram.is_some() && !self.scram_finished {
            return Err(AuthenticationError::Malformed { method: 0 });
        }
        Ok(Step::Done)
    }

    fn start_scram(&mut self, offer: &[u8]) -> Result<Step, AuthenticationError> {
        let offered: Vec<String> = offer
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let offers = |name: &str| offered.iter().any(|offer| offer == name);
        let wanted = self.channel_binding != ChannelBinding::Disable;
        let binding_data = std::mem::replace(&mut self.binding_data, BindingData::NoTls);
        let (mechanism, binding) = match binding_data {
            BindingData::ServerEndPoint(hash) if wanted && offers(SCRAM_SHA_256_PLUS) => {
                self.bound = true;
                (SCRAM_SHA_256_PLUS, SaslBinding::tls_server_end_point(hash))
            }
            // Tells the server that we could bind and it did not offer to: it notices a stripped offer.
            BindingData::ServerEndPoint(_) if wanted => (SCRAM_SHA_256, SaslBinding::unrequested()),
            _ => (SCRAM_SHA_256, SaslBinding::unsupported()),
        };
        if self.channel_binding == ChannelBinding::Require && !self.bound {
            return Err(AuthenticationError::NoChannelBinding);
        }
        if !offers(mechanism) {
            return Err(AuthenticationError::UnsupportedMechanism { offered });
        }
        let scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        let mut out = Vec::new();
        out.message(b'p', |out| {
            out.extend_from_slice(mechanism.as_bytes());
            out.push(0);
            out.extend_from_slice(&(scram.message().len() as u32).to_be_bytes());
            out.extend_from_slice(scram.message());
        });
        self.scram = Some(scram);
        Ok(Step::Send(out))
    }

    fn password(&self) -> Result<&str, AuthenticationError> {
        self.password
            .as_deref()
            .ok_or_else(|| AuthenticationError::NoPassword { user: self.user.clone() })
    }
}

fn password_message(password: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.message(b'p', |out| {
        out.extend_from_slice(password);
        out.push(0);
    });
    out
}

#[cfg(test)]
mod tests;
