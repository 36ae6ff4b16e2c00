//! Which Postgres versions a test runs against.

use anyhow::{Context, Result};
use firn_tools::local::postgres_install::PostgresInstall;

/// The versions that `./test postgres --versions` named (all of them without it), each found or an error that says how
/// to install it.
pub fn postgres_versions() -> Result<Vec<PostgresInstall>> {
    let named =
        std::env::var("FIRN_POSTGRES_VERSIONS").unwrap_or_else(|_| "15,16,17,18".to_string());
    let majors = named.split(',').map(|major| {
        let major =
            major.trim().parse().with_context(|| format!("no Postgres version: {major:?}"))?;
        PostgresInstall::find(Some(major))
    });
    majors.collect()
}

/// One version, for tests that need no more: the first of those named.
pub fn postgres_version() -> Result<PostgresInstall> {
    postgres_versions()?.into_iter().next().context("no Postgres version was named")
}
