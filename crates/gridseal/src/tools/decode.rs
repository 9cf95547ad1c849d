//! `gridseal decode`: what a hex string, a file or a token says. One JSON object for each, exit 2 when one fails.

mod dlms;
mod input;
pub mod mbus;
pub mod sml;
mod sts;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What to decode.
#[derive(Debug, Subcommand)]
pub enum Decode {
    /// Frames and APDUs of DLMS, in clear or protected, as an annotated tree.
    Dlms(dlms::Arguments),
    /// Telegrams of M-Bus, wireless and wired, in clear or protected.
    Mbus(mbus::Arguments),
    /// Files of SML, the language of electricity meters' optical heads.
    Sml(sml::Arguments),
    /// Prepayment tokens (STS), with the meter's decoder key.
    #[command(
        after_help = "Example:\n  gridseal decode sts --key 87f3ecbb2e46b48f --ea 07 70630503470028726114\n\n\
        Exit codes: 0 every token was read, 2 one was refused or the arguments are wrong."
    )]
    Sts(sts::Arguments),
}

/// Decodes.
pub fn run(decode: &Decode) -> Result<ExitCode> {
    match decode {
        Decode::Dlms(arguments) => dlms::run(arguments),
        Decode::Mbus(arguments) => mbus::run(arguments),
        Decode::Sml(arguments) => sml::run(arguments),
        Decode::Sts(arguments) => sts::run(arguments),
    }
}
