//! `gridseal sim`: the simulations, from the command line.

mod group;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Which simulation.
#[derive(Debug, Subcommand)]
pub enum Sim {
    /// One eviction in a group of any size: every member and every evicted one is really tried.
    #[command(
        after_help = "Example:\n  gridseal sim group --members 1048576 --evict 1000 --pattern random --seed 1 --json\n\n\
        Exit codes: 0 all remaining members have the key and no evicted one, 1 a rule is broken, 2 wrong arguments."
    )]
    Group(group::Arguments),
}

/// Runs it.
pub fn run(sim: &Sim) -> Result<ExitCode> {
    match sim {
        Sim::Group(arguments) => group::run(arguments),
    }
}
