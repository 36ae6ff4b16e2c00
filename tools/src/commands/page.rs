//! `firn page`.

mod base;
mod decoded;
mod log;
mod replay;

use anyhow::Result;
use clap::Subcommand;

/// Pages.
#[derive(Debug, Subcommand)]
pub enum PageCommand {
    /// Replay one page's records onto it: the page as it was at any LSN, and the records that made it so.
    Replay(replay::ReplayArguments),
}

impl PageCommand {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            PageCommand::Replay(arguments) => arguments.run(),
        }
    }
}
