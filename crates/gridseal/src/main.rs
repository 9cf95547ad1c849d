//! `gridseal`: every process of Gridseal as a subcommand.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod demo;
mod files;
mod observe;
mod process;
mod setup;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gridseal: {error:#}");
            ExitCode::FAILURE
        }
    }
}
