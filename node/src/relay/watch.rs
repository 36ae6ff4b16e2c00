//! Looking after what decides whether the primary's commits wait for the quorum: settings, and other standbys.

use std::time::Duration;

use firn_core::relay::synchronous_names;

use super::postgres::connection::{Connection, ConnectionError};
use super::primary::PrimaryOptions;
use crate::runtime::Runtime;

/// Pause between two looks: settings are reloaded and standbys come while the relay streams.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Time for the primary to let an ordinary session in.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Warns of everything that lets commits return without the quorum, once for each change. `own_process_id` is the
/// server process that sends to this relay. Never ends.
pub async fn watch(
    runtime: &Runtime,
    options: &PrimaryOptions,
    own_process_id: Option<i32>,
) -> std::convert::Infallible {
    let mut told = Vec::new();
    loop {
        let found = match look(runtime, options, own_process_id).await {
            Ok(found) => found,
            Err(error) => {
                vec![format!("cannot check what commits wait for: postgres at {error}")]
            }
        };
        if found != told {
            found.iter().for_each(|warning| tracing::warn!("{warning}"));
            if found.is_empty() {
                tracing::info!("commits wait for the quorum");
            }
            told = found;
        }
        runtime.sleep(LOOK_AGAIN).await;
    }
}

/// What is weak now. Needs an ordinary session; names of others' standbys need pg_read_all_stats.
async fn look(
    runtime: &Runtime,
    options: &PrimaryOptions,
    own_process_id: Option<i32>,
) -> Result<Vec<String>, ConnectionError> {
    let mut conninfo = options.conninfo.clone();
    conninfo.connect_timeout = conninfo.connect_timeout.min(CONNECT_MAX);
    let database = conninfo.database.clone().unwrap_or_else(|| "postgres".to_string());
    let parameters = [("database", database.as_str()), ("application_name", "firn-relay-check")];
    let mut connection = Connection::open(runtime, &conninfo, &parameters).await?;
    let standby_names = connection.show("synchronous_standby_names").await?;
    let synchronous_commit = connection.show("synchronous_commit").await?;
    let own = own_process_id.map_or_else(|| "0".to_string(), |id| id.to_string());
    let rows = connection
        .query(&format!(
            "SELECT application_name FROM pg_catalog.pg_stat_replication \
             WHERE pid <> {own} AND state = 'streaming'"
        ))
        .await?;
    let others: Vec<String> =
        rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    let found = synchronous_names::check(
        &standby_names,
        &synchronous_commit,
        &options.application_name,
        &others,
    );
    Ok(match found {
        Ok(weaknesses) => weaknesses.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    })
}
