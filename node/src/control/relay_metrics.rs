//! A relay's HTTP port: `/metrics`, which asks the relay's one shard.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;

use crate::control::metrics::exposition;
use crate::control::respond::Refusal;
use crate::runtime::{MailboxSender, OneshotSender, oneshot};
use crate::shard::metrics::ShardFigures;

/// Scrapes that wait for an answer; each takes microseconds, so that more are no scraper's.
pub const SCRAPES_MAX: usize = 16;

/// The way to the relay.
type Scrapes = MailboxSender<OneshotSender<ShardFigures>>;

/// All routes of a relay.
pub fn router(scrapes: Scrapes) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(scrapes)
}

async fn scrape(State(scrapes): State<Scrapes>) -> Result<Response, Refusal> {
    let (sender, answer) = oneshot();
    let gone = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the relay has ended");
    scrapes.send(sender).await.map_err(gone)?;
    Ok(exposition("firn_relay", vec![answer.await.map_err(gone)?]))
}
