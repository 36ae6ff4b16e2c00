//! How requests are checked and refused: tokens, malformed bodies, and the one shape of errors, `{"msg": ...}`.

use std::fmt::Display;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use firn_core::api::ErrorBody;
use firn_core::types::{TenantId, TimelineId, TimelineKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::auth::Grant;
use crate::control::server::ControlState;
use crate::shard::request::ManagementError;

/// A refusal: a status and one line.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// A refusal with any status.
    pub fn new(status: StatusCode, message: impl Display) -> Refusal {
        Refusal { status, message: message.to_string() }
    }
}

impl From<ManagementError> for Refusal {
    fn from(error: ManagementError) -> Refusal {
        let status = match &error {
            ManagementError::NotFound(_) => StatusCode::NOT_FOUND,
            ManagementError::Invalid(_) => StatusCode::BAD_REQUEST,
            ManagementError::Forbidden(_) => StatusCode::FORBIDDEN,
            ManagementError::Conflict(_) => StatusCode::CONFLICT,
            ManagementError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::new(status, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { msg: self.message })).into_response()
    }
}

/// What the request's token grants; extracting it is the check that there is a valid one.
#[derive(Debug, Clone, Copy)]
pub struct Authorized(pub Grant);

impl FromRequestParts<ControlState> for Authorized {
    type Rejection = Refusal;
    async fn from_request_parts(
        parts: &mut Parts,
        state: &ControlState,
    ) -> Result<Authorized, Refusal> {
        authorize(&parts.headers, state).map(Authorized)
    }
}

fn authorize(headers: &HeaderMap, state: &ControlState) -> Result<Grant, Refusal> {
    let credentials = state.credentials.current();
    let Some(keys) = &credentials.public_keys else { return Ok(Grant::Node) };
    let refuse = |message: String| Refusal::new(StatusCode::UNAUTHORIZED, message);
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| refuse("a bearer token is required".to_string()))?;
    let now_unix_s = u64::try_from((state.unix_time_us)() / 1_000_000).unwrap_or(0);
    keys.verify(token, now_unix_s).map_err(|error| refuse(error.to_string()))
}

/// A grant for everything that the node holds.
#[derive(Debug, Clone, Copy)]
pub struct NodeAuthorized;

impl FromRequestParts<ControlState> for NodeAuthorized {
    type Rejection = Refusal;
    async fn from_request_parts(
        parts: &mut Parts,
        state: &ControlState,
    ) -> Result<NodeAuthorized, Refusal> {
        let grant = authorize(&parts.headers, state)?;
        let forbidden = |error| Refusal::new(StatusCode::FORBIDDEN, error);
        grant.check_node().map(|()| NodeAuthorized).map_err(forbidden)
    }
}

#[derive(Deserialize)]
struct TimelinePath {
    tenant_id: TenantId,
    timeline_id: TimelineId,
}

/// The timeline of the path, which the request's token allows to touch.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizedTimeline(pub TimelineKey);

impl FromRequestParts<ControlState> for AuthorizedTimeline {
    type Rejection = Refusal;
    async fn from_request_parts(
        parts: &mut Parts,
        state: &ControlState,
    ) -> Result<AuthorizedTimeline, Refusal> {
        let grant = authorize(&parts.headers, state)?;
        let path = axum::extract::Path::<TimelinePath>::from_request_parts(parts, state).await;
        let TimelinePath { tenant_id, timeline_id } =
            path.map_err(|error: PathRejection| Refusal::new(error.status(), error.body_text()))?.0;
        check_tenant(grant, tenant_id)?;
        Ok(AuthorizedTimeline(TimelineKey { tenant_id, timeline_id }))
    }
}

/// Refuses a grant for another tenant.
pub fn check_tenant(grant: Grant, tenant_id: TenantId) -> Result<(), Refusal> {
    grant.check_tenant(tenant_id).map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error))
}

/// A JSON body, whatever its content type says.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ControlState> for Body<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &ControlState) -> Result<Body<T>, Refusal> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| Refusal::new(error.status(), error.body_text()))?;
        let parsed = Json::<T>::from_bytes(&bytes).map_err(|error: JsonRejection| {
            Refusal::new(StatusCode::BAD_REQUEST, error.body_text())
        });
        parsed.map(|Json(value)| Body(value))
    }
}
