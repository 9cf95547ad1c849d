//! `gridseal encode`: the JSON that `gridseal decode` prints, back to bytes.

pub mod mbus;
pub mod sml;

use std::process::ExitCode;

use anyhow::Result;

/// What is encoded.
#[derive(Debug, clap::Subcommand)]
pub enum Encode {
    /// Telegrams of M-Bus, wireless and wired.
    Mbus(mbus::Arguments),
    /// Files of SML.
    Sml(sml::Arguments),
}

/// Runs one of them. 0 when every object was encoded, else 2.
pub fn run(encode: &Encode) -> Result<ExitCode> {
    match encode {
        Encode::Mbus(arguments) => mbus::run(arguments),
        Encode::Sml(arguments) => sml::run(arguments),
    }
}
