//! A node's HTTP API, from the outside. The bodies are those of [`firn_core::api`].

use std::time::Duration;

use anyhow::{Context, Result};
use firn_core::api::{
    CreateTimeline, Deleted, ErrorBody, Fenced, MembershipSwitched, NodeStatus, TermBump,
    TermBumped, TimelineStatus,
};
use firn_core::consensus::membership::Membership;
use firn_core::types::TimelineKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

/// How long one request may take. A fence waits for acceptors, and a segment has up to 1 GiB.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may take; a node that is down must not hold up a command that asks three.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Largest answer that is taken: the largest WAL segment, and a little.
const ANSWER_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

/// One node's HTTP API.
#[derive(Debug, Clone)]
pub struct NodeClient {
    base: String,
    token: Option<String>,
    agent: Agent,
}

/// A node answered, and not as it was asked to.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    text: String,
}

impl NodeClient {
    /// The node at `address`: a URL, or `host:port`.
    pub fn new(address: &str, token: Option<&str>) -> NodeClient {
        let with_scheme =
            if address.contains("://") { address.to_string() } else { format!("http://{address}") };
        let config = Agent::config_builder()
            .timeout_global(Some(REQUEST_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .http_status_as_error(false)
            .build();
        NodeClient {
            base: with_scheme.trim_end_matches('/').to_string(),
            token: token.map(str::to_string),
            agent: config.new_agent(),
        }
    }

    /// Its address, for messages.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// The host in its address.
    pub fn host(&self) -> &str {
        let authority = self.base.split("://").nth(1).unwrap_or(&self.base);
        let authority = authority.split('/').next().unwrap_or(authority);
        authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']'])
    }

    /// Who it is.
    pub fn status(&self) -> Result<NodeStatus> {
        self.get("/v1/status")
    }

    /// The timelines it holds.
    pub fn timelines(&self) -> Result<Vec<TimelineKey>> {
        self.get("/v1/tenant/timeline")
    }

    /// What it knows of a timeline.
    pub fn timeline(&self, key: TimelineKey) -> Result<TimelineStatus> {
        self.get(&timeline_path(key))
    }

    /// Creates a timeline.
    pub fn create(&self, create: &CreateTimeline) -> Result<()> {
        self.send("POST", "/v1/tenant/timeline", create)
    }

    /// Deletes a timeline.
    pub fn delete(&self, key: TimelineKey) -> Result<Deleted> {
        let path = timeline_path(key);
        let answer = self.request("DELETE", &path, None::<&()>)?;
        self.body(&path, answer)
    }

    /// Switches a timeline's membership.
    pub fn switch_membership(
        &self,
        key: TimelineKey,
        membership: &Membership,
    ) -> Result<MembershipSwitched> {
        self.send("PUT", &format!("{}/membership", timeline_path(key)), membership)
    }

    /// Removes a timeline from a node that is not in `membership`.
    pub fn exclude(&self, key: TimelineKey, membership: &Membership) -> Result<Deleted> {
        self.send("PUT", &format!("{}/exclude", timeline_path(key)), membership)
    }

    /// Raises the acceptor's term.
    pub fn bump_term(&self, key: TimelineKey, bump: TermBump) -> Result<TermBumped> {
        self.send("POST", &format!("{}/term_bump", timeline_path(key)), &bump)
    }

    /// Has the node fence a timeline.
    pub fn fence(&self, key: TimelineKey) -> Result<Fenced> {
        self.send("POST", &format!("{}/fence", timeline_path(key)), &())
    }

    /// Has the node take what it has of a timeline for all there was.
    pub fn accept_loss(&self, key: TimelineKey) -> Result<TimelineStatus> {
        self.send("POST", &format!("{}/accept_loss", timeline_path(key)), &())
    }

    /// Its metrics, as OpenMetrics text.
    pub fn metrics(&self) -> Result<String> {
        let mut answer = self.request("GET", "/metrics", None::<&()>)?;
        self.check("/metrics", &mut answer)?;
        answer.body_mut().read_to_string().context("the answer broke off")
    }

    /// A WAL segment or history file; none when the node has nothing of it.
    pub fn wal_file(&self, key: TimelineKey, name: &str) -> Result<Option<Vec<u8>>> {
        let path = format!("{}/wal/{name}", timeline_path(key));
        let mut answer = self.request("GET", &path, None::<&()>)?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.check(&path, &mut answer)?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok(Some(body.with_context(|| format!("{}: {name} broke off", self.base))?))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.request("GET", path, None::<&()>)?;
        self.body(path, answer)
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let answer = self.request(method, path, Some(body))?;
        self.body(path, answer)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<ureq::Body>> {
        let mut request =
            ureq::http::Request::builder().method(method).uri(self.base.clone() + path);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let wrong = || format!("node {:?}: expected HOST:PORT or http://HOST:PORT", self.base);
        let answer = match body {
            None => self.agent.run(request.body(()).with_context(wrong)?),
            Some(body) => {
                let text = serde_json::to_string(body).context("cannot write the request")?;
                let request = request.header("content-type", "application/json").body(text);
                self.agent.run(request.with_context(wrong)?)
            }
        };
        answer.with_context(|| format!("node {} does not answer", self.base))
    }

    fn check(&self, path: &str, answer: &mut Response<ureq::Body>) -> Result<()> {
        if answer.status().is_success() {
            return Ok(());
        }
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let message = serde_json::from_str::<ErrorBody>(&text).map_or(text, |error| error.msg);
        let text = format!("node {}: {path}: {}: {}", self.base, answer.status(), message.trim());
        Err(Refusal { status: answer.status().as_u16(), text }.into())
    }

    fn body<T: DeserializeOwned>(&self, path: &str, mut answer: Response<ureq::Body>) -> Result<T> {
        self.check(path, &mut answer)?;
        let text = answer.body_mut().read_to_string();
        let text =
            text.with_context(|| format!("node {}: {path}: the answer broke off", self.base))?;
        serde_json::from_str(&text)
            .with_context(|| format!("node {}: {path}: not the expected answer: {text}", self.base))
    }
}

fn timeline_path(key: TimelineKey) -> String {
    format!("/v1/tenant/{}/timeline/{}", key.tenant_id, key.timeline_id)
}
