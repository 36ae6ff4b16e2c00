//! The command line: one file per noun. Commands reach nodes over HTTP only.
//!
//! A command prints what it did on standard output, errors as one line on standard error. Exit codes: 0 done, 1 failed,
//! 2 not understood; `wal fetch` has its own.

mod journal;
pub mod nodes;
mod page;
pub mod postgres;
pub mod rebuild;
pub mod timeline;
mod timeline_members;
pub mod wal;
mod wal_dump;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::demo::DemoArguments;

/// Firn's command line: timelines, WAL, rebuilt Postgres servers.
#[derive(Debug, Parser)]
#[command(name = "firn", version)]
pub struct Cli {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Create, look at, fence, rebuild and delete timelines.
    #[command(subcommand)]
    Timeline(timeline::TimelineCommand),
    /// Read WAL out of nodes and files.
    #[command(subcommand)]
    Wal(wal::WalCommand),
    /// Rebuild single pages from a base backup and WAL.
    #[command(subcommand)]
    Page(page::PageCommand),
    /// Look into a stopped node's journals.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Run a Postgres server whose only durable copy is the quorum.
    #[command(subcommand)]
    Postgres(postgres::PostgresCommand),
    /// Show on this machine that no acknowledged commit is lost: a cluster, kills, a rebuild.
    Demo(DemoArguments),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        match self.noun {
            Noun::Timeline(command) => finish(command.run()),
            Noun::Wal(command) => command.run(),
            Noun::Page(command) => finish(command.run()),
            Noun::Journal(command) => finish(command.run()),
            Noun::Postgres(command) => finish(command.run()),
            Noun::Demo(arguments) => finish(arguments.run()),
        }
    }
}

/// Prints an error as one line with its causes.
fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("firn: {error:#}");
            ExitCode::FAILURE
        }
    }
}
