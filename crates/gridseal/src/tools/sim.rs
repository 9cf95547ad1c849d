//! `gridseal sim`: the simulations, from the command line.

mod evidence;
mod group;
mod keys;
mod life;
mod stop;
pub mod weak_meter;

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
    /// Key service, meters and network under thousands of seeds: kills, old databases, fail-over, split brain, lost answers.
    #[command(after_help = "Examples:\n  gridseal sim keys --schedules 10000 --seed 1 --json\n  \
        gridseal sim keys --schedules 1 --seed 77 --evidence DIR      one schedule again, with all that happened\n  \
        gridseal sim keys --schedules 20000 --break lease             a planted fault, which must be found\n\n\
        Exit codes: 0 no rule was broken, 1 one was, 2 wrong arguments, 130 stopped before its end; a report comes with all but 2.")]
    Keys(keys::Arguments),
    /// A DLMS meter that is weak where it is told to be: what `gridseal dlms probe` finds.
    #[command(
        after_help = "Prints `listening ADDR` when it is ready; serves until it is stopped. Never on a network that \
        matters.\n\nExamples:\n  gridseal sim weak-meter --listen 127.0.0.1:4059 --lab lab.toml --weakness \
        tag-unchecked\n  gridseal sim weak-meter --listen 127.0.0.1:4059 --lab lab.toml --all\n\n\
        Exit codes: 0 stopped, 1 failed, 2 wrong arguments or lab file."
    )]
    WeakMeter(weak_meter::Arguments),
    /// The whole lives of meters: found, attested, re-keyed, suspended, stolen, sold, decommissioned, over decades and owners.
    #[command(
        after_help = "Examples:\n  gridseal sim life --meters 10000 --years 20 --owners 3 --seed 1 --json\n  \
        gridseal sim life --meters 10000 --part 3 --evidence DIR      one part again, with all that happened\n  \
        gridseal sim life --meters 12 --break clock-2038              a planted fault, which must be found\n\n\
        Exit codes: 0 no rule was broken, 1 one was, 2 wrong arguments, 130 stopped before its end; a report comes with all but 2."
    )]
    Life(life::Arguments),
}

/// Runs it.
pub fn run(sim: &Sim) -> Result<ExitCode> {
    match sim {
        Sim::Group(arguments) => group::run(arguments),
        Sim::Keys(arguments) => keys::run(arguments),
        Sim::WeakMeter(arguments) => weak_meter::run(arguments),
        Sim::Life(arguments) => life::run(arguments),
    }
}
