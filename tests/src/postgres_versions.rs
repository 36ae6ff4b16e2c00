//! Which Postgres versions a test runs against.

use anyhow::{Context, Result};
use firn_tools::local::postgres_install::PostgresInstall;

/// The versions that `./test postgres --versions` named (all of them without it), each found or an error that says how
/// to install it. `17` is the newest minor release of 17 that is installed, `17.10` that one.
pub fn postgres_versions() -> Result<Vec<PostgresInstall>> {
    let named =
        std::env::var("FIRN_POSTGRES_VERSIONS").unwrap_or_else(|_| "15,16,17,18".to_string());
    named.split(',').map(|version| find(version.trim())).collect()
}

fn find(version: &str) -> Result<PostgresInstall> {
    let number =
        |text: &str| text.parse().with_context(|| format!("no Postgres version: {version:?}"));
    match version.split_once('.') {
        Some((major, minor)) => PostgresInstall::find_release(number(major)?, number(minor)?),
        None => PostgresInstall::find(Some(number(version)?)),
    }
}

/// The first and the last of those named, for what does not change from one version to the next.
pub fn outer_postgres_versions() -> Result<Vec<PostgresInstall>> {
    let mut versions = postgres_versions()?;
    if versions.len() > 2 {
        versions.drain(1..versions.len() - 1);
    }
    Ok(versions)
}

/// One version, for tests that need no more: the first of those named.
pub fn postgres_version() -> Result<PostgresInstall> {
    postgres_versions()?.into_iter().next().context("no Postgres version was named")
}
