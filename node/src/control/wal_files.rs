//! WAL segments and `.history` files, as `restore_command` of any stock Postgres fetches them.

use std::io;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use firn_core::types::TimelineKey;
use futures_util::stream;
use serde::Deserialize;

use crate::control::respond::{AuthorizedTimeline, Refusal};
use crate::control::server::ControlState;
use crate::shard::request::{ManagementError, Request, WAL_READ_BYTES_MAX, WalFilePiece};

#[derive(Deserialize)]
pub(super) struct FilePath {
    file: String,
}

/// Streams a file piece by piece: a segment of 1 GiB takes one piece of memory. The first piece decides whether there
/// is such a file; a later failure cuts the answer off, which the client sees as an incomplete body.
pub(super) async fn download(
    AuthorizedTimeline(key): AuthorizedTimeline,
    State(state): State<ControlState>,
    Path(FilePath { file }): Path<FilePath>,
) -> Result<Response, Refusal> {
    let first = piece(&state, key, &file, 0).await?;
    let position = Some((state, file, first.len() as u64, Some(first)));
    let pieces = stream::try_unfold(position, move |position| async move {
        let Some((state, file, sent_bytes, ready)) = position else { return Ok(None) };
        if let Some(first) = ready {
            let whole = first.len() == WAL_READ_BYTES_MAX;
            let next = whole.then_some((state, file, sent_bytes, None));
            return Ok(Some((Bytes::from(first), next)));
        }
        let bytes = piece(&state, key, &file, sent_bytes).await.map_err(io::Error::other)?;
        let whole = bytes.len() == WAL_READ_BYTES_MAX;
        let sent_bytes = sent_bytes + bytes.len() as u64;
        Ok::<_, io::Error>(Some((
            Bytes::from(bytes),
            whole.then_some((state, file, sent_bytes, None)),
        )))
    });
    let content_type = [(CONTENT_TYPE, "application/octet-stream")];
    Ok((content_type, Body::from_stream(pieces)).into_response())
}

async fn piece(
    state: &ControlState,
    key: TimelineKey,
    file: &str,
    offset_bytes: u64,
) -> Result<Vec<u8>, ManagementError> {
    let piece = WalFilePiece { name: file.to_string(), offset_bytes };
    state.node.ask(key.tenant_id, |reply| Request::ReadWalFile(key, piece, reply)).await
}
