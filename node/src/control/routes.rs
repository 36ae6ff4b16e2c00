//! The paths of the HTTP API and what they do. Bodies are those of [`firn_core::api`].

use std::collections::BTreeMap;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use firn_core::api::{
    CreateTimeline, Deleted, Fenced, MembershipSwitched, NodeStatus, TermBump, TermBumped,
    TimelineStatus, Utilization,
};
use firn_core::consensus::membership::Membership;
use firn_core::types::{TenantId, TimelineId, TimelineKey};

use crate::control::metrics;
use crate::control::respond::{
    Authorized, AuthorizedTimeline, Body, NodeAuthorized, Refusal, check_tenant,
};
use crate::control::server::ControlState;
use crate::control::wal_files;
use crate::shard::request::Request;

/// Longest request body: the largest is a membership of 64 members with 255-byte host names.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// All routes of a node.
pub fn router(state: ControlState) -> Router {
    let timeline = "/v1/tenant/{tenant_id}/timeline/{timeline_id}";
    let of_timeline = |rest: &str| format!("{timeline}{rest}");
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/utilization", get(utilization))
        .route("/metrics", get(metrics::scrape))
        .route("/v1/tenant/timeline", post(create).get(list))
        .route("/v1/tenant/{tenant_id}", delete(delete_tenant))
        .route(timeline, get(timeline_status).delete(delete_timeline))
        .route(&of_timeline("/membership"), put(switch_membership))
        .route(&of_timeline("/exclude"), put(exclude))
        .route(&of_timeline("/term_bump"), post(bump_term))
        .route(&of_timeline("/fence"), post(fence))
        .route(&of_timeline("/accept_loss"), post(accept_loss))
        .route(&of_timeline("/wal/{file}"), get(wal_files::download))
        .fallback(|| async { (StatusCode::NOT_FOUND, "Not Found").into_response() })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed").into_response()
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

async fn status(State(state): State<ControlState>) -> Json<NodeStatus> {
    Json(NodeStatus {
        id: state.node.node_id(),
        pg_host: state.pg_host.clone(),
        pg_port: Some(state.pg_port),
    })
}

async fn utilization(
    _: NodeAuthorized,
    State(state): State<ControlState>,
) -> Result<Json<Utilization>, Refusal> {
    let lists = state.node.ask_all(Request::List).await?;
    Ok(Json(Utilization { timeline_count: lists.iter().map(|list| list.len() as u64).sum() }))
}

async fn create(
    Authorized(grant): Authorized,
    State(state): State<ControlState>,
    Body(body): Body<CreateTimeline>,
) -> Result<Json<()>, Refusal> {
    check_tenant(grant, body.key.tenant_id)?;
    let tenant_id = body.key.tenant_id;
    state.node.ask(tenant_id, |reply| Request::Create(body, reply)).await?;
    Ok(Json(()))
}

async fn list(
    _: NodeAuthorized,
    State(state): State<ControlState>,
) -> Result<Json<Vec<TimelineKey>>, Refusal> {
    let mut keys: Vec<TimelineKey> =
        state.node.ask_all(Request::List).await?.into_iter().flatten().collect();
    keys.sort();
    Ok(Json(keys))
}

async fn delete_tenant(
    Authorized(grant): Authorized,
    State(state): State<ControlState>,
    Path(tenant_id): Path<TenantId>,
) -> Result<Json<BTreeMap<TimelineId, Deleted>>, Refusal> {
    check_tenant(grant, tenant_id)?;
    Ok(Json(state.node.ask(tenant_id, |reply| Request::DeleteTenant(tenant_id, reply)).await?))
}

/// Asks the shard that owns a timeline.
macro_rules! ask {
    ($state:expr, $key:expr, $request:expr) => {
        Ok(Json($state.node.ask($key.tenant_id, $request).await?))
    };
}

async fn timeline_status(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
) -> Result<Json<TimelineStatus>, Refusal> {
    ask!(state, key, |reply| Request::Status(key, reply))
}

async fn delete_timeline(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
) -> Result<Json<Deleted>, Refusal> {
    ask!(state, key, |reply| Request::Delete(key, reply))
}

async fn switch_membership(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
    Body(membership): Body<Membership>,
) -> Result<Json<MembershipSwitched>, Refusal> {
    ask!(state, key, |reply| Request::SwitchMembership(key, membership, reply))
}

async fn exclude(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
    Body(membership): Body<Membership>,
) -> Result<Json<Deleted>, Refusal> {
    ask!(state, key, |reply| Request::Exclude(key, membership, reply))
}

async fn bump_term(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
    Body(bump): Body<TermBump>,
) -> Result<Json<TermBumped>, Refusal> {
    ask!(state, key, |reply| Request::BumpTerm(key, bump, reply))
}

async fn fence(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
) -> Result<Response, Refusal> {
    let fenced: Result<Json<Fenced>, Refusal> =
        ask!(state, key, |reply| Request::Fence(key, reply));
    Ok(fenced?.into_response())
}

async fn accept_loss(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
) -> Result<Json<TimelineStatus>, Refusal> {
    ask!(state, key, |reply| Request::AcceptLoss(key, reply))
}
