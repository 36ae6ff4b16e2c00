//! `firn`: the command line for people and scripts.

use std::process::ExitCode;

use clap::Parser;
use firn_tools::commands::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
